"""A run directory, read: the contract between a workload and the core. The only reader of it in the core.

    spec.json  environment.json  result.json  events/<attempt>-<n>.jsonl  checkpoints/step-000300/  logs/<attempt>.log

Everything here may be written by another machine at this moment, torn, or not there yet; none of that is an error to a
reader. Only closed segments (*.jsonl) are read, and only a checkpoint's manifest is believed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from patron_core.errors import Conflict
from patron_core.rundir.places import Folder, place_of
from trainer.contract import control, shapes
from trainer.contract.keys import kind_and_number
from trainer.contract.layout import (
    CHECKPOINTS,
    ENVIRONMENT,
    EVENTS,
    MANIFEST,
    RESULT,
    SPEC,
    Segment,
    checkpoint_name,
    files_by_step,
    in_order,
    is_whole,
    log_name,
    segment_name,
    segment_of,
)
from trainer.contract.masking import mask, masked
from trainer.contract.remote import join

Cursor = dict[str, Any]
MAX_SEQ_JUMP = 10_000_000  # a writer that a disk refused loses fewer events than that
SLICE_SEGMENTS = 200  # that are parsed at once: what a long record takes of memory does not grow with it

# what a resume undoes: it happened, but after the checkpoint that the run went back to
REWOUND = frozenset({"metrics", "system", "eval", "checkpoint", "sample"})
MEASURED = frozenset({"metrics", "system"})  # named numbers of a step: of the training, and of its machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    seq: int
    time: float
    attempt: str
    kind: str
    step: int | None
    data: dict[str, Any]  # everything else on its line


class Slice(NamedTuple):
    """A part of the record, and the cursor behind it."""

    events: list[Event]
    cursor: Cursor
    more: bool  # is there already


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A whole one: a manifest is there, and every file has the size that it states; in a bucket: it is durable."""

    step: int
    path: str  # a folder or a URL
    bytes: int  # of the files that are there
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # bytes and sha256, as its manifest states them


