"""Curves of runs as one frame, against steps, tokens, FLOPs, machine seconds or dollars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from patron_core import verbs
from patron_core.errors import InvalidInput, NotFound, Unavailable
from patron_core.mirror import tracking
from patron_core.mirror.lag import lags
from patron_core.store import Store, attempts, runs
from patron_core.store.records import Run
from patron_core.verbs.axes import AXES, Axes

if TYPE_CHECKING:
    import polars as pl

MLFLOW, RECORD = "mlflow", "record"


def metrics(store: Store, run_ids: Sequence[str], keys: Sequence[str], x: Sequence[str]) -> pl.DataFrame:
    """run, name, key, the columns of `x`, value, `source` ("mlflow", or "record" where MLflow has nothing of the run
    yet or does not answer) and `lag_s`, how far MLflow is behind it.

    `seconds` and `usd` are machine time of the trainings until the point, and its price. Raises InvalidInput for an x
    that there is not, NotFound for a key that none of the runs has.
    """
    import polars as pl

    unknown = [f"x: {name!r}; allowed {', '.join(AXES)}" for name in x if name not in AXES]
    if unknown:
        raise InvalidInput(unknown, next='x=["step", "usd"]')
    behind = {lag.run_id: lag.seconds for lag in lags(store)}
    frames: list[pl.DataFrame] = []
    there: set[str] = set()
    for run_id in run_ids:
        frame, source = _points(store, run_id)
        there |= set(frame["key"].unique())
        found = frame.filter(pl.col("key").is_in(list(keys)))
        frames.append(_with_x(store, runs.get_run(store, run_id), found, x, source, behind.get(run_id, 0.0)))
    missing = [key for key in keys if key not in there]
    if missing and run_ids:
        raise NotFound(
            f"none of {len(run_ids)} runs has {', '.join(missing)}; there are {', '.join(sorted(there)) or 'none'}",
            next="ask for a key that there is",
        )
    return pl.concat(frames) if frames else pl.DataFrame()


def _points(store: Store, run_id: str) -> tuple[pl.DataFrame, str]:
    """key, step, time, value of all that is known of a run, and where it was read."""
    try:
        frame = tracking.metrics_frame(store, [run_id])
        if not frame.is_empty():
            return frame.select("key", "step", "time", "value"), MLFLOW
    except Unavailable:
        pass
    return verbs.curves(store, run_id).select("key", "step", "time", "value"), RECORD


def _with_x(store: Store, run: Run, frame: pl.DataFrame, x: Sequence[str], source: str, lag_s: float) -> pl.DataFrame:
    import polars as pl

    axes = Axes.of_run(run.spec, attempts.for_run(store, run.id))
    steps, times = frame["step"].cast(pl.Float64).to_numpy(), frame["time"].to_numpy()
    types = {"step": pl.Int64, "tokens": pl.Int64}
    num = frame.height
    return pl.DataFrame(
        {"run": [run.id] * num, "name": [run.name] * num, "key": frame["key"]}
        | {name: pl.Series(axes.of(name, steps, times)).cast(types.get(name, pl.Float64)) for name in x}
        | {"value": frame["value"], "source": [source] * num, "lag_s": [float(lag_s)] * num},
        schema_overrides={"run": pl.String, "name": pl.String, "source": pl.String, "lag_s": pl.Float64},
    )
