"""What a source is made of: parts that are tokenised as a unit, and the documents in a parquet file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.errors import DataError
from trainer.data.files import Progress

ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is tokenised as a unit. `fingerprint` changes when the text may have; `fetch` brings it to this
    machine, `discard` takes what was brought away again."""

    name: str
    fingerprint: str
    size_chars: int  # about; only for progress
    fetch: Callable[[Progress], None]
    documents: Callable[[], Iterator[str]]
    discard: Callable[[], None] = lambda: None


def parquet_rows(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """(name#row, document); rows without text are left out. Raises DataError where there is no column of that name."""
    try:
        import polars as pl  # only here: a machine that trains on text needs none
    except ImportError as error:
        raise DataError(
            f"{path} is parquet, and polars, which reads it, is not installed.", next="pip install polars"
        ) from error
    frame = pl.scan_parquet(path, glob=False)  # brackets in a folder's name are part of it
    try:
        columns = frame.collect_schema().names()
    except (pl.exceptions.ComputeError, OSError) as error:
        raise DataError(f"{path} is not a parquet file: {error}.", next="remove it or replace it") from error
    if "text" not in columns:
        raise DataError(f"{path} has no column `text`.", next="rename the column that holds the documents to `text`")
    start = 0
    while True:
        texts = frame.select("text").slice(start, ROWS_AT_ONCE).collect()["text"]
        for index, text in enumerate(texts, start):
            if text:
                yield f"{name}#{index}", text
        if len(texts) < ROWS_AT_ONCE:
            return
        start += len(texts)
