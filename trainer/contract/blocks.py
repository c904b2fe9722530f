"""How attention on a CPU cuts its queries into blocks. Pure: memory is planned with the very blocks of the model."""

from __future__ import annotations

MAX_SCORED_WINDOW = 1024  # full windows; beyond it the scores that the backward pass needs take too much memory
SHORTEST_BLOCK = 128


def query_blocks(sequence_len: int, window: int) -> list[tuple[int, int, int]]:
    """(first query, end of queries, first key) of each block; its keys end where its queries do."""
    block = max(SHORTEST_BLOCK, min(window, sequence_len // 4))
    starts = range(0, sequence_len, block)
    return [(start, min(start + block, sequence_len), max(0, start - window)) for start in starts]
