"""One sync of one run: sends what the tracker lacks, commits how far it came, rewinds by filling a fresh tracker run.

    created, tagged patron.pending -> id committed -> the true lineage sent -> tagged patron.run -> the old one trashed

Every step can be repeated: a crash anywhere is put right by the next sync.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from patron_core.mirror.position import Point, Position, flatten
from patron_core.rundir.rundir import RunDir, logged_of
from patron_core.states import RunState
from patron_core.store import Store, attempts, hosts, labs, mirrors, runs
from patron_core.store.records import Run

RUN_TAG, PENDING_TAG, SUPERSEDED_TAG = "patron.run", "patron.pending", "patron.superseded_by"
BATCH_POINTS = 1000  # the most that MLflow takes at once
COMMIT_EVERY_BATCHES = 10
ARTIFACT_RETRY_S = 300.0  # a broken artifact store must not slow every sync down
_STATUS = {RunState.SUCCEEDED: "FINISHED", RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}
_log = logging.getLogger("patron.tracking")


class Tracker(Protocol):
    """What a mirror needs. Whatever fails raises; a point that is there already is kept once."""

    def create(self, run: Run, tag: str) -> str: ...
    def tagged(self, run: Run, tag: str) -> dict[str, bool]:
        """The tracker's runs with the tag and not in its trash; True for those that hold points."""

    def log(
        self,
        tracked_id: str,
        points: Sequence[Point] = (),
        *,
        params: Mapping[str, str] = ...,
        tags: Mapping[str, str] = ...,
    ) -> None: ...
    def history(self, tracked_id: str, key: str) -> list[Point]: ...
    def restore(self, run: Run, tracked_id: str | None) -> str: ...
    def trash(self, tracked_id: str) -> None: ...
    def end(self, tracked_id: str, status: str, *, now: float) -> None: ...
    def upload(self, tracked_id: str, name: str, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class MirrorReport:
    run_id: str
    mlflow_run_id: str | None  # None: there was nothing to mirror yet
    num_events: int  # read by this call
    num_points: int  # sent by this call
    highest_step: int | None  # of everything mirrored
    rewound_to: int | None  # a resume went back to this step behind what was mirrored; -1 is from scratch
    behind: bool  # stopped at its time limit; call again
    artifacts: tuple[str, ...]  # uploaded by this call
    artifact_error: str | None
    error: str | None  # why the tracker could not be brought up to date; nothing is lost
    said: str | None = None  # what was found there and put right


class Overtaken(Exception):
    """Another sync of the same run committed first."""


class Copy:
    def __init__(self, store: Store, run: Run, tracker: Tracker, *, now: float, budget_s: float):
        """A backlog that takes longer than `budget_s` is left to the next sync."""
        self.store, self.run, self.tracker, self.now, self.budget_s = store, run, tracker, now, budget_s
        self.directory = RunDir(run.run_dir)
        mirror = mirrors.get(store, run.id)
        self.tracked_id = mirror.mlflow_run_id if mirror else None
        self.position = Position(**mirror.position) if mirror else Position()
        self.committed = (self.tracked_id, asdict(self.position))
        self.num_events = self.num_points = 0
        self.rewound_to: int | None = None
        self.behind = False
        self.uploaded: list[str] = []
        self.artifact_error: str | None = None
        self.said: str | None = None
        self.answered_at = self.deadline = time.monotonic()

    def report(self, error: str | None = None) -> MirrorReport:
        return MirrorReport(
            run_id=self.run.id,
            mlflow_run_id=self.tracked_id,
            num_events=self.num_events,
            num_points=self.num_points,
            highest_step=self.position.highest_step,
            rewound_to=self.rewound_to,
            behind=self.behind,
            artifacts=tuple(self.uploaded),
            artifact_error=self.artifact_error,
            error=error,
            said=self.said,
        )

    def say(self, what: str) -> None:
        """For the log, and among the run's events for whoever wonders later."""
        self.said = what
        _log.warning("mirror of %s: %s", self.run.id, what)
        with self.store.begin() as conn:
            runs.add_event(conn, self.run.id, kind="mirror", actor="mirror", now=self.now, detail={"message": what})

    def advance(self, extra: Mapping[str, float]) -> None:
        self.answered_at = time.monotonic()
        self.deadline = self.answered_at + self.budget_s
        tracked_id = self.tracked_id or self.open([], rewinding_to=None)
        while (rewind_to := self.catch_up(tracked_id)) is not None:
            tracked_id = self.open(self.all_starts(), rewinding_to=rewind_to)
        if not self.behind and self.position.cursor:  # without one, the folder is not there just now
            self.promote(tracked_id)
        self.describe(tracked_id, extra)
        self.tell_logged(tracked_id)
        self.upload(tracked_id)
        self.commit()

    def catch_up(self, tracked_id: str) -> int | None:
        """Send what is missing slice by slice, the cursor committed behind each, until the deadline. Returns the step
        to rewind to where a start went back behind what was sent; nothing of its slice is sent."""
        for part in self.directory.slices(self.position.cursor):
            starts, rewind_to = self.position.with_starts(part.events)
            if rewind_to is not None:
                return rewind_to
            self.position.starts = starts
            self.num_events += len(part.events)
            self.send(tracked_id, self.position.missing_points(part.events))
            self.position.keep_samples(part.events)
            self.position.logged = logged_of(part.events) or self.position.logged
            if self.behind:
                return None
            if part.events or self.position.cursor:
                self.position.cursor = part.cursor
            if part.more:
                self.commit()
                if time.monotonic() > self.deadline:
                    self.behind = True
                    return None
        return None

    def all_starts(self) -> list[list[Any]]:
        """Of the whole record: a run that is filled anew is to be rewound by none of them again."""
        position = Position()
        for part in self.directory.slices():
            position.starts, _ = position.with_starts(part.events)
        return position.starts

    def open(self, starts: list[list[Any]], *, rewinding_to: int | None) -> str:
        """Take a fresh tracker run, or the one that a crashed sync made, and commit its id before anything is sent.

        Nothing of the position changes until it is there: the starts are what makes the next sync try again.
        """
        if rewinding_to is None and any(self.tracker.tagged(self.run, RUN_TAG).values()):
            rewinding_to = -1  # the store was lost: nobody knows which lineage those points are of
        tag = RUN_TAG if rewinding_to is None else PENDING_TAG
        found = self.tracker.tagged(self.run, tag).items()
        unused = [each for each, has_points in found if not has_points and each != self.tracked_id]
        tracked_id = unused[0] if unused else self.tracker.create(self.run, tag)
        self.position = self.position.fresh(starts, rewinding_to=rewinding_to)
        self.tracked_id, self.rewound_to = tracked_id, rewinding_to
        try:
            self.commit()
        except Overtaken:
            if not unused:
                self.tracker.trash(tracked_id)
            raise
        return tracked_id

    def send(self, tracked_id: str, points: Sequence[Point]) -> None:
        for number, first in enumerate(range(0, len(points), BATCH_POINTS), 1):
            if number > 1 and time.monotonic() > self.deadline:
                self.behind = True
                break
            batch = points[first : first + BATCH_POINTS]
            self.tracker.log(tracked_id, batch)
            self.answered_at = time.monotonic()
            self.num_points += len(batch)
            self.position.advance_highest(batch)
            if number % COMMIT_EVERY_BATCHES == 0:
                self.commit()

    def promote(self, tracked_id: str) -> None:
        """The fresh run holds the whole lineage: show it instead of the one that it replaces."""
        if self.position.rewinding_to is None:
            return
        others = [each for each in self.tracker.tagged(self.run, RUN_TAG) if each != tracked_id]
        for other in others:
            self.tracker.log(other, tags={SUPERSEDED_TAG: tracked_id})
            self.carry_extra(other, tracked_id)
        self.tracker.log(tracked_id, tags={RUN_TAG: self.run.id, PENDING_TAG: ""})
        for other in others:
            self.tracker.trash(other)
        self.position.rewinding_to = None
        self.commit()

    def carry_extra(self, old_id: str, tracked_id: str) -> None:
        """Money spent on steps that were lost stays spent: its curve goes on, at the step that the run went back to."""
        last_step = max(0, self.position.rewinding_to or 0)
        for key in self.position.extra:
            points = [point._replace(step=min(point.step, last_step)) for point in self.tracker.history(old_id, key)]
            for first in range(0, len(points), BATCH_POINTS):
                self.tracker.log(tracked_id, points[first : first + BATCH_POINTS])

    def describe(self, tracked_id: str, extra: Mapping[str, float]) -> None:
        """Tags, parameters, extra figures and the status, where they are not what was sent last."""
        wanted = {
            "patron.lab": labs.lab_id(self.store),
            "patron.attempt": self.position.starts[-1][0] if self.position.starts else "",
            "patron.spec_hash": self.run.spec_hash,
            "patron.environment_hash": str((self.directory.environment() or {}).get("hash", "")),
            "patron.state": self.run.state.value,
            "patron.actor": self.run.actor,
            "mlflow.user": self.run.actor,
            **self._place(),
        }
        tags = {key: value for key, value in wanted.items() if self.position.sent.get(key, "") != value}
        complete = not self.behind and self.position.rewinding_to is None
        figures = {
            key: float(value)
            for key, value in extra.items()
            if complete and math.isfinite(value) and (self.num_points or self.position.extra.get(key) != value)
        }
        if tags or figures:
            step = self.position.highest_step or 0
            points = [Point(key, value, int(self.now * 1000), step) for key, value in figures.items()]
            params = {} if "patron.state" in self.position.sent else self._params()
            self.tracker.log(tracked_id, points, params=params, tags=tags)
            self.position.sent.update(tags)
            self.position.extra.update(figures)
        if self.run.state in _STATUS and complete and not self.position.finished:
            self.sweep(tracked_id)
            self.tracker.end(tracked_id, _STATUS[self.run.state], now=self.now)
            self.position.finished = True

    def _params(self) -> dict[str, str]:
        """Of foreign code beside its own, which it may log under any name."""
        return flatten(self.run.spec, "patron/" if self.run.workload == "foreign" else "")

    def tell_logged(self, tracked_id: str) -> None:
        """What foreign code logged of itself; a parameter once, since MLflow lets none change."""
        logged, sent = self.position.logged or {}, self.position.sent
        params = {
            key: value for key, value in flatten(logged.get("params") or {}).items() if f"param:{key}" not in sent
        }
        tags = {key: value for key, value in flatten(logged.get("tags") or {}).items() if sent.get(key) != value}
        tags = {key: value for key, value in tags.items() if not key.startswith(("patron.", "mlflow."))}
        if params or tags:
            self.tracker.log(tracked_id, params=params, tags=tags)
            sent.update({f"param:{key}": "" for key in params} | tags)

    def _place(self) -> dict[str, str]:
        """Where it runs: its machine by name and id, or the zone that was rented."""
        host = hosts.get(self.store, self.run.host_id) if self.run.host_id else None
        if host is not None:
            return {"patron.host": host.name, "patron.host_id": host.id}
        made = attempts.for_run(self.store, self.run.id)
        return {"patron.zone": attempts.zone_of(made[-1])} if made else {}

    def sweep(self, tracked_id: str) -> None:
        """Whatever crashed syncs may have left behind."""
        for tag in (RUN_TAG, PENDING_TAG):
            for each in self.tracker.tagged(self.run, tag):
                if each != tracked_id:
                    self.tracker.log(each, tags={SUPERSEDED_TAG: tracked_id})
                    self.tracker.trash(each)

    def upload(self, tracked_id: str) -> None:
        """Each file once for each content that it had."""
        if self.now < self.position.artifacts_after:
            return
        for name, content in (
            ("spec.json", self.directory.spec()),
            ("environment.json", self.directory.environment()),
            ("result.json", self.directory.result()),
            ("samples.json", self.position.samples),
        ):
            text = json.dumps(content, indent=2, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            if content is None or self.position.artifacts.get(name) == digest:
                continue
            try:
                self.tracker.upload(tracked_id, name, text)
            except Exception as error:  # an artifact store raises what it likes, and the mirror goes on without it
                self.artifact_error = f"{name}: {type(error).__name__}: {error}"
                self.position.artifacts_after = self.now + ARTIFACT_RETRY_S
                return
            self.position.artifacts[name] = digest
            self.uploaded.append(name)

    def commit(self) -> None:
        """Where the copy stands, if that changed. Raises Overtaken if somebody else's commit came in between."""
        if self.tracked_id is None or (self.tracked_id, asdict(self.position)) == self.committed:
            return
        expected_id, expected = self.committed
        with self.store.begin() as conn:
            runs.lock(conn, self.run.id)
            stored = mirrors.get(conn, self.run.id)
            found = (stored.mlflow_run_id, stored.position["version"]) if stored else (None, 0)
            if found != (expected_id, expected["version"]):
                raise Overtaken
            self.position.version += 1
            position = asdict(self.position)
            mirrors.put(conn, self.run.id, mlflow_run_id=self.tracked_id, position=position, now=self.now)
        self.committed = (self.tracked_id, position)
