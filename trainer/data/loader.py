"""Batches from token shards: full rows, in a seeded order, with a state of three integers.

A row is sequence_len + 1 tokens: x is all but the last, y all but the first. How rows are cut so that nothing is thrown
away: packing.py. Rows are then shuffled within their shard (a shard is itself a fair sample of the source), so a long
document's rows do not follow one another. Shards come in order, so adding shards never changes the rows before them.

The global order is one list of rows. With W ranks, rank r takes micro-batches r, r + W, r + 2W ..., so that W ranks
together see what one process sees. The state says how many rows all ranks have taken, and so fits any number of ranks.

Shards may still be in the making: a row that is not there yet is waited for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.data.bestfit import best_fit_rows, documents_again_and_again
from trainer.data.errors import DataExhausted
from trainer.data.packing import pack, shuffled
from trainer.data.shards import TokenShard, num_rows

if TYPE_CHECKING:
    from trainer.data.feed import PreparedData, Shards

Batch = tuple[torch.Tensor, torch.Tensor]  # x_BT, y_BT, both int64
VAL_SEED = 0  # fixed, so that every run is measured on the same rows


class TrainLoader:
    """One pass over the training shards. `next()` past the end raises DataExhausted: no second epoch in silence."""

    def __init__(
        self,
        data: PreparedData,
        *,
        batch_size: int,
        sequence_len: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} must be from 0 to world_size - 1 = {world_size - 1}")
        self._rows = _Rows(data.train, sequence_len, seed)
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._row = 0  # taken by all ranks together
        self._identity = {"seed": seed, "sequence_len": sequence_len}

    def next(self) -> Batch:
        """This rank's next micro-batch. Raises what `Shards` raises where it is not there and will not come."""
        end = self._row + self._batch_size * self._world_size
        if not self._rows.reach(end):  # the same on every rank, so that none waits for the others
            raise DataExhausted(
                f"Row {end} of {self._rows.num_known}: one pass over the training data is over.",
                next="train fewer steps, or prepare more data",
            )
        start = self._row + self._rank * self._batch_size
        self._row = end
        return self._rows.batch(start, start + self._batch_size)

    def state(self) -> dict[str, int]:
        return {"row": self._row, **self._identity}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken, also with another batch size or number of ranks."""
        found = {name: state[name] for name in self._identity}
        if found != self._identity:
            raise ValueError(f"loader state of {found} cannot go on as {self._identity}: the rows differ")
        self._row = state["row"]


def val_batches(
    data: PreparedData, batch_size: int, sequence_len: int, max_tokens: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The held-out rows, always the same ones: up to `max_tokens` target tokens, at least one row.

    Which rows depends on `max_tokens` alone, not on the batch size, so the last batch may be smaller.
    """
    rows = _val_rows(data.val, sequence_len)
    end = _val_end(rows, sequence_len, max_tokens)
    for start in range(rank * batch_size, end, world_size * batch_size):
        yield rows.batch(start, min(start + batch_size, end))


def bos_val_batches(
    data: PreparedData, batch_size: int, sequence_len: int, max_tokens: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """nanochat's validation stream (bestfit.py) from its beginning: `max_tokens` target tokens, at least one row."""
    rows = best_fit_rows(documents_again_and_again(data.val), sequence_len + 1)
    wanted = islice(rows, max(1, max_tokens // sequence_len))
    for number, some in enumerate(iter(lambda: list(islice(wanted, batch_size)), [])):
        if number % world_size == rank:
            rows_BT = torch.from_numpy(np.stack(some))
            yield rows_BT[:, :-1].contiguous(), rows_BT[:, 1:].contiguous()


def await_val(data: PreparedData, sequence_len: int, max_tokens: int) -> None:
    """Until all that `val_batches` gives for so many tokens is there. Raises what `Shards` raises."""
    rows = _val_rows(data.val, sequence_len)
    rows.find(_val_end(rows, sequence_len, max_tokens))


def _val_end(rows: _Rows, sequence_len: int, max_tokens: int) -> int:
    wanted = max(1, max_tokens // sequence_len)
    return wanted if rows.reach(wanted) else rows.num_known


@lru_cache(maxsize=1)
def _val_rows(shards: Shards, sequence_len: int) -> _Rows:
    """Kept, since a plan takes seconds for a large shard and every evaluation reads the same rows."""
    return _Rows(shards, sequence_len, VAL_SEED)


class _Rows:
    """The global list of rows, known as far as its shards are stated. Holds the plan of one shard at a time."""

    def __init__(self, shards: Shards, sequence_len: int, seed: int):
        self._shards = shards
        self._capacity = sequence_len + 1
        self._seed = seed
        self._first_rows = [0]  # of each shard that is known, and of the one after it
        self._planned = -1
        self._plan: _ShardPlan

    @property
    def num_known(self) -> int:
        return self._first_rows[-1]

    def reach(self, end: int) -> bool:
        """Whether there are so many rows; waits until that is known."""
        while self.num_known < end:
            shard = self._shards.stated(len(self._first_rows) - 1)
            if shard is None:
                return False
            self._first_rows.append(self.num_known + num_rows(shard, self._capacity))
        return True

    def find(self, end: int) -> None:
        """Wait for the files of all rows before `end`."""
        for index, first_row in enumerate(self._first_rows[:-1]):
            if first_row < end:
                self._shards.whole(index)

    def batch(self, start: int, end: int) -> Batch:
        rows = np.empty((end - start, self._capacity), dtype=np.int64)
        for index in range(start, end):
            shard = bisect_right(self._first_rows, index) - 1
            if shard != self._planned:
                whole = self._shards.whole(shard)
                self._plan = _ShardPlan(whole, self._capacity, self._seed + 1_000_003 * shard)
                self._planned = shard
            self._plan.read(index - self._first_rows[shard], rows[index - start])
        rows_BT = torch.from_numpy(rows)
        return rows_BT[:, :-1].contiguous(), rows_BT[:, 1:].contiguous()


class _ShardPlan:
    """Which tokens of the shard make up each row."""

    def __init__(self, shard: TokenShard, capacity: int, seed: int):
        self._tokens = shard.tokens()
        offsets = shard.offsets()
        lengths = np.diff(offsets)
        order = pack(lengths, capacity, seed)
        self._capacity = capacity
        self._row_order = shuffled(shard.num_tokens // capacity, seed)
        # lists: indexing one number at a time is several times faster than in an array
        self._sources: list[int] = offsets[:-1][order].tolist()
        self._ends: list[int] = np.cumsum(lengths[order]).tolist()  # in the documents laid end to end

    def read(self, index: int, out: np.ndarray) -> None:
        position = int(self._row_order[index]) * self._capacity
        place = bisect_right(self._ends, position)
        skipped = position - (self._ends[place - 1] if place else 0)
        filled = 0
        while filled < self._capacity:
            size = min(self._ends[place] - position, self._capacity - filled)
            source = self._sources[place] + skipped
            out[filled : filled + size] = self._tokens[source : source + size]
            filled += size
            position += size
            place += 1
            skipped = 0
