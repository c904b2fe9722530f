"""The record of a run as columns: all that its events said so far, appended as they come, without what a resume undid.

One record of a run serves everybody in a process. Numbers lie in arrays, a few dozen bytes a step; what happens seldom
(starts, warnings, samples) is kept as it was said. However long the run is, a new event costs what it is, not the rest.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from patron_core.rundir.rundir import MEASURED, REWOUND, Cursor, Event, RunDir, attempt_order, back_to

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

# what an eval event says -> what it is called wherever there are curves: in MLflow, on pages, in frames
EVAL_KEYS = {"val_bpb": "val/bpb", "val_loss": "val/loss"}
MAX_BYTES = 256 * 2**20  # of all records together; the one that was asked for last is kept whatever it takes
_MARK_BYTES = 600  # about, without its words
_OTHER_STOPS = frozenset({"SIGTERM", "SIGINT", "deadline"})  # sources of a notice event that anybody may be
_NEVER = 2**62


class Rows:
    """The points that name the same keys: step, time, attempt (its number in the record) and a value of each key."""

    def __init__(self, keys: tuple[str, ...]):
        self.keys = keys
        self.steps, self.times, self.attempts = array("q"), array("d"), array("I")
        self.values = tuple(array("d") for _ in keys)
        self._highest = -1
        self._rises = self._in_order = True  # steps; attempts

    @property
    def bytes(self) -> int:
        return sum(column.itemsize * len(column) for column in self._columns())

    def append(self, step: int, time: float, attempt: int, values: Sequence[float], *, is_late: bool) -> None:
        self._rises = self._rises and step >= self._highest
        self._in_order = self._in_order and not is_late
        self._highest = max(self._highest, step)
        self.steps.append(step)
        self.times.append(time)
        self.attempts.append(attempt)
        for column, value in zip(self.values, values, strict=True):
            column.append(value)

    def undo(self, above_step: int, attempts: set[int]) -> None:
        """Of these attempts, what is above the step."""
        if self._highest <= above_step:
            return
        if self._rises and set(self.attempts) <= attempts:
            self._keep(range(bisect_right(self.steps, above_step)))
        else:
            pairs = enumerate(zip(self.steps, self.attempts, strict=True))
            self._keep([at for at, (step, attempt) in pairs if step <= above_step or attempt not in attempts])

    def put_in_order(self, rank: Sequence[int]) -> None:
        """After the last words of an older attempt came late. `rank`: of each attempt by its number."""
        if not self._in_order:
            self._keep(sorted(range(len(self.steps)), key=lambda at: rank[self.attempts[at]]))
            self._in_order = True

    def _keep(self, which: Sequence[int]) -> None:
        for column in self._columns():
            if isinstance(which, range):  # the first so many
                del column[len(which) :]
            else:
                column[:] = array(column.typecode, [column[at] for at in which])
        self._highest = max(self.steps, default=-1)
        self._rises = all(a <= b for a, b in zip(self.steps, self.steps[1:], strict=False))

    def _columns(self) -> tuple[array[Any], ...]:
        return self.steps, self.times, self.attempts, *self.values


class Record:
    """Of one run directory. Whoever reads it calls `look` first; all of it may be called from any thread."""

    def __init__(self, directory: RunDir):
        self.directory = directory
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._cursor: Cursor | None = None
        self._looked_at = float("-inf")  # monotonic: when the newest look began
        self._fault: OSError | None = None  # of that look
        self._rows: dict[tuple[str, ...], Rows] = {}
        self._marks: list[Event] = []
        self._attempts: dict[str, int] = {}
        self._newest = attempt_order("")
        self._loose: dict[str, float] = {}  # metrics that name no step
        self._mark_bytes = 0
        self._phase = "waiting for the machine"

    @property
    def bytes(self) -> int:
        with self._lock:
            return self._mark_bytes + sum(rows.bytes for rows in self._rows.values())

    def look(self) -> Record:
        """Read on from where the last look ended. Of many who look at once, one reads for those who asked before it
        began. Raises Unreachable."""
        asked_at = time.monotonic()
        with self._looking:
            if self._looked_at < asked_at:
                self._looked_at, self._fault = time.monotonic(), None
                try:
                    for part in self.directory.slices(self._cursor):
                        with self._lock:
                            self._append(part.events)
                        self._cursor = part.cursor
                except OSError as fault:
                    self._fault = fault
            if self._fault is not None:
                raise self._fault
            return self

    def marks(self, *kinds: str, attempt: str | None = None) -> list[Event]:
        """The events of these kinds on the true history, of all kinds but metrics and evals without; in order."""
        with self._lock:
            return [
                event
                for event in self._marks
                if (not kinds or event.kind in kinds) and attempt in (None, event.attempt)
            ]

    def latest(self) -> tuple[dict[str, float], int, float | None]:
        """The newest value of each metric, the highest step that is completed, the newest val_bpb."""
        with self._lock:
            filled = sorted(
                (rows for rows in self._rows.values() if rows.steps), key=lambda r: (r.steps[-1], r.times[-1])
            )
            found = dict(self._loose)
            for rows in filled:
                found |= {key: column[-1] for key, column in zip(rows.keys, rows.values, strict=True)}
            step = filled[-1].steps[-1] if filled else 0
        evals = {key: found.pop(key, None) for key in EVAL_KEYS.values()}
        return found, step, evals["val/bpb"]

    def phase(self) -> str:
        """What the workload did last: data, tokenizer, steps, eval ..."""
        with self._lock:
            return self._phase

    def keys(self) -> list[str]:
        """Of all curves that there are."""
        with self._lock:
            return sorted({key for rows in self._rows.values() if rows.steps for key in rows.keys})

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value), in the order in which they happened."""
        with self._lock:
            having = [rows for rows in self._rows.values() if key in rows.keys and rows.steps]
            points = [pair for r in having for pair in zip(r.steps, r.values[r.keys.index(key)], strict=True)]
        return sorted(points, key=lambda point: point[0]) if len(having) > 1 else points

    def columns(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Steps, unix seconds and values of one key, in order; each (n,)."""
        import numpy as np

        with self._lock:
            having = [rows for rows in self._rows.values() if key in rows.keys and rows.steps]
            parts = [[np.array(c, np.float64) for c in (r.steps, r.times, r.values[r.keys.index(key)])] for r in having]
        if len(parts) == 1:
            return parts[0][0], parts[0][1], parts[0][2]
        steps, times, values = (np.concatenate([np.empty(0), *(part[at] for part in parts)]) for at in range(3))
        order = np.argsort(steps, kind="stable")
        return steps[order], times[order], values[order]

    def frame(self, keys: Collection[str] | None = None) -> pl.DataFrame:
        """key, step, value, time, attempt: of these keys, or of all. The rows of a key are in order."""
        import numpy as np
        import polars as pl

        schema = {"key": pl.String, "step": pl.Int64, "value": pl.Float64, "time": pl.Float64, "attempt": pl.String}
        parts: list[pl.DataFrame] = [pl.DataFrame(schema=schema)]
        with self._lock:
            names = pl.Series(list(self._attempts), dtype=pl.String)
            for rows in self._rows.values():
                wanted = [at for at, key in enumerate(rows.keys) if rows.steps and (keys is None or key in keys)]
                if not wanted:
                    continue
                shared = {
                    "step": pl.Series(np.array(rows.steps)),
                    "time": pl.Series(np.array(rows.times)),
                    "attempt": names.gather(pl.Series(np.array(rows.attempts, dtype=np.uint32))),
                }
                for at in wanted:
                    part = pl.DataFrame(shared | {"value": pl.Series(np.array(rows.values[at]))})
                    parts.append(part.select(pl.lit(rows.keys[at]).alias("key"), "step", "value", "time", "attempt"))
            named = [key for rows in self._rows.values() for key in rows.keys]
            several = len(set(named)) < len(named)
        found = pl.concat(parts)
        return found.sort("key", "step", maintain_order=True) if several else found

    def _append(self, events: Sequence[Event]) -> None:
        limits: dict[str, int] = {}
        late = False
        for event in events:
            order = attempt_order(event.attempt)
            is_late, self._newest = order < self._newest, max(order, self._newest)
            late = late or is_late
            if is_late and event.kind in REWOUND:
                if event.attempt not in limits:
                    limits[event.attempt] = min(map(back_to, self._starts_after(order)), default=_NEVER)
                if (event.step or 0) > limits[event.attempt]:
                    continue
            if event.kind in MEASURED:
                self._add(event, event.data.get("metrics", {}), is_late=is_late)
            elif event.kind == "eval":
                named = {key: event.data.get(name) for name, key in EVAL_KEYS.items()}
                self._add(event, {k: v for k, v in named.items() if isinstance(v, int | float)}, is_late=is_late)
            else:
                if event.kind == "start":
                    self._undo(back_to(event), order)
                self._marks.append(event)
                self._mark_bytes += _MARK_BYTES + len(str(event.data))
            self._phase = self._phase if is_late else _phase_after(event, self._phase)
        if late:
            rank = [at for _, at in sorted((attempt_order(name), at) for at, name in enumerate(self._attempts))]
            places = [rank.index(at) for at in range(len(rank))]
            self._marks.sort(key=lambda event: attempt_order(event.attempt))
            for rows in self._rows.values():
                rows.put_in_order(places)

    def _add(self, event: Event, named: dict[str, float], *, is_late: bool) -> None:
        if event.step is None:
            self._loose |= named
            return
        rows = self._rows.setdefault(keys := tuple(named), Rows(keys))
        number = self._attempts.setdefault(event.attempt, len(self._attempts))
        rows.append(event.step, event.time, number, list(map(float, named.values())), is_late=is_late)

    def _undo(self, above_step: int, order: tuple[int, str, str]) -> None:
        """What the attempts up to this one have above the step."""
        up_to = {number for name, number in self._attempts.items() if attempt_order(name) <= order}
        for rows in self._rows.values():
            rows.undo(above_step, up_to)
        self._marks = [
            event
            for event in self._marks
            if event.kind not in REWOUND or (event.step or 0) <= above_step or attempt_order(event.attempt) > order
        ]
        if above_step < 0:
            self._loose = {}

    def _starts_after(self, order: tuple[int, str, str]) -> list[Event]:
        return [event for event in self._marks if event.kind == "start" and attempt_order(event.attempt) > order]


_records: dict[str, Record] = {}
_keeping = threading.Lock()


def record_of(directory: RunDir) -> Record:
    """All that is there now, of which only what is new is read. Raises Unreachable."""
    with _keeping:
        record = _records.pop(directory.where, None) or Record(directory)
        _records[directory.where] = record  # the last one used comes last
    record.look()
    with _keeping:
        sizes = {where: each.bytes for where, each in _records.items()}
        for where in list(_records)[:-1]:
            if sum(sizes.values()) <= MAX_BYTES:
                break
            del _records[where], sizes[where]
    return record


def reclaim_notice(directory: RunDir, attempt: str) -> str | None:
    """Who told the workload that its machine is taken away: a cloud and what it said, or a notice file."""
    sources = [str(event.data.get("source")) for event in record_of(directory).marks("notice", attempt=attempt)]
    return next((source for source in sources if source not in _OTHER_STOPS), None)


def _phase_after(event: Event, before: str) -> str:
    if event.kind == "end":
        return "ended"
    if event.kind == "metrics":
        return "steps"
    if event.kind in ("phase", "eval", "checkpoint"):
        return str(event.data.get("name", event.kind))
    return "start" if event.kind == "start" else before
