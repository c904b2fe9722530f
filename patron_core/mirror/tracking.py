"""Experiment tracking: an exactly-once mirror of run directories in MLflow, and reading it back as frames.

events/ is the record; MLflow is the view that people query. How far the copy came is kept in the store, and MLflow
keeps a point (key, step, time, value) once however often it is sent. How the copy is made: `mirror`. A tracker that is
dead, slow or wiped costs a bounded time and loses nothing: the next sync goes on from the record.

What is particular about MLflow is in `tracker`, which imports it when it is first used: that takes seconds.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from patron_core import settings
from patron_core.errors import PatronError, Unavailable
from patron_core.mirror.copy import Copy, MirrorReport, Overtaken
from patron_core.mirror.tracker import Mlflow, first_line
from patron_core.mirror.tracker import calm as _calm
from patron_core.mirror.tracker import client as _client
from patron_core.rundir.places import Unreachable
from patron_core.store import Store, mirrors
from patron_core.store.records import Run

if TYPE_CHECKING:
    import polars as pl

TIMEOUT_S = 5.0  # of one request, which is tried twice
BUDGET_S = 15.0  # well within a supervisor's lease
SLOW_S, SLOW_RETRY_S = 1.0, 30.0  # a tracker that let us wait in vain is left alone by this process for a while
_NEXT = "check MLFLOW_TRACKING_URI and the server it names; the events are kept, and the next sync goes on from them"

_log = logging.getLogger("patron.tracking")
_left_alone_until: dict[str, float] = {}  # by URI, monotonic


def sync(
    store: Store,
    run: Run,
    *,
    now: float,
    extra: Mapping[str, float] | None = None,
    timeout_s: float = TIMEOUT_S,
    budget_s: float = BUDGET_S,
) -> MirrorReport:
    """Bring the view of one run up to date. `extra` are figures that the events don't hold, money for instance.

    `timeout_s` bounds a request (it is tried twice), `budget_s` the time spent on a long backlog. What goes wrong is
    in the report: a tracker must never stop a supervisor.
    """
    uri = settings.tracking_uri()
    copy = Copy(store, run, Mlflow(), now=now, budget_s=budget_s)
    if copy.tracked_id is None and not next(copy.directory.slices()).events:
        return copy.report()
    wait_s = _left_alone_until.get(uri, 0.0) - time.monotonic()
    if wait_s > 0:
        return copy.report(f"MLflow did not answer a moment ago and is tried again in {wait_s:.0f} s; {_NEXT}")
    error: str | None = None
    with _calm(timeout_s):
        try:
            _advance(copy, extra or {})
        except Overtaken:
            error = f"another sync of {run.id} was faster; the next one goes on from where it stands"
        except Unreachable:  # the run's bucket: MLflow has nothing to do with it
            raise
        except Exception as fault:  # a poll boundary
            error = _give_up(copy, fault)
            if time.monotonic() - copy.answered_at > SLOW_S:
                _left_alone_until[uri] = time.monotonic() + SLOW_RETRY_S
    if copy.artifact_error is not None:
        copy.artifact_error = first_line(copy.artifact_error)
        _log.warning("mirror of %s: %s", run.id, copy.artifact_error)
    return copy.report(error)


def metrics_frame(store: Store, run_ids: Sequence[str], keys: Sequence[str] | None = None) -> pl.DataFrame:
    """Every mirrored point of some runs: run_id, key, step, time (unix seconds), value. Raises Unavailable."""
    import polars as pl

    schema = {"run_id": pl.String, "key": pl.String, "step": pl.Int64, "time": pl.Float64, "value": pl.Float64}
    frames = [pl.DataFrame(schema=schema)]
    with _reading(store, run_ids) as (client, mirrored):
        for run_id, mlflow_run_id in mirrored:
            for key in sorted(client.get_run(mlflow_run_id).data.metrics) if keys is None else keys:
                history = client.get_metric_history(mlflow_run_id, key)
                columns = {
                    "step": [point.step for point in history],
                    "time": [point.timestamp / 1000 for point in history],
                    "value": [point.value for point in history],
                }
                frame = pl.DataFrame(columns, schema={name: schema[name] for name in columns}).sort("step", "time")
                frames.append(frame.select(pl.lit(run_id).alias("run_id"), pl.lit(key).alias("key"), pl.all()))
    return pl.concat(frames)


def metric_keys(store: Store, run_id: str) -> list[str]:
    """All keys that the tracker has of a run, whoever logged them; none without a mirror. Raises Unavailable."""
    with _reading(store, [run_id]) as (client, mirrored):
        return sorted(key for _, mlflow_run_id in mirrored for key in client.get_run(mlflow_run_id).data.metrics)


def params_frame(store: Store, run_ids: Sequence[str]) -> pl.DataFrame:
    """The parameters of some runs as text: run_id, key, value. Raises Unavailable."""
    import polars as pl

    with _reading(store, run_ids) as (client, mirrored):
        rows = [
            (run_id, key, value)
            for run_id, mlflow_run_id in mirrored
            for key, value in sorted(client.get_run(mlflow_run_id).data.params.items())
        ]
    return pl.DataFrame(rows, schema={"run_id": pl.String, "key": pl.String, "value": pl.String}, orient="row")


def _advance(copy: Copy, extra: Mapping[str, float]) -> None:
    """Where the tracker lacks what the mirror goes on from, it is restored or made anew, and said."""
    from mlflow.exceptions import MlflowException

    try:
        copy.advance(extra)
    except MlflowException as error:
        is_gone = error.error_code == "RESOURCE_DOES_NOT_EXIST" and copy.tracked_id is not None
        restored = "" if is_gone else copy.tracker.restore(copy.run, copy.tracked_id)
        if not (is_gone or restored):
            raise
        if restored:
            copy.say(f"{restored} of MLflow was in its trash and is restored")
        else:
            copy.open(copy.position.starts, rewinding_to=-1)
            copy.say("MLflow had lost the run, which is made anew there")
        copy.advance(extra)


def _give_up(copy: Copy, fault: Exception) -> str:
    """For now; what the tracker took before is committed."""
    with suppress(Overtaken, PatronError):
        copy.commit()
    if _is_trackers(fault):
        _log.warning("mirror of %s: %s", copy.run.id, first_line(fault))
        return f"MLflow: {first_line(fault)}; {_NEXT}"
    trace = "".join(traceback.format_tb(fault.__traceback__))  # without its words, which may hold a password
    _log.error("mirror of %s: unexpected: %s\n%s", copy.run.id, first_line(fault), trace)
    return f"{type(fault).__name__}: {first_line(fault)}"


def _is_trackers(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


@contextmanager
def _reading(store: Store, run_ids: Sequence[str]) -> Iterator[tuple[Any, list[tuple[str, str]]]]:
    """A client, and (run id, MLflow run id) of those runs that are mirrored. Its failures become Unavailable."""
    found = [(run_id, mirrors.get(store, run_id)) for run_id in run_ids]
    with _calm(TIMEOUT_S):
        try:
            yield _client(), [(run_id, mirror.mlflow_run_id) for run_id, mirror in found if mirror]
        except Exception as error:
            if not _is_trackers(error):
                raise
            raise Unavailable(f"MLflow: {first_line(error)}", next=_NEXT) from error
