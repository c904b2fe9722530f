"""Curves of runs as one frame, against steps, tokens, FLOPs, machine seconds or dollars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.errors import InvalidInput, NotFound, Unavailable
from patron_core.lifecycle.workload import FOREIGN, check_spec
from patron_core.mirror import tracking
from patron_core.mirror.lag import lags
from patron_core.store import Store, attempts, runs
from patron_core.store.records import Attempt, Run

if TYPE_CHECKING:
    import polars as pl

X = ("step", "tokens", "flops", "seconds", "usd")
MLFLOW, RECORD = "mlflow", "record"


def metrics(store: Store, run_ids: Sequence[str], keys: Sequence[str], x: Sequence[str]) -> pl.DataFrame:
    """run, name, key, the columns of `x`, value, `source` ("mlflow", or "record" where MLflow has nothing of the run
    yet or does not answer) and `lag_s`, how far MLflow is behind it.

    `seconds` and `usd` are machine time of the trainings until the point, and its price. Raises InvalidInput for an x
    that there is not, NotFound for a key that none of the runs has.
    """
    import polars as pl

    unknown = [f"x: {name!r}; allowed {', '.join(X)}" for name in x if name not in X]
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

    recipe = None if run.workload == FOREIGN else check_spec(run.spec).recipe()  # nobody knows what foreign code trains
    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train" and a.started_at is not None]
    steps, times = frame["step"].to_list(), frame["time"].to_list()
    columns: dict[str, Callable[[], list[Any]]] = {
        "step": lambda: steps,
        "tokens": lambda: [step * recipe.batch_tokens if recipe else None for step in steps],
        "flops": lambda: [
            float(step) * recipe.batch_tokens * recipe.flops_per_token if recipe else None for step in steps
        ],
        "seconds": lambda: [sum(_seconds(a, at) for a in made) for at in times],
        "usd": lambda: [sum(_seconds(a, at) * a.usd_micros_per_hour for a in made) / 3600e6 for at in times],
    }
    types = {"step": pl.Int64, "tokens": pl.Int64}
    return pl.DataFrame(
        {"run": [run.id] * len(steps), "name": [run.name] * len(steps), "key": frame["key"]}
        | {name: pl.Series(columns[name](), dtype=types.get(name, pl.Float64)) for name in x}
        | {"value": frame["value"], "source": [source] * len(steps), "lag_s": [float(lag_s)] * len(steps)},
        schema_overrides={"run": pl.String, "name": pl.String, "source": pl.String, "lag_s": pl.Float64},
    )


def _seconds(attempt: Attempt, at: float) -> float:
    """Of this attempt, until that moment."""
    end = at if attempt.ended_at is None else min(at, attempt.ended_at)
    return max(0.0, end - (attempt.started_at or at))
