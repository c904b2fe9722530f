"""A run directory, read: the contract between a workload and the core. The only reader of it in the core.

    spec.json  environment.json  result.json  events/<attempt>-<n>.jsonl  checkpoints/step-000300/  logs/<attempt>.log

Everything here may be written by another machine at this moment, torn, or not there yet; none of that is an error to a
reader. Only closed segments (*.jsonl) are read, and only a checkpoint's manifest is believed.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patron_core.errors import Conflict, InvalidInput
from patron_core.files import read_json, tail

Cursor = dict[str, Any]

_SEGMENT = re.compile(r"(?P<attempt>.+)-(?P<number>\d+)\.jsonl")
_ATTEMPT = re.compile(r"(?:.*-)?(?P<kind>[a-z]+)-(?P<ordinal>\d+)")
_CHECKPOINT = re.compile(r"step-(\d+)")
_OTHER_STOPS = frozenset({"SIGTERM", "SIGINT", "deadline"})  # sources of a notice event that anybody may be
# what a resume undoes: it happened, but after the checkpoint that the run went back to
_REWOUND = frozenset({"metrics", "eval", "checkpoint", "sample"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    seq: int
    time: float
    attempt: str
    kind: str
    step: int | None
    data: dict[str, Any]  # everything else on its line


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    step: int
    path: Path
    bytes: int  # of the files that are there
    complete: bool  # a manifest is there, and every file has the size that it states


class RunDir:
    def __init__(self, path: str | Path):
        if "://" in str(path):
            raise InvalidInput(
                [f"run directory: {path}; only folders of this machine can be read so far"],
                next="mount the bucket and give the folder's path",
            )
        self.path = Path(path)

    def exists(self) -> bool:
        return self.path.is_dir()

    def write_spec(self, canonical_json: str) -> None:
        """Freeze the spec. Writing the same one again changes nothing; a different one raises Conflict."""
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.path / "spec.json"
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=".spec-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(canonical_json)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            _publish(Path(temporary), target)
        except FileExistsError:
            if target.read_text(encoding="utf-8") != canonical_json:
                raise Conflict(
                    f"{target} holds a different spec, and a run's spec is frozen",
                    next="make a new run for the changed spec",
                ) from None
        finally:
            Path(temporary).unlink(missing_ok=True)

    def spec(self) -> dict[str, Any] | None:
        return read_json(self.path / "spec.json")

    def environment(self) -> dict[str, Any] | None:
        return read_json(self.path / "environment.json")

    def result(self) -> dict[str, Any] | None:
        """The last word; None if absent or torn. A resumed attempt replaces it, so check its time or step."""
        return read_json(self.path / "result.json")

    def checkpoints(self) -> list[CheckpointInfo]:
        """By step, the incomplete ones too: they are what a crash left, and take up space."""
        found = []
        for folder in _children(self.path / "checkpoints"):
            match = _CHECKPOINT.fullmatch(folder.name)
            if match and folder.is_dir():
                found.append(_inspect_checkpoint(folder, int(match[1])))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def newest_checkpoint(self) -> CheckpointInfo | None:
        return max((c for c in self.checkpoints() if c.complete), key=lambda c: c.step, default=None)

    def read_events(self, cursor: Cursor | None = None) -> tuple[list[Event], Cursor]:
        """What was closed since `cursor`, in order, and the cursor to give next time. The old cursor is not changed.

        The cursor is JSON: segments (attempt -> last number read), garbage_lines and missing_segments (counts so far).
        """
        segments: dict[str, int] = dict((cursor or {}).get("segments", {}))
        garbage_lines: int = (cursor or {}).get("garbage_lines", 0)
        missing_segments: int = (cursor or {}).get("missing_segments", 0)
        folder = self.path / "events"
        events: list[Event] = []
        for attempt, number, name in self._new_segments(segments):
            try:
                content = (folder / name).read_bytes()
            except FileNotFoundError:
                if not folder.is_dir():
                    break  # all of it went away: unmounted, not deleted; read on from here when it is back
                continue  # a later segment of this attempt counts it as missing; without one it may come back
            if attempt in segments:
                missing_segments += number - segments[attempt] - 1
            segments[attempt] = number
            parsed, garbage = _parse_segment(content)
            events += parsed
            garbage_lines += garbage
        return events, {
            "segments": segments,
            "garbage_lines": garbage_lines,
            "missing_segments": missing_segments,
        }

    def all_events(self) -> list[Event]:
        return self.read_events()[0]

    def reclaim_notice(self, attempt: str) -> str | None:
        """Who told the workload that its machine is taken away: a cloud and what it said, or a notice file."""
        notices = (e for e in self.all_events() if e.kind == "notice" and e.attempt == attempt)
        sources = [str(event.data.get("source")) for event in notices]
        return next((source for source in sources if source not in _OTHER_STOPS), None)

    def log_tail(self, attempt: str, lines: int) -> str:
        return tail(self.path / "logs" / f"{attempt}.log", lines)

    def _new_segments(self, read: dict[str, int]) -> list[tuple[str, int, str]]:
        new = self._list_segments(read)
        if _has_gap(new, read):
            # a listing is not a snapshot: one renamed while we listed may be missed, and a second look finds it
            new = self._list_segments(read)
        return new

    def _list_segments(self, read: dict[str, int]) -> list[tuple[str, int, str]]:
        new = []
        for path in _children(self.path / "events"):
            match = _SEGMENT.fullmatch(path.name)
            if match and int(match["number"]) > read.get(match["attempt"], -1):
                new.append((match["attempt"], int(match["number"]), path.name))
        return sorted(new, key=lambda segment: (attempt_order(segment[0]), segment[1]))


def attempt_order(attempt: str) -> tuple[int, str, str]:
    """Sorts attempts as they happened: by their number, a dryrun before a train of the same number."""
    match = _ATTEMPT.fullmatch(attempt)
    return (int(match["ordinal"]), match["kind"], attempt) if match else (0, "", attempt)


def lineage(events: Sequence[Event]) -> list[Event]:
    """The true history: what each resume went back behind is dropped, the marks of every attempt are kept.

    A start that resumed from step s undoes the earlier metrics, evals and checkpoints of steps above s; one from
    scratch undoes all of them.
    """
    limit = float("inf")
    kept = []
    for event in reversed(events):
        if event.kind in _REWOUND and (0 if event.step is None else event.step) > limit:
            continue
        kept.append(event)
        if event.kind == "start":
            resumed_step = event.data.get("resumed_step")
            limit = min(limit, resumed_step if isinstance(resumed_step, int) else -1)
    kept.reverse()
    return kept


def curve(events: Iterable[Event], key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric ("train/loss") or of an eval's field ("val_bpb"), in the order of the events."""
    points = []
    for event in events:
        if event.step is None:
            continue
        if event.kind == "metrics":
            metrics = event.data.get("metrics")
            value = metrics.get(key) if isinstance(metrics, dict) else None
        elif event.kind == "eval":
            value = event.data.get(key)
        else:
            continue
        if isinstance(value, int | float):
            points.append((event.step, float(value)))
    return points


