"""The curves of a run: from its events, or where those lie on another machine from MLflow, which has a copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from patron_core.errors import PatronError
from patron_core.lifecycle import ownership
from patron_core.mirror.position import EVAL_KEYS
from patron_core.rundir.rundir import Event, RunDir, events_so_far, lineage
from patron_core.store import Store, runs

if TYPE_CHECKING:
    import polars as pl

    from patron_core.verbs.series import Series

Point = tuple[str, int, float, float, str]  # key, step, value, unix seconds, attempt


def curves(store: Store, run_id: str) -> pl.DataFrame:
    """The run's true history as a frame: key, step, value, time, attempt. Resumed-over points are not in it.

    Of a run of another machine what MLflow has, without the attempts; empty where MLflow does not answer.
    """
    import polars as pl

    run = runs.get_run(store, run_id)
    directory = RunDir(run.run_dir)
    if ownership.is_elsewhere(run) and not directory.exists():
        return _mirrored(store, run.id)
    rows = [point for event in lineage(events_so_far(directory)) for point in _points(event)]
    return pl.DataFrame(rows, schema=_schema(), orient="row")


class Followed:
    """The curves of a run that goes on. Each look costs what is new, but for a resume, which undoes what it went
    back behind."""

    def __init__(self, directory: RunDir):
        self.directory = directory
        self.series: dict[str, Series] = {}
        self.marks: list[Event] = []  # all that is no metric, of the true history
        self._seen = 0
        self._newest: tuple[str, int] | None = None

    def look(self) -> bool:
        """Whether there was something new."""
        events = events_so_far(self.directory)
        if len(events) == self._seen:
            return False
        new = events[self._seen :]
        in_order = self._newest is None or self._newest == _id(events[self._seen - 1])
        if not in_order or any(event.kind == "start" for event in new):
            self.series, self.marks, new = {}, [], lineage(events)
        self._add(new)
        self._seen, self._newest = len(events), _id(events[-1])
        return True

    def _add(self, events: Iterable[Event]) -> None:
        from patron_core.verbs.series import Series

        columns: dict[str, tuple[list[float], list[float], list[float]]] = defaultdict(lambda: ([], [], []))
        for event in events:
            for key, step, value, time, _ in _points(event):
                steps, times, values = columns[key]
                steps.append(step)
                times.append(time)
                values.append(value)
            if event.kind != "metrics":
                self.marks.append(event)
        for key, (steps, times, values) in columns.items():
            self.series.setdefault(key, Series()).extend(steps, times, values)


def _id(event: Event) -> tuple[str, int]:
    return event.attempt, event.seq


def _points(event: Event) -> Iterator[Point]:
    if event.step is None:
        return
    if event.kind == "metrics":
        values = event.data.get("metrics", {})
    elif event.kind == "eval":
        values = {key: event.data.get(name) for name, key in EVAL_KEYS.items()}
    else:
        return
    for key, value in values.items():
        if isinstance(value, int | float):
            yield key, event.step, float(value), event.time, event.attempt


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
