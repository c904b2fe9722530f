"""MLflow as a mirror sees it: the Tracker of `copy`, its one client a process, its limits, and words without passwords.

The only modules that know MLflow are this one and `tracking`; they import it when it is first used: that takes seconds.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import logging
import os
import re
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any

from patron_core import settings
from patron_core.mirror.copy import SUPERSEDED_TAG
from patron_core.mirror.position import Point
from patron_core.store.records import Run

MAX_EXPERIMENT_CHARS, MAX_RUN_CHARS = 500, 250  # MLflow's limits; its database cuts or refuses what is longer
MAX_FOLDER_BYTES = 200  # of a file system's 255

_LOGGERS = ("mlflow", "alembic", "urllib3")
_lock = threading.RLock()  # guards the environment that MLflow's client reads, and what it was before
_calm: list[dict[str, str]] = []  # of everybody who uses MLflow now
_before: dict[str, str | None] = {}
_levels: dict[str, int] = {}
_clients: dict[str, Any] = {}


class Mlflow:
    """The Tracker that a mirror sends to; opened at the first call."""

    def create(self, run: Run, tag: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            experiment_id = _experiment_id(run.project)
        except MlflowException:  # somebody else made it between our look and our creation
            experiment_id = _experiment_id(run.project)
        name = shortened(run.name or run.id, MAX_RUN_CHARS)
        created = client().create_run(experiment_id, int(run.created_at * 1000), {tag: run.id}, name)
        return str(created.info.run_id)

    def tagged(self, run: Run, tag: str) -> dict[str, bool]:
        experiment = client().get_experiment_by_name(experiment_name(run.project))
        if experiment is None:
            return {}
        found = client().search_runs([experiment.experiment_id], f"tags.`{tag}` = '{run.id}'")
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
            client().log_batch(
                tracked_id,
                metrics=[Metric(*point) for point in points],
                params=[Param(*pair) for pair in params.items()],
                tags=[RunTag(*pair) for pair in tags.items()],
            )

    def history(self, tracked_id: str, key: str) -> list[Point]:
        found = client().get_metric_history(tracked_id, key)
        return [Point(key, point.value, point.timestamp, point.step) for point in found]

    def restore(self, run: Run, tracked_id: str | None) -> str:
        """Take out of the trash what the mirror needs and somebody has put there. What that was; empty: nothing."""
        experiment = client().get_experiment_by_name(experiment_name(run.project))
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            client().restore_experiment(experiment.experiment_id)  # and with it every run that is in it
            for each in client().search_runs([experiment.experiment_id], f"tags.`{SUPERSEDED_TAG}` != ''"):
                client().delete_run(each.info.run_id)
            return f"experiment {experiment.name!r}"
        if tracked_id is not None and client().get_run(tracked_id).info.lifecycle_stage == "deleted":
            client().restore_run(tracked_id)
            return f"run {tracked_id}"
        return ""

    def trash(self, tracked_id: str) -> None:
        client().delete_run(tracked_id)

    def end(self, tracked_id: str, status: str, *, now: float) -> None:
        client().set_terminated(tracked_id, status, int(now * 1000))

    def upload(self, tracked_id: str, name: str, text: str) -> None:
        client().log_text(tracked_id, text, name)


def client() -> Any:
    """One client a tracker and process. The first use of a SQLite tracker makes its tables, under a lock."""
    uri = settings.tracking_uri()
    if uri not in _clients:
        from mlflow import MlflowClient

        settings.make_home()
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
    name = experiment_name(project)
    experiment = client().get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    folder = settings.artifacts_folder() / shortened(re.sub(r"[^\w-]+", "_", project), MAX_FOLDER_BYTES)
    is_local = settings.tracking_uri().startswith("sqlite")
    return str(client().create_experiment(name, artifact_location=folder.as_uri() if is_local else None))


def experiment_name(project: str) -> str:
    return shortened(project, MAX_EXPERIMENT_CHARS)


def shortened(text: str, max_bytes: int) -> str:
    """The text, or where it is too long its beginning and a hash of all of it. In UTF-8, where no character is less."""
    content = text.encode()
    if len(content) <= max_bytes:
        return text
    digest = hashlib.sha256(content).hexdigest()[:12]
    return f"{content[: max_bytes - len(digest) - 1].decode(errors='ignore')}-{digest}"


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
def calm(timeout_s: float) -> Iterator[None]:
    """MLflow's client with a bounded patience, and quiet: nothing on stdout, and on stderr nothing but errors."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout_s))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
    }
    with _lock:
        _calm.append(wanted)
        if len(_calm) == 1:
            _before.update({name: os.environ.get(name) for name in wanted})
        os.environ.update(wanted)
        import mlflow  # noqa: F401  # sets its own log level when it is first imported

        if len(_calm) == 1:
            _levels.update({name: logging.getLogger(name).level for name in _LOGGERS})
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _lock:
            _calm.remove(wanted)
            if not _calm:
                _as_before()


def _as_before() -> None:
    """When the last of those who use MLflow at once is done."""
    for name, level in _levels.items():
        logging.getLogger(name).setLevel(level)
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def first_line(error: object) -> str:
    """What an error says, without any part of the password that the tracker's URL may hold."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    user, _, host = settings.tracking_uri().partition("://")[2].rpartition("@")
    password = user.partition(":")[2] or user
    if re.search(r"[/?#\s]", password):  # whoever reads such a URL takes parts of it for host, port and path
        return (
            f"{type(error).__name__}; what it says is not shown, since it may quote the password in the URL: "
            "write its special characters as %XX there"
        )
    if user:
        place = re.escape(re.split(r"[/?#]", host)[0])
        line = re.sub(rf"[^\s'\"]*@{place}", re.split(r"[/?#]", host)[0], line)
        for secret in (user, password, urllib.parse.unquote(password)):
            line = line.replace(secret, "***")
    return re.sub(r"//[^/\s]*@", "//", line)[:300]
