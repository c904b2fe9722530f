"""Make what training needs of a source, in the order in which it is needed: tokenizer, held-out text, rows.

What the cache has is left as it is, what was kept beside the runs is fetched, the rest is made and kept there. One
process of a machine makes a part at a time; others find it in the cache, shard by shard.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.contract.files import write_atomic
from trainer.contract.spec import TrainSpec
from trainer.data.errors import DataError
from trainer.data.files import Progress, locked, no_progress, sha256_text
from trainer.data.keep import Keep
from trainer.data.parts import Part
from trainer.data.shards import Book, Encoder, TokenShard, num_rows, shard_folder, token_dtype
from trainer.data.sources import Source
from trainer.data.tokenizer import Tokenizer, ensure_tokenizer, is_trained, tokenizer_path

OnPhase = Callable[[str, float], None]  # name, seconds
FETCH_NEXT_AT = 0.3  # of a part: the download of the next one then has time enough


def no_phase(name: str, seconds: float) -> None:
    """The default: say nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Rows of training data, and of held-out data from the first; None: all there are."""

    first_row: int = 0
    end_row: int | None = None
    val_rows: int | None = None


def num_train_parts(spec: TrainSpec, source: Source) -> int:
    return min(spec.data_shards or source.num_train_parts, source.num_train_parts)


class Maker:
    def __init__(
        self,
        spec: TrainSpec,
        source: Source,
        cache: Path,
        *,
        keep: Keep | None = None,
        progress: Progress = no_progress,
        on_phase: OnPhase = no_phase,
    ):
        self._spec, self._source, self._cache = spec, source, cache
        self._keep = keep or Keep(None)
        self._progress, self._on_phase = progress, on_phase

    def make(self, wanted: Wanted) -> None:
        """Raises DataError where the source cannot give it; less than what is wanted is no error here."""
        tokenizer = self._tokenizer()
        parts = (self._source.train_part(index) for index in range(num_train_parts(self._spec, self._source)))
        val = self._rows(tokenizer, [self._source.val_part()], 0, wanted.val_rows)
        train = self._rows(tokenizer, parts, wanted.first_row, wanted.end_row)
        for making in (val, train):  # a first shard of each: training begins with them
            next(making, None)
        for making in (val, train):
            for _ in making:
                pass
        self._keep.drain()

    def _tokenizer(self) -> Tokenizer:
        """Trained on the first part, unless the cache has it, or what is kept beside the runs."""
        first = self._source.train_part(0)
        spec = self._spec
        path = tokenizer_path(self._cache, first.fingerprint, spec.vocab_size, spec.tokenizer_chars)
        name = f"tokenizers/{path.name}"
        with locked(path.with_suffix(".fetch"), self._progress):
            if not is_trained(path) and (kept := self._keep.get_small(name)) is not None:
                _accept_tokenizer(kept, path, spec.vocab_size)
            if is_trained(path):
                return Tokenizer.load(path)
            first.fetch(self._progress)
            started = time.monotonic()
            _, tokenizer = ensure_tokenizer(
                first.documents(),
                first.fingerprint,
                spec.vocab_size,
                self._cache,
                self._progress,
                chars=spec.tokenizer_chars,
            )
            self._on_phase("tokenizer", time.monotonic() - started)
            self._keep.put(name, path)
            return tokenizer

    def _rows(
        self, tokenizer: Tokenizer, parts: Iterable[Part], first_row: int, end_row: int | None
    ) -> Iterator[TokenShard]:
        """The shards that hold the rows, as they are made. Of those before only what they held must be known."""
        row, capacity = 0, self._spec.sequence_len + 1
        if end_row is not None and first_row >= end_row:
            return
        upcoming = iter(parts)
        part, following = next(upcoming, None), next(upcoming, None)
        while part is not None:
            for shard in self._shards(part, tokenizer, skip_rows=first_row - row, following=following):
                row += num_rows(shard, capacity)
                if row > first_row:
                    yield shard
                if end_row is not None and row >= end_row:
                    return
            part, following = following, next(upcoming, None)

    def _shards(
        self, part: Part, tokenizer: Tokenizer, *, skip_rows: int, following: Part | None
    ) -> Iterator[TokenShard]:
        """All shards of a part, each once it is stated; the files are there of those that hold later rows."""
        folder = shard_folder(part.fingerprint, tokenizer.hash, self._spec.vocab_size, self._cache)
        kept = f"tokens/{folder.name}"
        with locked(folder, self._progress):
            folder.mkdir(parents=True, exist_ok=True)
            book = Book(folder)
            book.read()
            self._keep.get_book(kept, book)
            encoder: Encoder | None = None
            index = 0
            while True:
                end = sum(num_rows(shard, self._spec.sequence_len + 1) for shard in book.shards[: index + 1])
                if index < len(book.shards):
                    shard = book.shards[index]
                    if shard.is_here() or end <= skip_rows or self._keep.get_files(kept, shard, tokenizer.num_ids):
                        index += 1
                        yield shard
                        continue
                    book.forget(index)
                if book.is_whole:
                    return
                if encoder is None:
                    encoder = self._encoder(part, tokenizer, book)
                made = encoder.write(folder, index)
                if made is not None:
                    book.add(made)
                    self._keep.put_shard(kept, made, index)
                    self._tell(part, book, encoder)
                if encoder.is_done:
                    self._finish(part, book, kept)
                if following is not None and encoder.num_chars > FETCH_NEXT_AT * part.size_chars:
                    _fetch_ahead(following)
                    following = None

    def _encoder(self, part: Part, tokenizer: Tokenizer, book: Book) -> Encoder:
        part.fetch(self._progress)
        self._tell(part, book, None)
        return Encoder(part, tokenizer, token_dtype(self._spec.vocab_size), skip=book.shards)

    def _finish(self, part: Part, book: Book, kept: str) -> None:
        book.close()
        self._keep.put_manifest(kept, book.folder)
        part.discard()
        self._progress(f"tokenised {part.name}: {_millions(book)} tokens", 1.0)

    def _tell(self, part: Part, book: Book, encoder: Encoder | None) -> None:
        fraction = min(0.99, encoder.num_chars / part.size_chars) if encoder else 0.0
        self._progress(f"tokenising {part.name}: {_millions(book)} tokens", fraction)


def _millions(book: Book) -> str:
    return f"{sum(shard.num_tokens for shard in book.shards) / 1e6:.1f}M"


def _accept_tokenizer(content: bytes, path: Path, vocab_size: int) -> None:
    """Take over what somebody else made, where it is a tokenizer that fits."""
    text = content.decode("utf-8", errors="replace")
    if Tokenizer.fits(text, vocab_size):
        write_atomic(path, text)
        write_atomic(path.with_suffix(".sha256"), sha256_text(text))


def _fetch_ahead(part: Part) -> None:
    """Start the download. Its failure is not reported here: whoever needs the part fetches it again, and reports."""

    def fetch() -> None:
        with contextlib.suppress(DataError, OSError):
            part.fetch(no_progress)

    threading.Thread(target=fetch, daemon=True, name=f"fetch {part.name}").start()
