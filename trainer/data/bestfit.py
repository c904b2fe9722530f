"""nanochat's stream of rows: each begins with BOS, at the start of a document; what does not fit is cropped.

Documents come in their order, 128 at a time, into a buffer of 1000 or more. A row takes the longest that fits, again
and again (of equals the earliest); where none fits, the shortest is cropped to fill it and its rest is lost. So a third
of the tokens is never seen. Validation figures that nanochat publishes are measured on these rows, and with others they
do not compare: only such a row shows a model the beginning of all that it has to predict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from trainer.data.feed import Shards

BUFFERED = 1000  # documents that a row is chosen from
AT_ONCE = 128  # documents that the buffer takes


def best_fit_rows(batches: Iterable[list[np.ndarray]], capacity: int, buffered: int = BUFFERED) -> Iterator[np.ndarray]:
    """Rows of `capacity` tokens, int64, for as long as there are documents to fill the buffer with."""
    upcoming = iter(batches)
    documents: list[np.ndarray] = []
    lengths = np.zeros(0, dtype=np.int64)
    while True:
        row, filled = np.empty(capacity, dtype=np.int64), 0
        while filled < capacity:
            while len(documents) < buffered:
                more = next(upcoming, None)
                if more is None:
                    return
                documents += more
                lengths = np.append(lengths, [len(document) for document in more])
            gap = capacity - filled
            fitting = np.where(lengths <= gap, lengths, 0)
            chosen = int(fitting.argmax())  # the first of equals
            if not fitting[chosen]:
                chosen = int(lengths.argmin())
            document = documents.pop(chosen)[:gap]
            lengths = np.delete(lengths, chosen)
            row[filled : filled + len(document)] = document
            filled += len(document)
        yield row


def documents_again_and_again(shards: Shards) -> Iterator[list[np.ndarray]]:
    """All documents in their order, in batches, from the start again at the end; each waited for where it is not there.

    A batch does not reach over the end, as upstream's do not reach over that of a file.
    """
    while True:
        batch: list[np.ndarray] = []
        index = 0
        while shards.stated(index) is not None:
            shard = shards.whole(index)
            tokens, offsets = shard.tokens(), shard.offsets().tolist()
            for start, end in pairwise(offsets):
                batch.append(tokens[start:end])
                if len(batch) == AT_ONCE:
                    yield batch
                    batch = []
            index += 1
        if batch:
            yield batch
        if index == 0:
            return
