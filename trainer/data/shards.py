"""Token shards: text is tokenised once, piece by piece, into files that every later start maps into memory.

    <cache>/tokens/<key>/00000.tokens    uint16 (uint32 for vocabularies above 65536), documents one after the other
    <cache>/tokens/<key>/00000.offsets   int64 [num_documents + 1], where each document begins, in tokens
    <cache>/tokens/<key>/00000.json      sizes and sha256 of the two, written last: the shard can be used from then on
    <cache>/tokens/<key>/manifest.json   all of these, in the place of the single ones, once the part is done

The key is the text's fingerprint, the tokenizer's hash and FORMAT. A stated shard may lack its files: a later start
needs to know how much it held, and not what. Every document begins with BOS. Hashes are checked where a shard is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.contract.files import read_json, write_atomic
from trainer.data.files import sha256_file, sha256_text
from trainer.data.parts import Part
from trainer.data.tokenizer import Tokenizer

FORMAT = 2  # count up when the same text would give other files
SHARD_TOKENS = 2**22  # a file is closed at the first document end past this; training waits for one, at the start
BATCH_CHARS = 2_000_000  # text in flight while tokenising
MANIFEST = "manifest.json"
MAX_STATED_BYTES = 2**26  # of a manifest that is believed: more than any part has


@dataclass(frozen=True, kw_only=True)
class TokenShard:
    """One pair of files."""

    tokens_path: Path
    offsets_path: Path
    dtype: str
    num_tokens: int
    num_documents: int
    tokens_sha256: str
    offsets_sha256: str
    num_chars: int = 0

    def tokens(self) -> np.ndarray:
        """[num_tokens], mapped, not read."""
        return np.asarray(np.memmap(self.tokens_path, dtype=self.dtype, mode="r"))

    def offsets(self) -> np.ndarray:
        return np.fromfile(self.offsets_path, dtype="<i8")

    def files(self) -> tuple[tuple[Path, int, str], ...]:
        """(path, bytes, sha256) of each."""
        tokens = (self.tokens_path, self.num_tokens * np.dtype(self.dtype).itemsize, self.tokens_sha256)
        return tokens, (self.offsets_path, 8 * (self.num_documents + 1), self.offsets_sha256)

    def is_here(self) -> bool:
        """Both files, in their sizes. Looks, does not read."""
        return all(path.is_file() and path.stat().st_size == size for path, size, _ in self.files())

    def is_intact(self) -> bool:
        return self.is_here() and all(sha256_file(path) == sha256 for path, _, sha256 in self.files())

    def is_sound(self, num_ids: int) -> bool:
        """Whether files that somebody else made can be trained on: whole, documents in order, no id beyond the last."""
        if not self.is_intact():
            return False
        offsets = self.offsets()
        in_order = offsets[0] == 0 and offsets[-1] == self.num_tokens and bool((np.diff(offsets) > 0).all())
        return bool(in_order and int(self.tokens().max()) < num_ids)

    def remove(self) -> None:
        for path, _, _ in self.files():
            path.unlink(missing_ok=True)


def num_rows(shard: TokenShard, capacity: int) -> int:
    """Rows of so many tokens that a loader gives, known without packing."""
    return shard.num_tokens // capacity


def shard_folder(fingerprint: str, tokenizer_hash: str, vocab_size: int, cache: Path) -> Path:
    """Where the shards of this text lie, whether or not they are there yet."""
    how = f"{FORMAT} {SHARD_TOKENS} {token_dtype(vocab_size)} {tokenizer_hash} {fingerprint}"
    return cache / "tokens" / sha256_text(how)[:24]


def token_dtype(vocab_size: int) -> str:
    return "<u2" if vocab_size <= 2**16 else "<u4"


def stated_name(index: int) -> str:
    return f"{index:05d}.json"


@dataclass
class Book:
    """Which shards a folder has, as far as they are stated; `is_whole` when there will be no more."""

    folder: Path
    shards: list[TokenShard] = field(default_factory=list)
    is_whole: bool = False

    def read(self) -> bool:
        """Take over what was stated since; whether there was anything new."""
        before = len(self.shards), self.is_whole
        if self.is_whole:
            return False
        manifest = read_json(self.folder / MANIFEST)
        stated = read_manifest(self.folder, manifest) if manifest is not None else None
        if stated is not None:
            self.shards, self.is_whole = stated, True
        else:
            while (row := read_json(self.folder / stated_name(len(self.shards)))) is not None:
                shard = read_shard(self.folder, len(self.shards), row)
                if shard is None:
                    break
                self.shards.append(shard)
        return (len(self.shards), self.is_whole) != before

    def add(self, shard: TokenShard) -> None:
        write_atomic(self.folder / stated_name(len(self.shards)), json.dumps(_row(shard)))
        self.shards.append(shard)

    def close(self) -> None:
        """There are no more."""
        self.is_whole = True
        write_atomic(self.folder / MANIFEST, json.dumps({"shards": [_row(shard) for shard in self.shards]}))
        for index in range(len(self.shards)):
            (self.folder / stated_name(index)).unlink(missing_ok=True)

    def forget(self, index: int) -> None:
        """The shard and all after it, which are to be made anew."""
        for kept, shard in enumerate(self.shards[:index]):
            write_atomic(self.folder / stated_name(kept), json.dumps(_row(shard)))
        for path in (self.folder / MANIFEST, *(self.folder / stated_name(n) for n in range(index, len(self.shards)))):
            path.unlink(missing_ok=True)
        self.shards, self.is_whole = self.shards[:index], False


def read_manifest(folder: Path, manifest: dict[str, Any]) -> list[TokenShard] | None:
    """None: not as one is written."""
    rows = manifest.get("shards")
    if not isinstance(rows, list):
        return None
    shards = [shard for index, row in enumerate(rows) if (shard := read_shard(folder, index, row)) is not None]
    return shards if len(shards) == len(rows) else None


def read_shard(folder: Path, index: int, row: Any) -> TokenShard | None:
    """None: not as one is written. The names are ours, whatever was written."""
    numbers, texts = ("num_tokens", "num_documents", "num_chars"), ("dtype", "tokens_sha256", "offsets_sha256")
    if not isinstance(row, dict) or row.keys() < {*numbers, *texts}:
        return None
    sizes = [row[name] for name in numbers]
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**30 for size in sizes):
        return None
    if row["dtype"] not in ("<u2", "<u4") or not all(isinstance(row[name], str) for name in texts):
        return None
    tokens_path, offsets_path = folder / f"{index:05d}.tokens", folder / f"{index:05d}.offsets"
    kept = {name: row[name] for name in (*numbers, *texts)}
    return TokenShard(tokens_path=tokens_path, offsets_path=offsets_path, **kept)


def _row(shard: TokenShard) -> dict[str, Any]:
    return {key: value for key, value in asdict(shard).items() if not key.endswith("_path")}


class Encoder:
    """The rest of a part's documents as shards, one after the other."""

    def __init__(self, part: Part, tokenizer: Tokenizer, dtype: str, *, skip: Iterable[TokenShard]):
        """`skip` are the shards before the first."""
        done = tuple(skip)
        self._dtype, self._documents = dtype, part.documents()
        self.num_chars, self.is_done = sum(shard.num_chars for shard in done), False
        for _ in range(sum(shard.num_documents for shard in done)):
            next(self._documents, None)
        self._encoded = self._encode(tokenizer)

    def _encode(self, tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, int]]:
        for texts in _batches(self._documents):
            documents = tokenizer.encode_documents(texts, np.dtype(self._dtype))
            yield from zip(documents, map(len, texts), strict=True)

    def write(self, folder: Path, index: int) -> TokenShard | None:
        """Documents until the shard is full. None: there were none left."""
        tokens_path, offsets_path = folder / f"{index:05d}.tokens", folder / f"{index:05d}.offsets"
        building = tokens_path.with_suffix(".part")
        offsets, num_chars = [0], 0
        with building.open("wb") as file:
            for document, size in self._encoded:
                document.tofile(file)
                offsets.append(offsets[-1] + len(document))
                num_chars += size
                if offsets[-1] >= SHARD_TOKENS:
                    break
            else:
                self.is_done = True
            file.flush()
            os.fsync(file.fileno())
        if len(offsets) == 1:
            building.unlink()
            return None
        write_atomic(offsets_path, np.array(offsets, dtype="<i8").tobytes())
        building.replace(tokens_path)
        self.num_chars += num_chars
        return TokenShard(
            tokens_path=tokens_path,
            offsets_path=offsets_path,
            dtype=self._dtype,
            num_tokens=offsets[-1],
            num_documents=len(offsets) - 1,
            num_chars=num_chars,
            tokens_sha256=sha256_file(tokens_path),
            offsets_sha256=sha256_file(offsets_path),
        )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