class RunDir:
    """A folder, or s3:// or gs://, for which every call may raise Unreachable: that is not known to be empty."""

    def __init__(self, where: str | Path):
        self.where = str(where)
        self._place = place_of(where)

    @property
    def path(self) -> Path:
        """Of a folder."""
        assert isinstance(self._place, Folder), f"{self.where} is no folder"
        return self._place.path

    def exists(self) -> bool:
        return self._place.exists()

    def write_spec(self, canonical_json: str) -> None:
        """Freeze the spec. Writing the same one again changes nothing; a different one raises Conflict."""
        content = canonical_json.encode()
        if not self._place.create(SPEC, content) and self._place.read(SPEC) != content:
            raise Conflict(
                f"{join(self.where, SPEC)} holds a different spec, and a run's spec is frozen",
                next="make a new run for the changed spec",
            )

    def put_file(self, name: str, content: bytes) -> None:
        """What the run is started with. Again, it changes nothing; other content raises Conflict."""
        if not self._place.create(name, content) and self._place.read(name) != content:
            raise Conflict(f"{join(self.where, name)} is another file than the one planned", next="make a new run")

    def file(self, name: str) -> bytes | None:
        return self._place.read(name)

    def spec(self) -> dict[str, Any] | None:
        return shapes.object_of(self._place.read(SPEC))

    def control(self) -> bytes | None:
        return self._place.read(control.NAME)

    def move_deadline(self, attempt: str, deadline_s: float, key: str | None = None) -> None:
        """Have the attempt run until `deadline_s` seconds after its start, which is later than it was told."""
        self._place.write(control.NAME, control.content(attempt, deadline_s, key))

    def environment(self) -> dict[str, Any] | None:
        found = shapes.object_of(self._place.read(ENVIRONMENT))
        return None if found is None else masked(shapes.known(found))

    def result(self) -> dict[str, Any] | None:
        """The last word; None if absent or torn. A resumed attempt replaces it, so check its time or step."""
        found = shapes.object_of(self._place.read(RESULT))
        return None if found is None else masked(shapes.known(found))

    def newest_checkpoint(self) -> CheckpointInfo | None:
        """The newest whole one."""
        return self.look_for_checkpoint()[0]

    def look_for_checkpoint(self) -> tuple[CheckpointInfo | None, list[int]]:
        """The newest whole one, and the steps above it whose manifest states what is not there: they are damaged.

        What has no manifest is still being written, or was left by a crash.
        """
        damaged: list[int] = []
        for step, sizes in sorted(files_by_step(self._place.sizes(CHECKPOINTS)).items(), reverse=True):
            if MANIFEST not in sizes:
                continue
            name = checkpoint_name(step)
            if is_whole(sizes, shapes.object_of(self._place.read(f"{name}/{MANIFEST}"))):
                return CheckpointInfo(step=step, path=join(self.where, name), bytes=sum(sizes.values())), damaged
            damaged.append(step)
        return None, damaged

    def checkpoint_bytes(self) -> int:
        """Of all checkpoints that are there, whole or not: they take up space."""
        return sum(self._place.sizes(CHECKPOINTS).values())

    def checkpoints(self) -> list[CheckpointInfo]:
        """All whole ones with their files, newest first."""
        found = []
        for step, sizes in sorted(files_by_step(self._place.sizes(CHECKPOINTS)).items(), reverse=True):
            name = checkpoint_name(step)
            manifest = shapes.object_of(self._place.read(f"{name}/{MANIFEST}")) if MANIFEST in sizes else None
            if is_whole(sizes, manifest):
                stated = shapes.stated_files(manifest) or {}
                files = {file: {"bytes": size, "hash": sha} for file, (size, sha) in stated.items()}
                where = join(self.where, name)
                found.append(CheckpointInfo(step=step, path=where, bytes=sum(sizes.values()), files=files))
        return found

    def read_events(self, cursor: Cursor | None = None) -> tuple[list[Event], Cursor]:
        """What was closed since `cursor`, in order, and the cursor to give next time. The old cursor is not changed.

        The cursor is JSON: segments (attempt -> last number read), seqs (attempt -> highest event read), garbage_lines
        and missing_segments (counts so far). What a writer wrote again, since a disk had refused, is given once.
        """
        parts = list(self.slices(cursor))
        return [event for part in parts for event in part.events], parts[-1].cursor

    def slices(self, cursor: Cursor | None = None) -> Iterator[Slice]:
        """The same in parts of SLICE_SEGMENTS, as they were before they were merged; at least one."""
        cursor, events, held, given = _copied(cursor), [], 0, False
        for segment, content, more in self._unread(cursor["segments"]):
            read = cursor["segments"].get(segment.attempt, segment.first - 1)
            cursor["missing_segments"] += max(0, segment.first - read - 1)
            cursor["segments"][segment.attempt] = segment.last
            parsed, garbage = _parse_segment(content)
            events += _unseen(parsed, cursor["seqs"])
            cursor["garbage_lines"] += garbage
            held += segment.last - segment.first + 1
            if held >= SLICE_SEGMENTS or not more:
                yield Slice(events, cursor, more)
                cursor, events, held, given = _copied(cursor), [], 0, True
        if events or not given:
            yield Slice(events, cursor, False)

    def log_tail(self, attempt: str, lines: int) -> str:
        return mask(self._place.tail(log_name(attempt), lines))

    def _unread(self, read: Mapping[str, int]) -> Iterator[tuple[Segment, bytes, bool]]:
        """Segments behind these, each with its content and whether there are more. Of one that is not there a later one
        of its attempt counts it as missing; without one it may come back."""
        read, gone = dict(read), set[Segment]()
        while True:
            new = self._new_segments(read)
            contents = self._place.read_all([f"{EVENTS}/{segment.name}" for segment in new])
            for segment, content in zip(new, contents, strict=True):
                if content is not None:
                    read[segment.attempt] = segment.last
                    yield segment, content, segment is not new[-1]
                elif self._place.is_away(EVENTS):
                    return  # all of it went away: unmounted, not deleted; read on from here when it is back
                elif segment not in gone:
                    gone.add(segment)
                    break  # merged into another since we listed, which a second listing has
            else:
                return

    def _new_segments(self, read: Mapping[str, int]) -> list[Segment]:
        new = self._list_segments(read)
        if _has_gap(new, read):
            # a listing is not a snapshot: one renamed while we listed may be missed, and a second look finds it
            new = self._list_segments(read)
        return new

    def _list_segments(self, read: Mapping[str, int]) -> list[Segment]:
        def read_up_to(name: str) -> str | None:
            segment = segment_of(name)
            number = read.get(segment.attempt) if segment else None
            return None if segment is None or number is None else segment_name(segment.attempt, number)

        there = filter(None, map(segment_of, self._place.names(EVENTS, read_up_to)))
        new = in_order(segment for segment in there if segment.last > read.get(segment.attempt, -1))
        return sorted(new, key=lambda segment: attempt_order(segment.attempt))


