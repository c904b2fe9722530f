"""From a spec to data that is ready to train on: fetch, train the tokenizer, tokenise, and check that it is enough."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.contract.spec import TrainSpec
from trainer.data.errors import DataError
from trainer.data.files import Progress, no_progress, sha256_text
from trainer.data.loader import count_rows
from trainer.data.packing import PACKING_VERSION
from trainer.data.parts import Part
from trainer.data.shards import TokenShard, are_cached, ensure_shards
from trainer.data.sources import REMOTES, Source, open_source
from trainer.data.tokenizer import Tokenizer, ensure_tokenizer, is_trained, tokenizer_path

OnPhase = Callable[[str, float], None]  # name, seconds
Warn = Callable[[str, str], None]  # code, sentence
CHARS_PER_TOKEN = 4  # a guess, until the first part is tokenised


def no_phase(name: str, seconds: float) -> None:
    """The default: say nothing."""


def no_warning(code: str, message: str) -> None:
    """The default: say nothing."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Everything a loader needs. Token counts are what a loader of the spec's sequence length delivers as targets."""

    tokenizer_path: Path
    tokenizer_hash: str
    data_hash: str  # of the tokens, the tokenizer and the way rows are packed
    train: tuple[TokenShard, ...]
    val: tuple[TokenShard, ...]
    num_train_tokens: int
    num_val_tokens: int
    token_bytes: np.ndarray  # int32 [vocab_size]; 0 for special tokens
    bos_id: int

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_path)


def prepare(
    spec: TrainSpec,
    cache: Path,
    *,
    progress: Progress = no_progress,
    on_phase: OnPhase = no_phase,
    warn: Warn = no_warning,
) -> PreparedData:
    """Data for the whole horizon of `spec`. Raises DataError before any training where there is too little.

    `progress` may raise, to stop; what is done so far is kept. `on_phase` is told the seconds spent on "tokenizer"
    (training it) and on "data" (all else), `warn` of text that is left out.
    """
    started = time.monotonic()
    source = open_source(spec.data, cache)
    if remark := source.remark():
        warn("data_left_out", remark)
    first = source.train_part(0)
    if not is_trained(tokenizer_path(cache, first.fingerprint, spec.vocab_size, spec.tokenizer_chars)):
        first.fetch(progress)
    tokenizer_started = time.monotonic()
    path, tokenizer = ensure_tokenizer(
        first.documents(), first.fingerprint, spec.vocab_size, cache, progress, chars=spec.tokenizer_chars
    )
    tokenizer_s = time.monotonic() - tokenizer_started
    on_phase("tokenizer", tokenizer_s)

    val = ensure_shards(source.val_part(), tokenizer, spec.vocab_size, cache, progress)
    _check_held_out(spec, val)
    train = _train_shards(spec, source, tokenizer, cache, progress)
    on_phase("data", time.monotonic() - started - tokenizer_s)

    content = [str(PACKING_VERSION), tokenizer.hash, *(f"{s.tokens_sha256} {s.offsets_sha256}" for s in (*train, *val))]
    return PreparedData(
        tokenizer_path=path,
        tokenizer_hash=tokenizer.hash,
        data_hash=sha256_text("\n".join(content)),
        train=train,
        val=val,
        num_train_tokens=count_rows(train, spec.sequence_len) * spec.sequence_len,
        num_val_tokens=count_rows(val, spec.sequence_len) * spec.sequence_len,
        token_bytes=tokenizer.token_bytes(spec.vocab_size),
        bos_id=tokenizer.bos_id,
    )


def _train_shards(
    spec: TrainSpec, source: Source, tokenizer: Tokenizer, cache: Path, progress: Progress
) -> tuple[TokenShard, ...]:
    """As many parts as the horizon needs, or as the spec says. The next part is fetched while one is tokenised."""
    shards: tuple[TokenShard, ...] = ()
    needed = spec.recipe().train_tokens
    limit = min(spec.data_shards or source.num_train_parts, source.num_train_parts)
    have = 0
    for index in range(limit):
        part = source.train_part(index)
        expected = have / index if index else part.size_chars / CHARS_PER_TOKEN
        if index + 1 < limit and (spec.data_shards or have + expected < needed):
            following = source.train_part(index + 1)
            if not are_cached(following, tokenizer, spec.vocab_size, cache):
                _fetch_ahead(following)
        shards += ensure_shards(part, tokenizer, spec.vocab_size, cache, progress)
        have = count_rows(shards, spec.sequence_len) * spec.sequence_len
        if spec.data_shards is None and have >= needed:
            break
        if index == 0 and have * limit * 1.25 < needed:  # not even with luck: don't fetch the rest to find out
            raise _too_little(spec, source, ("" if limit == 1 else "about ") + f"{have * limit}", have * limit)
    if have < needed:
        raise _too_little(spec, source, f"{have}", have)
    return shards


def _fetch_ahead(part: Part) -> None:
    """Start the download. Its failure is not reported here: whoever needs the part fetches it again, and reports."""

    def fetch() -> None:
        with contextlib.suppress(DataError, OSError):
            part.fetch(no_progress)

    threading.Thread(target=fetch, daemon=True, name=f"fetch {part.name}").start()


def _too_little(spec: TrainSpec, source: Source, have: str, tokens: int) -> DataError:
    recipe = spec.recipe()
    steps = tokens // recipe.batch_tokens
    batch = tokens // recipe.num_steps // spec.sequence_len * spec.sequence_len  # that all steps could have
    options = [f"num_steps of at most {steps}"] if steps else []
    if not steps and batch:
        options.append(f"a batch_tokens of at most {batch}")
    if spec.data_shards is not None and spec.data_shards < source.num_train_parts:
        options.append(f"data_shards above {spec.data_shards}, or null to fetch what is needed")
    if source.num_train_parts == 1:
        options.append(f"a larger source, such as {' or '.join(REMOTES)}")
    return DataError(
        f"{spec.data} has {have} training tokens in rows of sequence_len {spec.sequence_len}; {recipe.num_steps} steps "
        f"of {recipe.batch_tokens} need {recipe.train_tokens}. No token is trained on twice.",
        next=f"choose {', or '.join(options)}.",
        fitting={"num_steps": steps} if steps else None,
    )


def _check_held_out(spec: TrainSpec, val: tuple[TokenShard, ...]) -> None:
    if not count_rows(val, spec.sequence_len):
        raise DataError(
            f"{spec.data} holds out {sum(shard.num_tokens for shard in val)} tokens for validation, and one row of "
            f"sequence_len {spec.sequence_len} needs {spec.sequence_len + 1}.",
            next="choose a shorter sequence_len, or a larger source.",
        )
