"""Experiment tracking: an exactly-once mirror of run directories in MLflow, and reading it back as frames.

events/ is the record; MLflow is the view that people query. How far the copy came is kept in the store, and MLflow
keeps a point (key, step, time, value) once however often it is sent. How the copy is made: `mirror`. A tracker that is
dead, slow or wiped costs a bounded time and loses nothing: the next sync goes on from the record.

This is the only module that knows MLflow, and it imports it when it is first used: that takes seconds.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from patron_core import settings
from patron_core.errors import PatronError, Unavailable
from patron_core.mirror.copy import Copy, MirrorReport, Overtaken
from patron_core.mirror.position import Point
from patron_core.rundir.places import Unreachable
from patron_core.states import TERMINAL
from patron_core.store import Store, mirrors
from patron_core.store.records import Run

if TYPE_CHECKING:
    import polars as pl

TIMEOUT_S = 5.0  # of one request, which is tried twice
BUDGET_S = 15.0  # well within a supervisor's lease
SLOW_S, SLOW_RETRY_S = 1.0, 30.0  # a tracker that let us wait in vain is left alone by this process for a while
_NEXT = "check MLFLOW_TRACKING_URI and the server it names; the events are kept, and the next sync goes on from them"

_log = logging.getLogger("patron.tracking")
_lock = threading.RLock()  # guards the environment that MLflow's client reads
_clients: dict[str, Any] = {}
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
    if copy.tracked_id is None and not copy.directory.read_events()[0]:
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
        copy.artifact_error = _first_line(copy.artifact_error)
        _log.warning("mirror of %s: %s", run.id, copy.artifact_error)
    return copy.report(error)


def finish(store: Store, run: Run, *, now: float, extra: Mapping[str, float] | None = None) -> MirrorReport:
    """The last sync of a run: give MLflow its FINISHED, FAILED or KILLED. `run` must be as it is in the store now."""
    if run.state not in TERMINAL:
        raise ValueError(f"run {run.id} is {run.state}; only a {', '.join(sorted(TERMINAL))} run is finished")
    return sync(store, run, now=now, extra=extra)


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


class Mlflow:
    """The Tracker that a mirror sends to; opened at the first call."""

    def create(self, run: Run, tag: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            experiment_id = _experiment_id(run.project)
        except MlflowException:  # somebody else made it between our look and our creation
            experiment_id = _experiment_id(run.project)
        created = _client().create_run(experiment_id, int(run.created_at * 1000), {tag: run.id}, run.name or run.id)
        return str(created.info.run_id)

    def tagged(self, run: Run, tag: str) -> dict[str, bool]:
        experiment = _client().get_experiment_by_name(run.project)
        if experiment is None:
            return {}
        found = _client().search_runs([experiment.experiment_id], f"tags.`{tag}` = '{run.id}'")
        return {each.info.run_id: bool(each.data.metrics) for each in found}

    def log(
        self,
        tracked_id: str,
        points: Sequence[Point] = (),
        *,
        params: Mapping[str, str] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        with _collector_paused():
            _client().log_batch(
                tracked_id,
                metrics=[Metric(*point) for point in points],
                params=[Param(*pair) for pair in params.items()],
                tags=[RunTag(*pair) for pair in tags.items()],
            )

    def history(self, tracked_id: str, key: str) -> list[Point]:
        found = _client().get_metric_history(tracked_id, key)
        return [Point(key, point.value, point.timestamp, point.step) for point in found]

    def trash(self, tracked_id: str) -> None:
        _client().delete_run(tracked_id)

    def end(self, tracked_id: str, status: str, *, now: float) -> None:
        _client().set_terminated(tracked_id, status, int(now * 1000))

    def upload(self, tracked_id: str, name: str, text: str) -> None:
        _client().log_text(tracked_id, text, name)


def _advance(copy: Copy, extra: Mapping[str, float]) -> None:
    from mlflow.exceptions import MlflowException

    try:
        copy.advance(extra)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" or copy.tracked_id is None:
            raise
        copy.open(copy.position.starts, rewinding_to=-1)  # the tracker was wiped or replaced: build the view again
        copy.advance(extra)


def _give_up(copy: Copy, fault: Exception) -> str:
    """For now; what the tracker took before is committed."""
    with suppress(Overtaken, PatronError):
        copy.commit()
    if _is_trackers(fault):
        _log.warning("mirror of %s: %s", copy.run.id, _first_line(fault))
        return f"MLflow: {_first_line(fault)}; {_NEXT}"
    _log.error("mirror of %s: unexpected", copy.run.id, exc_info=fault)
    return f"{type(fault).__name__}: {_first_line(fault)}"


def _is_trackers(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


def _client() -> Any:
    """One client a tracker and process. The first use of a SQLite tracker makes its tables, under a lock."""
    uri = settings.tracking_uri()
    if uri not in _clients:
        from mlflow import MlflowClient

        settings.home().mkdir(parents=True, exist_ok=True)
        with (settings.home() / "tracking.lock").open("a") as file:
            if uri.startswith("sqlite"):
                fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
            client = MlflowClient(tracking_uri=uri)
            database = settings.home() / "mlflow.db"
            if uri == f"sqlite:///{database}":
                with closing(sqlite3.connect(database)) as connection:  # so that readers and the mirror work at once
                    connection.execute("PRAGMA journal_mode = WAL")
        _clients[uri] = client
    return _clients[uri]


def _experiment_id(project: str) -> str:
    client = _client()
    experiment = client.get_experiment_by_name(project)
    if experiment is not None:
        return str(experiment.experiment_id)
    folder = settings.artifacts_folder() / re.sub(r"[^\w-]+", "_", project)
    is_local = settings.tracking_uri().startswith("sqlite")
    return str(client.create_experiment(project, artifact_location=folder.as_uri() if is_local else None))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """The cycle collector walks MLflow's new rows over and over: a batch is half as fast again without it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _calm(timeout_s: float) -> Iterator[None]:
    """MLflow's client with a bounded patience, and quiet: nothing on stdout, and on stderr nothing but errors."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout_s))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
    }
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    with _lock:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            import mlflow  # noqa: F401  # sets its own log level when it is first imported

            levels = [logger.level for logger in loggers]
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            try:
                yield
            finally:
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


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
            raise Unavailable(f"MLflow: {_first_line(error)}", next=_NEXT) from error


def _first_line(error: object) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"//[^/@\s]*@", "//", line)[:300]  # a password may stand before the @
