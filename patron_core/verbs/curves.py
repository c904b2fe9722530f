"""The curves of a run: from its events, or where those lie on another machine from MLflow, which has a copy."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from patron_core.errors import PatronError
from patron_core.lifecycle import ownership
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.store import Store, runs

if TYPE_CHECKING:
    import polars as pl


def curves(store: Store, run_id: str, keys: Collection[str] | None = None) -> pl.DataFrame:
    """The run's true history as a frame: key, step, value, time, attempt. Resumed-over points are not in it.

    Of these keys, or of all. Of a run of another machine what MLflow has, without the attempts; empty where MLflow does
    not answer.
    """
    run = runs.get_run(store, run_id)
    directory = RunDir(run.run_dir)
    if ownership.is_elsewhere(run) and not directory.exists():
        return _mirrored(store, run.id, keys)
    return record_of(directory).frame(keys)


def _schema() -> dict[str, Any]:
    import polars as pl

    return {"key": pl.String, "step": pl.Int64, "value": pl.Float64, "time": pl.Float64, "attempt": pl.String}


def _mirrored(store: Store, run_id: str, keys: Collection[str] | None) -> pl.DataFrame:
    import polars as pl

    from patron_core.mirror import tracking

    try:
        frame = tracking.metrics_frame(store, [run_id])
    except PatronError:
        return pl.DataFrame(schema=_schema())
    own = pl.col("key").str.starts_with("patron/") | pl.col("key").str.starts_with("money/")
    wanted = pl.lit(True) if keys is None else pl.col("key").is_in(list(keys))
    return frame.filter(~own & wanted).select("key", "step", "value", "time", pl.lit("").alias("attempt"))
