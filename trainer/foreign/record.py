"""From what is logged and printed to events, in the order in which a resume can be told from a start anew.

The first step that is logged after a start says where the code went on from: 41 means 40. Until it is known nothing of
that attempt is recorded, except what an earlier one left behind. Each event says how far the files of the store were
read, so that a crash between reading and recording neither loses a point nor brings one twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from trainer.contract.events import EventWriter, files_in
from trainer.contract.foreign import ForeignSpec
from trainer.contract.layout import EVENTS, segment_of
from trainer.contract.shapes import count, object_of
from trainer.foreign.logs import Log
from trainer.foreign.tracked import Logged, TrackedRun

READ = "read"  # of a metrics event: {"run": id of the store's run, key: bytes of its file that are on record}
DESCRIBE_EVERY_S = 2.0
_PACE = "train/step_s"
_SETTLED = 2  # steps of a burst that compile and warm up


class Record:
    def __init__(
        self, spec: ForeignSpec, run_dir: Path, events: EventWriter, tracked: TrackedRun, log: Log, *, is_burst: bool
    ):
        self._spec, self._events, self._tracked, self._log = spec, events, tracked, log
        self._is_burst = is_burst
        self._seen = _Seen.of(run_dir, tracked.run_id)
        self._waiting: list[Logged] | None = None  # until it is known where the code went on from
        self._step: int | None = None
        self._times: dict[str, list[tuple[int, float, float]]] = {}  # of a burst: key -> (step, time, value)
        self.checkpoint_step: int | None = None
        self._describe_at = 0.0

    def begin(self, step: int | None, *, knows_resume: bool) -> None:
        self._emit(self._tracked.left_behind(self._seen.bytes))
        self.checkpoint_step = step
        if knows_resume or not self._seen.highest:
            self._start(step)
        else:
            self._waiting = []

    def take(self, *, is_end: bool = False) -> None:
        """Everything that is new; what it says of itself is looked for now and then, since that walks its files."""
        points = self._tracked.new_points() + self._log.points
        self._log.points = []
        evals, self._log.evals = self._log.evals, []
        if self._waiting is not None:
            self._waiting += points
            first = next((point for point in self._waiting if self._is_curve(point)), None)
            if first is None:
                return
            points, self._waiting = self._waiting, None
            self._start(first.step - 1 if first.step > 1 else None)
        self._emit(points)
        for step, val_bpb, at in evals:
            self._step = max(step, self._step or 0)
            self._events.emit("eval", step=step, time=at, val_bpb=val_bpb)
        if not is_end and time.monotonic() < self._describe_at:
            return
        self._describe_at = time.monotonic() + DESCRIBE_EVERY_S
        described = self._tracked.description()
        if described is not None:
            self._events.emit("logged", **described)

    def checkpoints(self, taken: Iterable[tuple[int, int]]) -> None:
        for step, num_bytes in taken:
            self.checkpoint_step = step
            self._events.emit("checkpoint", step=step, bytes=num_bytes)

    def close_open(self) -> None:
        """It ended before it logged a step: then it began anew, for all that is known."""
        if self._waiting is not None and self._waiting:
            points, self._waiting = self._waiting, None
            self._start(None)
            self._emit(points)

    def is_at_its_end(self) -> bool:
        return self._spec.num_steps is not None and (self._step or 0) >= self._spec.num_steps

    def figures(self) -> dict[str, Any]:
        known = ("val_bpb", "min_val_bpb", "tokens_per_s", "mfu", "peak_memory_bytes")
        return {"step": self._step} | {name: self._log.figures.get(name) for name in known}

    def burst(self, steps: int, *, started_at: float, ended_at: float) -> dict[str, Any]:
        """What a burst of so many of its own steps took: a step, what comes before the first and after the last."""
        wall_s = ended_at - started_at
        curve = sorted(max(self._times.values(), key=lambda line: len({step for step, _, _ in line}), default=[]))
        found: dict[str, Any] = {
            "steps": steps,
            "unit": self._spec.steps_parameter,
            "wall_s": wall_s,
            "checkpoint_bytes": None,
            "peak_memory_bytes": self._log.figures.get("peak_memory_bytes"),
            "mfu": self._log.figures.get("mfu"),
        }
        if len({step for step, _, _ in curve}) < 3:  # its pace cannot be told from its start
            return found | {
                "step_s": wall_s / steps,
                "step_s_spread": 0.5,
                "start_s": 0.0,
                "end_s": 0.0,
                "paced": False,
            }
        (first_step, _, _), (last_step, last_at, _) = curve[0], curve[-1]
        paces = [value for _, _, value in sorted(self._times.get(_PACE, []))]
        if not paces:
            pairs = pairwise(curve)
            paces = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0]]
        settled = paces[_SETTLED:] or paces
        per_unit = (last_step - first_step + 1) / steps  # steps of the curve: batches of an epoch, say
        step_s = median(settled) * max(1.0, per_unit)
        end_s = max(0.0, ended_at - last_at)
        return found | {
            "step_s": step_s,
            "step_s_spread": (max(settled) - min(settled)) / 2 / median(settled) if median(settled) > 0 else 0.5,
            "start_s": max(0.0, wall_s - end_s - step_s * steps),
            "end_s": end_s,
            "paced": True,
        }

    def _start(self, step: int | None) -> None:
        self._events.emit("start", step=step, resumed_step=step, num_steps=self._spec.num_steps, burst=self._is_burst)

    def _is_curve(self, point: Logged) -> bool:
        """Of a key that had steps before: what is logged once at a start says nothing of where the code stands."""
        return self._seen.highest.get(point.key, 0) > 1

    def _emit(self, points: list[Logged]) -> None:
        """Consecutive points of a step in one event."""
        for step, group in groupby(points, key=lambda point: point.step):
            some = list(group)
            for each in _without_repeats(some):
                ends = {point.key: point.end for point in each if point.end}
                read = {READ: {"run": self._tracked.run_id, **ends}} if ends else {}
                values = {point.key: point.value for point in each}
                self._events.emit("metrics", step=step, time=each[0].time_s, metrics=values, **read)
            self._step = max(step, self._step or 0)
            for point in some if self._is_burst else ():
                self._times.setdefault(point.key, []).append((point.step, point.time_s, point.value))


def _without_repeats(points: list[Logged]) -> list[list[Logged]]:
    """In as few events as there are values of one key."""
    events: list[list[Logged]] = []
    for point in points:
        room = next((each for each in events if all(point.key != other.key for other in each)), None)
        if room is None:
            events.append([point])
        else:
            room.append(point)
    return events


class _Seen:
    """What all attempts so far have on record."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}  # of the files of the store that is here
        self.highest: dict[str, int] = {}  # key -> step

    @classmethod
    def of(cls, run_dir: Path, store_run_id: str) -> _Seen:
        seen = cls()
        for path in files_in(run_dir / EVENTS, "*.jsonl"):
            if segment_of(path.name) is None:
                continue
            for line in path.read_bytes().splitlines():
                event = object_of(line) or {}
                if event.get("kind") == "metrics":
                    seen._add(event, store_run_id)
        return seen

    def _add(self, event: dict[str, Any], store_run_id: str) -> None:
        step, read = count(event.get("step")) or 0, event.get(READ) or {}
        for key in event.get("metrics") or {}:
            self.highest[key] = max(step, self.highest.get(key, 0))
        if read.get("run") == store_run_id:
            for key, end in read.items():
                if isinstance(end, int):
                    self.bytes[key] = max(end, self.bytes.get(key, 0))
