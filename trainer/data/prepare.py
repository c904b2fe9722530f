"""From a spec to data to train on: where it comes from, whether it is enough, and what is at hand when it begins.

Training begins when the first shard is there; a process beside it (ahead) makes the rest. What a run trains on is told
by its source's text and its tokenizer, both known before: not by the tokens of a whole horizon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.contract.spec import TrainSpec
from trainer.data.ahead import Ahead, Here, Order
from trainer.data.errors import DataError
from trainer.data.feed import Fed, PreparedData
from trainer.data.files import Progress, no_progress, sha256_text
from trainer.data.making import OnPhase, Wanted, no_phase, num_train_parts
from trainer.data.packing import PACKING_VERSION
from trainer.data.pin import pinned_revision
from trainer.data.shards import FORMAT, SHARD_TOKENS, TokenShard, num_rows, shard_folder
from trainer.data.sources import REMOTES, Source, open_source
from trainer.data.tokenizer import Tokenizer, is_trained, tokenizer_path

Warn = Callable[[str, str], None]  # code, sentence
ESTIMATE_MARGIN = 1.15  # a first shard tells the tokens of a whole source within a few percent
HOPELESS = 1.25  # not even with luck


def no_warning(code: str, message: str) -> None:
    """The default: say nothing."""


def no_look() -> None:
    """The default: go on."""


def prepare(
    spec: TrainSpec,
    cache: Path,
    *,
    wanted: Wanted | None = None,
    progress: Progress = no_progress,
    on_phase: OnPhase = no_phase,
    warn: Warn = no_warning,
) -> PreparedData:
    """All that is wanted (by default the whole horizon), made in this process. Raises DataError where it is too little.

    `progress` may raise, to stop; what is done so far is kept. `on_phase` is told the seconds spent on "tokenizer"
    (training it) and on "data" (all else), `warn` of text that is left out.
    """
    order = Order(spec=spec, cache=cache, revision=pinned_revision(spec.data, cache, progress=progress))
    wanted = wanted or Wanted(end_row=horizon_rows(spec))
    return _Preparation(order, wanted, Here(order, wanted, progress=progress), on_phase, warn).data()


def prepare_beside(
    order: Order,
    wanted: Wanted,
    *,
    makes: bool = True,
    look: Callable[[], None] = no_look,
    progress: Progress = no_progress,
    on_phase: OnPhase = no_phase,
    warn: Warn = no_warning,
) -> tuple[PreparedData, Ahead]:
    """What is needed to begin; the rest comes from a process that goes on beside this one, until it is closed.

    `look` is called during every wait and may raise. One process a machine `makes`; the others find it in the cache.
    """
    ahead = Ahead(order, wanted, makes=makes, look=look, progress=progress)
    try:
        return _Preparation(order, wanted, ahead, on_phase, warn).data(), ahead
    except BaseException:
        ahead.close()
        raise


def horizon_rows(spec: TrainSpec) -> int:
    return spec.recipe().train_tokens // spec.sequence_len


@dataclass
class _Preparation:
    order: Order
    wanted: Wanted
    makes: Here | Ahead
    on_phase: OnPhase
    warn: Warn

    def data(self) -> PreparedData:
        started = time.monotonic()
        spec, cache = self.order.spec, self.order.cache
        source = open_source(spec.data, cache, self.order.revision)
        if remark := source.remark():
            self.warn("data_left_out", remark)
        path = tokenizer_path(cache, source.train_part(0).fingerprint, spec.vocab_size, spec.tokenizer_chars)
        while not is_trained(path):
            self.makes.more(self.wanted.first_row)
        tokenizer = Tokenizer.load(path)
        train = self._fed(tokenizer, lambda index: source.train_part(index).fingerprint, num_train_parts(spec, source))
        val = self._fed(tokenizer, lambda _: source.val_part().fingerprint, 1)
        if not (
            self._is_here(train, self.wanted.first_row, self.wanted.end_row)
            and self._is_here(val, 0, self.wanted.val_rows)
        ):
            self.makes.begin(self.wanted.first_row)
        _check_held_out(spec, val)
        self._await_first_row(train)
        num_train_tokens = self._check_enough(source, train)
        self.on_phase("tokenizer", self.makes.tokenizer_s)
        self.on_phase("data", max(0.0, time.monotonic() - started - self.makes.tokenizer_s))
        how = (PACKING_VERSION, FORMAT, SHARD_TOKENS, tokenizer.hash, source.identity)
        return PreparedData(
            tokenizer_path=path,
            tokenizer_hash=tokenizer.hash,
            data_hash=sha256_text(f"{how}"),
            where=source.where,
            train=train,
            val=val,
            num_train_tokens=num_train_tokens,
            num_val_tokens=_tokens(spec, val, source.val_part().size_chars),
            token_bytes=tokenizer.token_bytes(spec.vocab_size),
            bos_id=tokenizer.bos_id,
        )

    def _fed(self, tokenizer: Tokenizer, fingerprint: Callable[[int], str], num_parts: int) -> Fed:
        spec, cache = self.order.spec, self.order.cache
        return Fed(
            lambda index: shard_folder(fingerprint(index), tokenizer.hash, spec.vocab_size, cache),
            num_parts,
            capacity=spec.sequence_len + 1,
            makes=self.makes,
        )

    def _is_here(self, shards: Fed, first_row: int, end_row: int | None) -> bool:
        """Whether nothing is left to be made of the rows."""
        row = 0
        for shard in shards.known:
            row += num_rows(shard, self.order.spec.sequence_len + 1)
            if row > first_row and not shard.is_here():
                return False
            if end_row is not None and row >= end_row:
                return True
        return shards.is_complete

    def _await_first_row(self, train: Fed) -> None:
        """The shard that holds it; none is waited for where no row is wanted."""
        if self.wanted.first_row != self.wanted.end_row:
            index = train.index_of(self.wanted.first_row)
            if index is not None:
                train.whole(index)

    def _check_enough(self, source: Source, train: Fed) -> int:
        """Tokens to train on. Where the source's counts leave it open whether there are enough, all are made first."""
        spec = self.order.spec
        num_parts, needed = num_train_parts(spec, source), horizon_rows(spec) * spec.sequence_len
        about = _tokens(spec, train, source.train_chars() * num_parts // source.num_train_parts)
        if about >= needed:
            return about
        if num_parts > 1 and not train.is_complete and about * ESTIMATE_MARGIN * HOPELESS < needed:
            raise _too_little(spec, source, f"about {about}", about)
        self.makes.wanted = replace(self.makes.wanted, end_row=horizon_rows(spec))
        if train.index_of(horizon_rows(spec) - 1) is None:
            have = loaded_tokens(train.known, spec.sequence_len)
            raise _too_little(spec, source, f"{have}", have)
        return loaded_tokens(train.known, spec.sequence_len)


def loaded_tokens(shards: Iterable[TokenShard], sequence_len: int) -> int:
    """What a loader gives of them, as targets."""
    return sum(num_rows(shard, sequence_len + 1) for shard in shards) * sequence_len


def _tokens(spec: TrainSpec, shards: Fed, num_chars: int) -> int:
    """What there is to load in a text of so many characters: counted, or estimated from what is tokenised of it."""
    known = shards.known
    loaded = loaded_tokens(known, spec.sequence_len)
    if shards.is_complete or not known:
        return loaded
    return max(loaded, int(loaded / sum(shard.num_chars for shard in known) * num_chars / ESTIMATE_MARGIN))


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


def _check_held_out(spec: TrainSpec, val: Fed) -> None:
    if val.index_of(0) is None:
        raise DataError(
            f"{spec.data} holds out {sum(shard.num_tokens for shard in val.known)} tokens for validation, and one row "
            f"of sequence_len {spec.sequence_len} needs {spec.sequence_len + 1}.",
            next="choose a shorter sequence_len, or a larger source.",
        )
