"""Prepared data, seen by whoever trains on it: shards that are there, or will be.

A shard that is asked for and not there yet is waited for: `Makes.more` is called again and again, and makes it, or has
a look at the process that does, or raises. A shard's hash is checked when it is first used; a damaged one is removed
and made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.data.shards import Book, TokenShard, num_rows
from trainer.data.tokenizer import Tokenizer


class Makes(Protocol):
    def more(self, row: int) -> None:
        """Bring nearer what is missing, from this row of training data on."""

    def arrived(self) -> None:
        """What was missing is there."""


class Shards(Protocol):
    def __hash__(self) -> int: ...

    @property
    def known(self) -> tuple[TokenShard, ...]:
        """Those that are stated by now."""

    def stated(self, index: int) -> TokenShard | None:
        """What the shard holds; its files may not be here. None: there is no such shard, and will not be."""

    def whole(self, index: int) -> TokenShard:
        """The shard, its files here and as they were written."""


class Made:
    """Shards that are all there."""

    def __init__(self, shards: Iterable[TokenShard]):
        self._shards = tuple(shards)

    @property
    def known(self) -> tuple[TokenShard, ...]:
        return self._shards

    def stated(self, index: int) -> TokenShard | None:
        return self._shards[index] if index < len(self._shards) else None

    def whole(self, index: int) -> TokenShard:
        return self._shards[index]


class Fed:
    """Shards of `num_parts` parts, one part's after the other's. `capacity` is the tokens of a row."""

    def __init__(self, folder_of: Callable[[int], Path], num_parts: int, *, capacity: int, makes: Makes):
        self._folder_of, self._num_parts, self._capacity, self._makes = folder_of, num_parts, capacity, makes
        self._known: list[TokenShard] = []
        self._part = 0
        self._book = Book(folder_of(0))
        self._taken = 0  # of the book's shards
        self._checked: set[int] = set()

    @property
    def known(self) -> tuple[TokenShard, ...]:
        while self._look():
            pass
        return tuple(self._known)

    @property
    def is_complete(self) -> bool:
        """Whether all there will be are known."""
        return self._book.is_whole and self._part + 1 == self._num_parts and self._taken == len(self._book.shards)

    def stated(self, index: int) -> TokenShard | None:
        while len(self._known) <= index:
            if not self._look():
                if self.is_complete:
                    return None
                self._makes.more(self._row_of(index))
        self._makes.arrived()
        return self._known[index]

    def index_of(self, row: int) -> int | None:
        """The shard that holds a row; None where there is no such row. Waits until that is known."""
        index = end = 0
        while (shard := self.stated(index)) is not None:
            end += num_rows(shard, self._capacity)
            if end > row:
                return index
            index += 1
        return None

    def whole(self, index: int) -> TokenShard:
        shard = self.stated(index)
        assert shard is not None, index
        while index not in self._checked:
            if not shard.is_here():
                self._makes.more(self._row_of(index))
            elif shard.is_intact():
                self._checked.add(index)
            else:
                shard.remove()
        self._makes.arrived()
        return shard

    def _look(self) -> bool:
        """Take over what is stated by now; whether there was anything."""
        self._book.read()
        new = self._book.shards[self._taken :]
        if not new and self._book.is_whole and self._part + 1 < self._num_parts:
            self._part, self._taken = self._part + 1, 0
            self._book = Book(self._folder_of(self._part))
            return True
        self._known += new
        self._taken += len(new)
        return bool(new)

    def _row_of(self, index: int) -> int:
        return sum(num_rows(shard, self._capacity) for shard in self._known[:index])


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Everything a loader needs. Token counts are what a loader of the spec's sequence length delivers as targets; of a
    source that was not tokenised to its end they are estimated, on the low side.
    """

    tokenizer_path: Path
    tokenizer_hash: str
    data_hash: str  # of the source's text, the tokenizer and the way rows are packed
    where: dict[str, str]  # the url and the revision of a remote source
    train: Shards
    val: Shards
    num_train_tokens: int
    num_val_tokens: int
    token_bytes: np.ndarray  # int32 [vocab_size]; 0 for special tokens
    bos_id: int

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_path)
