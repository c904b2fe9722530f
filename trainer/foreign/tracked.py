"""What the code logs to MLflow: a store of its own in the run directory, made before it starts and read as it grows.

    RUN_DIR/mlruns/0/<run id>/metrics/<key>     "<time in ms> <value> <step>" a line, appended
                             /params/<key>  tags/<key>  artifacts/...

A plain folder, MLflow's oldest kind of store: every version reads and writes it, a line is on the disk when the call
returns, and no server has to be reachable from a machine that is rented. Other runs, and passwords of a tracking
server, are out of its reach. What is read here was written by others: bounded, and no link is followed.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.contract.files import read_bounded, write_atomic

STORE, EXPERIMENT_ID = "mlruns", "0"
MAX_KEYS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 1000, 200, 500
MAX_READ_BYTES = 2**20  # of a key, at one look
# what MLflow's client itself sets, of which nobody needs to be told
_OWN_TAGS = ("mlflow.",)


class Logged(NamedTuple):
    key: str
    value: float
    time_s: float
    step: int
    end: int = 0  # bytes of its file up to here; 0: it is from nowhere that is read again


class TrackedRun:
    """The store of a run directory, made if it is not there, and its one run."""

    def __init__(self, run_dir: Path, name: str):
        self._store = run_dir / STORE
        self.run_id = _make(self._store, name)
        self._folder = self._store / EXPERIMENT_ID / self.run_id
        self._read: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        self._described: dict[str, Any] = {}

    def variables(self) -> dict[str, str]:
        """Of the process that logs. MLflow 3.17 asks to be told that a folder is meant."""
        return {
            "MLFLOW_TRACKING_URI": self._store.absolute().as_uri(),
            "MLFLOW_EXPERIMENT_ID": EXPERIMENT_ID,
            "MLFLOW_RUN_ID": self.run_id,
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def left_behind(self, on_record: Mapping[str, int]) -> list[Logged]:
        """What an earlier process logged and did not bring on record. `on_record`: key -> bytes that are."""
        points: list[Logged] = []
        while more := self.new_points():
            points += more
        self._counted.clear()  # whoever logs without steps begins to count anew
        return [point for point in points if point.end > on_record.get(point.key, 0)]

    def new_points(self) -> list[Logged]:
        """Whole lines since the last look, by time. A key that is logged without steps is counted: 0, 1, 2 ..."""
        points: list[Logged] = []
        for key, path in sorted(_files(self._folder / "metrics")):
            at = self._read.get(key, 0)
            content = _from(path, at)
            for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
                at += len(line)
                if (point := self._point(key, line, at)) is not None:
                    points.append(point)
            self._read[key] = at
        return sorted(points, key=lambda point: point.time_s)

    def description(self) -> dict[str, Any] | None:
        """params, tags and the names of artifacts with their bytes, where any changed since the last look."""
        found = {
            "params": _texts(self._folder / "params"),
            "tags": {k: v for k, v in _texts(self._folder / "tags").items() if not k.startswith(_OWN_TAGS)},
            "artifacts": {name: path.stat().st_size for name, path in _files(self._folder / "artifacts")},
        }
        if found == self._described or not any(found.values()):
            return None
        self._described = found
        return found

    def _point(self, key: str, line: bytes, end: int) -> Logged | None:
        try:
            time_ms, value, step = line.split()[:3]
            point = Logged(key, float(value), int(time_ms) / 1000, max(0, int(step)), end)
        except (ValueError, OverflowError):
            return None
        if point.step == 0:
            number = self._counted[key] = self._counted.get(key, -1) + 1
            return point._replace(step=number)
        return point


def _make(store: Path, name: str) -> str:
    """The id of the store's run. Our own file, so that nobody has to load MLflow for it."""
    experiment = store / EXPERIMENT_ID
    marker = store / "run_id"
    known = marker.read_text().strip() if marker.exists() else ""
    if known:
        return known
    run_id, now = uuid.uuid4().hex, int(time.time() * 1000)
    run = experiment / run_id
    for folder in ("metrics", "params", "tags", "artifacts"):
        (run / folder).mkdir(parents=True, exist_ok=True)
    at = experiment.absolute().as_uri()
    _write_meta(
        experiment,
        artifact_location=at,
        creation_time=now,
        experiment_id=EXPERIMENT_ID,
        last_update_time=now,
        lifecycle_stage="active",
        name="Default",
    )
    _write_meta(
        run,
        artifact_uri=f"{at}/{run_id}/artifacts",
        end_time=None,
        entry_point_name="",
        experiment_id=EXPERIMENT_ID,
        lifecycle_stage="active",
        run_id=run_id,
        run_name=name,
        run_uuid=run_id,
        source_name="",
        source_type=4,
        source_version="",
        start_time=now,
        status=1,
        tags=[],
        user_id="patron",
    )
    write_atomic(marker, run_id)
    return run_id


def _write_meta(folder: Path, **values: Any) -> None:
    lines = [f"{key}: {_yaml(value)}" for key, value in values.items()]
    write_atomic(folder / "meta.yaml", "\n".join(lines) + "\n")


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    return "'" + value.replace("'", "''").replace("\n", " ") + "'" if isinstance(value, str) else str(value)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name with slashes, file) of what is there, without links, within bounds."""
    left = MAX_KEYS
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            key = path.relative_to(folder).as_posix()
            if len(key) <= MAX_KEY_CHARS and not path.is_symlink() and path.is_file() and left:
                left -= 1
                yield key, path


def _from(path: Path, first: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        file.seek(first)
        return file.read(MAX_READ_BYTES)


def _texts(folder: Path) -> dict[str, str]:
    found = {}
    for key, path in _files(folder):
        content = read_bounded(path, 64 * 1024)
        found[key] = (content or b"").decode(errors="replace")[:MAX_VALUE_CHARS]
    return found
