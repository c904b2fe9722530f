"""Where the mirror of a run stands, and what it still lacks: from events to points. Pure; `tracking` sends them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from patron_core.rundir.record import EVAL_KEYS
from patron_core.rundir.rundir import MEASURED, Cursor, Event, attempt_order, back_to, lineage

ATTEMPT_KEY = "patron/attempt"  # counts the starts, at the step that each went on from: charts draw markers at them
MAX_PARAM_CHARS, MAX_KEY_CHARS = 6000, 250  # MLflow's limits


class Point(NamedTuple):
    key: str
    value: float
    time_ms: int
    step: int


@dataclass(kw_only=True)
class Position:
    """JSON in the store."""

    version: int = 0  # counts the commits: of two syncs at once, one wins and one is told
    cursor: Cursor | None = None
    highest: dict[str, int] = field(default_factory=dict)  # key -> step; each step of a key is mirrored once
    starts: list[list[Any]] = field(default_factory=list)  # attempt, seq, time, step gone on from; in order
    rewinding_to: int | None = None  # a fresh MLflow run is being filled, which then takes over
    finished: bool = False  # the run is over, all of it is mirrored, and MLflow has its status
    sent: dict[str, str] = field(default_factory=dict)  # tags as MLflow has them
    extra: dict[str, float] = field(default_factory=dict)  # figures of the caller, as sent last
    artifacts: dict[str, str] = field(default_factory=dict)  # name -> hash of what was uploaded
    artifacts_after: float = 0.0
    samples: dict[str, Any] | None = None  # of the newest sample event: an artifact, once its turn comes

    logged: dict[str, Any] | None = None  # of the newest event of foreign code on itself

    def fresh(self, starts: list[list[Any]], *, rewinding_to: int | None) -> Position:
        """For another, empty MLflow run. What these starts undid is left out there, so they rewind it no further."""
        return Position(
            version=self.version, starts=starts, rewinding_to=rewinding_to, extra=self.extra, logged=self.logged
        )

    @property
    def highest_step(self) -> int | None:
        return max(self.highest.values(), default=None)

    def advance_highest(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step > self.highest.get(point.key, -1):
                self.highest[point.key] = point.step

    def keep_samples(self, events: Sequence[Event]) -> None:
        """What the newest of these events says of them, if one does."""
        for event in reversed(self._true(events)):
            if event.kind == "sample":
                self.samples = {"step": event.step, **event.data}
                return

    def with_starts(self, events: Sequence[Event]) -> tuple[list[list[Any]], int | None]:
        """All starts, and the step to rewind to if a new one went back behind what is mirrored."""
        starts = {(start[0], start[1]): start for start in self.starts}
        new = [event for event in events if event.kind == "start" and (event.attempt, event.seq) not in starts]
        for event in new:
            starts[event.attempt, event.seq] = [event.attempt, event.seq, event.time, back_to(event)]
        lowest = min(map(back_to, new), default=sys.maxsize)
        rewind_to = lowest if max(self.highest.values(), default=-1) > lowest else None
        return sorted(starts.values(), key=lambda start: (attempt_order(start[0]), start[1])), rewind_to

    def missing_points(self, events: Sequence[Event]) -> list[Point]:
        """What the events after the cursor add to the true lineage. Their starts are in `starts` already."""
        if not events:
            return []
        numbers = {(start[0], start[1]): float(number) for number, start in enumerate(self.starts, 1)}
        newest = max(map(attempt_order, (self.cursor or {}).get("segments", {})), default=None)
        is_late = newest is not None and attempt_order(events[0].attempt) < newest
        kept = self._true(events)
        highest = dict(self.highest)
        points = []
        for event in kept:
            time_ms = int(event.time * 1000)
            if event.kind == "start":
                number = numbers[event.attempt, event.seq]
                points.append(Point(ATTEMPT_KEY, number, time_ms, max(0, back_to(event))))
                continue
            fills_gap = newest is not None and is_late and attempt_order(event.attempt) < newest
            step = event.step or 0
            for key, value in _values(event):
                if fills_gap or step > highest.get(key, -1):
                    highest[key] = max(step, highest.get(key, -1))
                    points.append(Point(key, value, time_ms, step))
        return points

    def _true(self, events: Sequence[Event]) -> list[Event]:
        """Of these events those that count. Known starts that come after them decide that too: they are an older
        attempt's last words that came late, or a slice of a history of which all starts are known."""
        present = {(event.attempt, event.seq) for event in events}
        first = min(((attempt_order(event.attempt), event.seq) for event in events), default=None)
        others = [
            Event(seq=seq, time=time, attempt=attempt, kind="start", step=None, data={"resumed_step": resumed_step})
            for attempt, seq, time, resumed_step in self.starts
            if (attempt, seq) not in present and first is not None and (attempt_order(attempt), seq) > first
        ]
        if not others:
            return lineage(events)
        history = sorted([*events, *others], key=lambda event: (attempt_order(event.attempt), event.seq))
        return [event for event in lineage(history) if (event.attempt, event.seq) in present]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as MLflow parameters: dotted names and text, within MLflow's limits."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = re.sub(r"[^\w/.\- :]", "_", f"{prefix}{name}")[:MAX_KEY_CHARS]
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[key] = text if len(text) <= MAX_PARAM_CHARS else f"{text[: MAX_PARAM_CHARS - 3]}..."
    return flat


def _values(event: Event) -> Iterator[tuple[str, float]]:
    if event.kind in MEASURED:
        metrics = event.data.get("metrics")
        named = metrics.items() if isinstance(metrics, dict) else ()
    elif event.kind == "eval":
        named = ((key, event.data.get(name)) for name, key in EVAL_KEYS.items())  # type: ignore[assignment]
    else:
        return
    for key, value in named:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)