def _publish(source: Path, target: Path) -> None:
    """Give `source` the name `target`, which must be free: FileExistsError otherwise."""
    try:
        os.link(source, target)  # unlike a rename, a link never replaces what is there
    except FileExistsError:
        raise
    except OSError:  # a mounted bucket has no links; it is one writer's folder, so look and rename
        if target.exists():
            raise FileExistsError(target) from None
        source.rename(target)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_gap(new: Sequence[tuple[str, int, str]], read: dict[str, int]) -> bool:
    last = dict(read)
    for attempt, number, _ in new:
        if attempt in last and number != last[attempt] + 1:
            return True
        last[attempt] = number
    return False


def _parse_segment(content: bytes) -> tuple[list[Event], int]:
    """The events of a segment, and how many of its lines are none."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    try:
        items = json.loads(b"[" + b",".join(lines) + b"]")  # one call for all is twice as fast as one a line
        if len(items) != len(lines):
            raise ValueError("a line holds no single value")
    except ValueError:
        items = [_parse_line(line) for line in lines]
    events = [event for item in items if (event := _to_event(item)) is not None]
    return events, len(lines) - len(events)


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _to_event(item: Any) -> Event | None:
    try:
        seq, time, attempt, kind = item.pop("seq"), item.pop("time"), item.pop("attempt"), item.pop("kind")
        step = item.pop("step", None)
    except (AttributeError, KeyError, TypeError):
        return None
    good = isinstance(seq, int) and isinstance(time, int | float) and isinstance(attempt, str) and isinstance(kind, str)
    if not good or not (step is None or isinstance(step, int)):
        return None
    return Event(seq=seq, time=time, attempt=attempt, kind=kind, step=step, data=item)


def _inspect_checkpoint(folder: Path, step: int) -> CheckpointInfo:
    manifest = read_json(folder / "manifest.json")
    files = manifest.get("files") if manifest else None
    complete = isinstance(files, dict) and len(files) > 0
    for name, stated in (files if isinstance(files, dict) else {}).items():
        stated_bytes = stated.get("bytes") if isinstance(stated, dict) else None
        complete = complete and _size_bytes(folder / name) == stated_bytes
    present_bytes = sum(_size_bytes(path) or 0 for path in _children(folder))
    return CheckpointInfo(step=step, path=folder, bytes=present_bytes, complete=complete)


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