def attempt_order(attempt: str) -> tuple[int, str, str]:
    """Sorts attempts as they happened: by their number, a dryrun before a train of the same number."""
    kind, number = kind_and_number(attempt) or ("", 0)
    return number, kind, attempt


def lineage(events: Sequence[Event]) -> list[Event]:
    """The true history: what each resume went back behind is dropped, the marks of every attempt are kept.

    A start that resumed from step s undoes the earlier metrics, evals and checkpoints of steps above s; one from
    scratch undoes all of them.
    """
    limit = float("inf")
    kept = []
    for event in reversed(events):
        if event.kind in REWOUND and (0 if event.step is None else event.step) > limit:
            continue
        kept.append(event)
        if event.kind == "start":
            limit = min(limit, back_to(event))
    kept.reverse()
    return kept


def back_to(start: Event) -> int:
    """The step that it went on from; -1 is from scratch."""
    step = start.data.get("resumed_step")
    return step if isinstance(step, int) else -1


def logged_of(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """What the newest word of foreign code on itself says: params, tags, and artifacts with their bytes."""
    newest = next((event.data for event in reversed(events) if event.kind == "logged"), {})
    return {name: dict(newest[name]) for name in ("params", "tags", "artifacts") if isinstance(newest.get(name), dict)}


def _copied(cursor: Cursor | None) -> Cursor:
    found: Cursor = {"segments": {}, "seqs": {}, "garbage_lines": 0, "missing_segments": 0} | (cursor or {})
    return found | {"segments": dict(found["segments"]), "seqs": dict(found["seqs"])}


def _has_gap(new: Sequence[Segment], read: Mapping[str, int]) -> bool:
    last = dict(read)
    for attempt, first, number in new:
        if first > last.get(attempt, -1) + 1:
            return True
        last[attempt] = number
    return False


def _unseen(events: Sequence[Event], seqs: dict[str, int]) -> list[Event]:
    """Those that no earlier segment had, each once; `seqs` is brought up to date."""
    highest = dict(seqs)
    new: dict[tuple[str, int], Event] = {}
    for event in events:
        if event.attempt not in highest or event.seq > highest[event.attempt]:
            if event.seq > seqs.get(event.attempt, 0) + MAX_SEQ_JUMP:
                continue  # it would hide all that its attempt says after it
            new.setdefault((event.attempt, event.seq), event)
            seqs[event.attempt] = max(event.seq, seqs.get(event.attempt, event.seq))
    return list(new.values())


def _parse_segment(content: bytes) -> tuple[list[Event], int]:
    """The events of a segment, and how many of its lines are none."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    try:
        items = json.loads(b"[" + b",".join(lines) + b"]")  # one call for all is twice as fast as one a line
        if len(items) != len(lines):
            raise ValueError("a line holds no single value")
    except (ValueError, RecursionError):
        items = [shapes.parse(line) for line in lines]
    events = [event for item in items if (event := _to_event(item)) is not None]
    return events, len(lines) - len(events)


def _to_event(item: Any) -> Event | None:
    try:
        seq, time, attempt, kind = item.pop("seq"), item.pop("time"), item.pop("attempt"), item.pop("kind")
        step = item.pop("step", None)
    except (AttributeError, KeyError, TypeError):
        return None
    at = shapes.number(time, 0.0)
    good = shapes.count(seq) is not None and at is not None and isinstance(attempt, str) and isinstance(kind, str)
    if not good or not (step is None or shapes.count(step) is not None):
        return None
    if kind in MEASURED:
        named = shapes.metrics(item.pop("metrics", None))
        item = {"metrics": named, **shapes.known(item)} if item else {"metrics": named}
    else:
        item = masked(shapes.known(item))
    return Event(seq=seq, time=at or 0.0, attempt=attempt[:200], kind=kind[:100], step=step, data=item)
