"""A machine in a script, for tests of whatever uses an executor: time is what the test says, and nothing really runs.

    fake = FakeExecutor()
    fake.script(Script(run_s=100, exit_code=75), Script(run_s=50))   # for the first submit, for the second
    handle = fake.submit(job)
    fake.advance(100)
    assert fake.poll(handle).exit_code == 75

It keeps the contract of base.py: the tests of the contract run against it and against the real ones.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from patron_core.errors import Unavailable
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus
from patron_core.executors.deadline import moved
from trainer.contract import control

NEVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class Script:
    """How a job will go."""

    start_after_s: float = 0.0  # pending until then
    run_s: float = NEVER
    exit_code: int | None = 0
    signal: int | None = None
    vanishes: bool = False  # after run_s it is gone, with nobody to say how
    silent_after_s: float = NEVER  # from then on it neither records nor prints anything
    stop_s: float = 1.0  # from SIGTERM to its exit; NEVER ignores it
    stop_exit_code: int = 75
    evidence: Mapping[str, Any] = field(default_factory=dict)  # of its end
    log: str = ""
    on_start: Callable[[Job], None] | None = None  # what the workload would do: write to its run directory
    on_end: Callable[[Job], None] | None = None


class FakeExecutor:
    def __init__(self, *, name: str = "fake", recovers_itself: bool = False, now: float = 0.0):
        self.name = name
        self.recovers_itself = recovers_itself
        self.now = now
        self.unreachable = False  # polls and submits get no answer
        self.fail_next_submit: Literal["before", "after"] | None = None  # raise, before or after it took effect
        self.num_submits = 0  # calls
        self.num_polls = self.num_expected = 0
        self.look_every_s = 0.0
        self.starts: Counter[str] = Counter()  # real starts by key; never above 1
        self.default_script = Script()
        self._scripts: deque[Script] = deque()
        self._jobs: dict[str, _FakeJob] = {}
        self._forbidden: set[str] = set()

    def expect(self, handles: Sequence[Handle]) -> None:
        self.num_expected += len(handles)

    def script(self, *scripts: Script) -> None:
        """The next starts go by these, one each, in this order; later ones by `default_script`."""
        self._scripts += scripts

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._act()

    def end(self, key: str, script: Script) -> None:
        """Have a job end now, with the script's exit code, signal or vanishing, and evidence."""
        self._jobs[key].ends_by(script, self.now)
        self._act()

    def job(self, key: str) -> Job:
        return self._jobs[key].job

    def submit(self, job: Job) -> Handle:
        self.num_submits += 1
        failure, self.fail_next_submit = self.fail_next_submit, None
        if failure == "before" or self.unreachable:
            raise Unavailable("the fake machine did not take the job", next="submit again")
        if job.key not in self._jobs:
            script = self._scripts.popleft() if self._scripts else self.default_script
            self._jobs[job.key] = _FakeJob(job=job, script=script, submitted_at=self.now)
            if job.key in self._forbidden:
                self._jobs[job.key].cancel_at = -NEVER
            else:
                self.starts[job.key] += 1
            self._act()
        if failure == "after":
            raise Unavailable("the fake machine took the job, and its answer was lost", next="find the job by its key")
        return self._handle(job.key)

    def find(self, key: str) -> Handle | None:
        self._answer()
        return self._handle(key) if key in self._jobs else None

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        self._answer()
        if key not in self._jobs:
            self._forbidden.add(key)
        return self._handle(key) if key in self._jobs else None

    def poll(self, handle: Handle) -> Observation:
        self.num_polls += 1
        if self.unreachable:
            return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": "no answer"})
        job = self._jobs.get(handle["key"])
        if job is None:
            return Observation(status=ObservedStatus.GONE, evidence={"error": f"no job {handle['key']}"})
        return job.observe(self.now)

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        self._answer()
        job = self._jobs[handle["key"]]
        job.graces.append(grace_s)
        job.cancel_at = min(job.cancel_at, self.now)
        job.kill_at = min(job.kill_at, self.now + grace_s)
        self._act()

    def logs(self, handle: Handle, lines: int) -> str:
        self._answer()
        text = self._jobs[handle["key"]].script.log
        return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""

    def _handle(self, key: str) -> Handle:
        return {"executor": self.name, "key": key}

    def _answer(self) -> None:
        if self.unreachable:
            raise Unavailable("the fake machine does not answer", next="ask again later")

    def _act(self) -> None:
        for job in self._jobs.values():
            job.act(self.now)


