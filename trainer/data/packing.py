"""Packing: an order of documents such that rows cut from their concatenation waste nothing and keep documents whole.

Rows are `capacity` tokens each, cut one after the other from the documents laid end to end in the planned order. So
every row is full, every token is in exactly one row, and only the last incomplete row of a shard is left over.

nanochat makes every row begin with BOS by cropping, which costs 35 % of the tokens; here the *order* does that work as
far as it can be done for nothing. A row is opened with the next document of a seeded shuffle and filled with the
longest unused document that fits. With a shard's worth of documents to choose from, that is mostly one of exactly the
right length. Where nothing fits, a document longer than a row fills the gap, since it has to be divided anyway. What
does not fit goes on at the start of the next row, without a BOS: a BOS always means that a document begins.

All is decided by (lengths, capacity, seed). The shuffle is arithmetic of our own, so that no library's next version
changes which rows a resumed run sees.
"""

from __future__ import annotations

import numpy as np

PACKING_VERSION = 1  # count up when the same shards would give other rows


def shuffled(size: int, seed: int) -> np.ndarray:
    """A permutation of range(size): indices sorted by their splitmix64 hash, keyed by the seed."""
    with np.errstate(over="ignore"):
        z = (np.arange(size, dtype=np.uint64) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable")


def pack(lengths: np.ndarray, capacity: int, seed: int) -> np.ndarray:
    """The order in which to lay the documents end to end: a permutation of range(len(lengths))."""
    pool = _Pool(lengths, capacity, seed)
    order = np.empty(len(lengths), dtype=np.int64)
    used = 0  # tokens in the open row
    for place in range(len(lengths)):
        document = pool.take_next() if used == 0 else pool.take_for_gap(capacity - used)
        order[place] = document
        used = (used + pool.lengths[document]) % capacity
    return order


class _Pool:
    """Unused documents: in shuffled order, by length, and the ones longer than a row."""

    def __init__(self, lengths: np.ndarray, capacity: int, seed: int):
        self.lengths: list[int] = lengths.tolist()
        self._order: list[int] = shuffled(len(self.lengths), seed).tolist()
        self._is_used = bytearray(len(self.lengths))
        self._next = 0
        self._long: list[int] = []
        self._by_length: dict[int, list[int]] = {}
        self._available = 0  # bit n is set while a document of n tokens is unused
        for document in reversed(self._order):  # stacks: the earliest in shuffled order comes off first
            length = self.lengths[document]
            if length > capacity:
                self._long.append(document)
            else:
                self._by_length.setdefault(length, []).append(document)
                self._available |= 1 << length

    def take_next(self) -> int:
        while self._is_used[self._order[self._next]]:
            self._next += 1
        document = self._order[self._next]
        length = self.lengths[document]
        # it is the earliest of all, so the earliest of its length, so the top of its stack
        return self._take_length(length) if length in self._by_length else self._take_long()

    def take_for_gap(self, gap: int) -> int:
        """The longest that fits; else the start of one that is longer than a row; else the next."""
        fitting = self._available & ((2 << gap) - 1)
        if fitting:
            return self._take_length(fitting.bit_length() - 1)
        return self._take_long() if self._long else self.take_next()

    def _take_length(self, length: int) -> int:
        stack = self._by_length[length]
        document = stack.pop()
        if not stack:
            self._available ^= 1 << length
        self._is_used[document] = True
        return document

    def _take_long(self) -> int:
        document = self._long.pop()
        self._is_used[document] = True
        return document
