"""The curves of a run: from its events, or where those lie on another machine from MLflow, which has a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patron_core.errors import PatronError
from patron_core.lifecycle import ownership
from patron_core.mirror.position import EVAL_KEYS
from patron_core.rundir.rundir import RunDir, events_so_far, lineage
from patron_core.store import Store, runs

if TYPE_CHECKING:
    import polars as pl


def curves(store: Store, run_id: str) -> pl.DataFrame:
    """The run's true history as a frame: key, step, value, time, attempt. Resumed-over points are not in it.

    Of a run of another machine what MLflow has, without the attempts; empty where MLflow does not answer.
    """
    import polars as pl

    run = runs.get_run(store, run_id)
    directory = RunDir(run.run_dir)
    if ownership.is_elsewhere(run) and not directory.exists():
        return _mirrored(store, run.id)
    rows: list[tuple[str, int, float, float, str]] = []
    for event in lineage(events_so_far(directory)):
        if event.step is None:
            continue
        if event.kind == "metrics":
            values = event.data.get("metrics", {})
        elif event.kind == "eval":
            values = {key: event.data.get(name) for name, key in EVAL_KEYS.items()}
        else:
            continue
        rows += [
            (key, event.step, float(value), event.time, event.attempt)
            for key, value in values.items()
            if isinstance(value, int | float)
        ]
    return pl.DataFrame(rows, schema=_schema(), orient="row")


def _schema() -> dict[str, Any]:
    import polars as pl

    return {"key": pl.String, "step": pl.Int64, "value": pl.Float64, "time": pl.Float64, "attempt": pl.String}


def _mirrored(store: Store, run_id: str) -> pl.DataFrame:
    import polars as pl

    from patron_core.mirror import tracking

    try:
        frame = tracking.metrics_frame(store, [run_id])
    except PatronError:
        return pl.DataFrame(schema=_schema())
    own = pl.col("key").str.starts_with("patron/") | pl.col("key").str.starts_with("money/")
    return frame.filter(~own).select("key", "step", "value", "time", pl.lit("").alias("attempt"))