@dataclass
class _FakeJob:
    job: Job
    script: Script
    submitted_at: float
    cancel_at: float = NEVER
    kill_at: float = NEVER
    graces: list[float] = field(default_factory=list)  # of every cancel, in order
    has_started: bool = False
    has_ended: bool = False
    is_due: bool = False

    def __post_init__(self) -> None:
        self.deadline_s = self.job.deadline_s

    @property
    def start_at(self) -> float:
        return self.submitted_at + self.script.start_after_s

    def ends_by(self, script: Script, now: float) -> None:
        self.script = Script(
            run_s=max(0.0, now - self.start_at),
            start_after_s=min(self.script.start_after_s, now - self.submitted_at),
            exit_code=script.exit_code,
            signal=script.signal,
            vanishes=script.vanishes,
            evidence=script.evidence,
            log=self.script.log,
            on_start=self.script.on_start,
            on_end=script.on_end or self.script.on_end,
        )

    def observe(self, now: float) -> Observation:
        end_at, end = self._end()
        if now >= end_at:
            return end
        if now < self.start_at:
            return Observation(status=ObservedStatus.PENDING)
        return Observation(status=ObservedStatus.RUNNING, uptime_s=now - self.start_at, evidence=self._evidence(now))

    def _evidence(self, now: float) -> dict[str, Any]:
        return self._told(now) | {"silent_s": max(0.0, now - self.start_at - self.script.silent_after_s)}

    def act(self, now: float) -> None:
        if not self.is_due:
            key = self.job.env.get(control.KEY_VARIABLE)
            self.deadline_s = moved(self.job.run_dir, self.job.key, self.deadline_s, key=key)
            self.is_due = now >= self.start_at + self.deadline_s
        end_at, end = self._end()
        if not self.has_started and now >= self.start_at and "stopped_before_start" not in end.evidence:
            self.has_started = True
            if self.script.on_start:
                self.script.on_start(self.job)
        if not self.has_ended and now >= end_at:
            self.has_ended = True
            if self.script.on_end and self.has_started:
                self.script.on_end(self.job)

    def _end(self) -> tuple[float, Observation]:
        """When and how it ends, as things stand: by itself, stopped, or killed, whichever comes first."""
        deadline_at = self.start_at + self.deadline_s
        told_at = min(self.cancel_at, deadline_at)
        if told_at < self.start_at:
            evidence = {"stopped_before_start": True, **self._told(told_at)}
            return told_at, Observation(status=ObservedStatus.ENDED, uptime_s=0.0, evidence=evidence)
        itself_at = self.start_at + self.script.run_s
        stopped_at = told_at + self.script.stop_s
        killed_at = min(self.kill_at, deadline_at + self.job.grace_s)
        end_at = min(itself_at, stopped_at, killed_at)
        exit_code: int | None = self.script.stop_exit_code
        signum: int | None = None
        evidence = self._told(end_at)
        status = ObservedStatus.ENDED
        if end_at == itself_at:
            exit_code, signum = self.script.exit_code, self.script.signal
            evidence |= self.script.evidence
            if self.script.vanishes:
                status, exit_code, signum = ObservedStatus.GONE, None, None
        elif end_at == killed_at:
            exit_code, signum = None, int(signal.SIGKILL)
            evidence["killed"] = True
        if signum is not None:
            exit_code = None
        uptime_s = end_at - self.start_at
        return end_at, Observation(
            status=status, exit_code=exit_code, signal=signum, uptime_s=uptime_s, evidence=evidence
        )

    def _told(self, now: float) -> dict[str, Any]:
        reasons = {
            "cancelled": self.cancel_at,
            "deadline_hit": self.start_at + self.deadline_s,
        }
        return {reason: True for reason, at in reasons.items() if at <= now}
