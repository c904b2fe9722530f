"""The curves of a run: from its events, or where those lie on another machine from MLflow, which has a copy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from patron_core.errors import PatronError
from patron_core.lifecycle import ownership
from patron_core.lifecycle.observe import attempt_dir
from patron_core.rundir.record import Record, record_of
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, attempts, runs
from patron_core.store.records import Attempt, Run
from patron_core.verbs.axes import Axes

if TYPE_CHECKING:
    import polars as pl

    from patron_core.verbs.series import Array, Series


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


def curve_series(store: Store, run_id: str) -> tuple[dict[str, Series], Axes]:
    """The same for charts: key -> its points, and what they can be drawn against."""
    from patron_core.verbs.series import series_by_key

    run = runs.get_run(store, run_id)
    return series_by_key(curves(store, run.id)), Axes.of_run(run.spec, attempts.for_run(store, run.id))


def shown_directory(run: Run, made: Sequence[Attempt]) -> RunDir:
    """What a view of the run shows: a run that is being proven has a run directory of its own for that."""
    return RunDir(attempt_dir(run, made[-1]) if run.state is RunState.DRYRUN and made else run.run_dir)


class Followed:
    """The curves of a run that goes on, for charts: of a look only what is new is judged, but for a resume, which
    undoes what it went back behind."""

    def __init__(self, store: Store, run_id: str):
        """Raises NotFound for a run that does not exist."""
        self.store, self.run_id = store, runs.get_run(store, run_id).id
        self.series: dict[str, Series] = {}
        self.axes = Axes(batch_tokens=None, flops_per_token=None, spans=())
        self._where = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.series)

    def look(self) -> Record:
        """Read on; `series` and `axes` are up to date. Raises Unreachable."""
        run, made = runs.get_run(self.store, self.run_id), attempts.for_run(self.store, self.run_id)
        directory = shown_directory(run, made)
        if directory.where != self._where:
            self._where, self.series = directory.where, {}
        record = record_of(directory)
        there = record.keys()
        for key in there:
            self._follow(key, *record.columns(key))
        self.series = {key: self.series[key] for key in there}
        self.axes = Axes.of_run(run.spec, made)
        return record

    def _follow(self, key: str, steps: Array, times: Array, values: Array) -> None:
        from patron_core.verbs.series import Series

        known = self.series.get(key)
        if known is None or not known.continues_in(steps, times):
            known = self.series[key] = Series()
        new = slice(known.given, None)
        known.extend(steps[new], times[new], values[new])


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
