"""What an executor is: something that starts a command once, finds it again, and says truthfully what it knows of it.

The life of a job, as poll() tells it:

    pending -> running -> ended      the end was seen: exit code or signal, and how long it ran
                       -> gone       nothing of it runs any more, but nobody saw the end
               running <-> recovering    its machine is gone, and the executor looks for another by itself
    unreachable                      nothing is known right now; ask again. Never means failed, never means ended.

`ended` and `gone` are final: every later poll says the same. What they mean for the run is not judged here but in
patron_core.lifecycle.decide, from the observation, its evidence and the run directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from trainer.contract.keys import KEY_WORDS, is_key

# JSON; opaque to everybody but the executor that gave it, except for handle["key"], the attempt id
Handle = dict[str, Any]


class ObservedStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    RECOVERING = "recovering"
    ENDED = "ended"
    UNREACHABLE = "unreachable"
    GONE = "gone"


FINAL = frozenset({ObservedStatus.ENDED, ObservedStatus.GONE})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to start. `key` is the attempt id, and the idempotency key: at most one start ever happens for it."""

    key: str
    command: tuple[str, ...]
    run_dir: str
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the environment of whoever submits
    deadline_s: float  # from its start; then SIGTERM, by the machine itself, even if the core is gone
    grace_s: float  # from the deadline's SIGTERM to SIGKILL
    kind: str = "train"  # or dryrun
    lab: str = "00000000"  # whose it is: a part of its name where others' jobs are, too
    machine: Mapping[str, Any] = field(default_factory=dict)  # what to ask for where machines are made: target.py

    def __post_init__(self) -> None:
        if not is_key(self.key):
            raise ValueError(f"job key {self.key!r} must be {KEY_WORDS}, as in r3k-train-1")
        if not self.command:
            raise ValueError(f"job {self.key} has an empty command")
        if not (0 < self.deadline_s < float("inf") and 0 <= self.grace_s < float("inf")):
            raise ValueError(
                f"job {self.key}: deadline_s {self.deadline_s} must be above 0, grace_s {self.grace_s} at least 0, "
                "both finite"
            )


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of a job now.

    `exit_code` and `signal` exclude each other; both are None unless `ended`, and also when it ended before its command
    ever ran (evidence: stopped_before_start). A command that cannot be started ends with 127 and evidence `error`.
    `uptime_s` is what is charged: seconds of machine, by a clock that wall-clock jumps do not move, up to now or to the
    end. None when unknown. For `gone` it is the last reading, so it may be a second short.

    `evidence`, all of it JSON, each only where known, for the verdict and to be shown:
      oom_kills            processes that the kernel killed for memory while this ran (its cgroup, or the machine)
      max_rss_bytes        peak memory of the workload
      memory               last reading: rss_bytes, available_bytes, cgroup_bytes, cgroup_limit_bytes
      cancelled, deadline_hit    who told it to stop; cancel_grace_s with cancelled
      silent_s, longest_silence_s    how long it neither printed nor recorded anything: now, and before
      reclaim_notice       somebody else told it to stop: the machine is taken away, or shuts down
      instance_gone        the machine it ran on is no more, or restarted
      killed               this executor sent SIGKILL after the grace
      stopped_before_start, never_started        no workload ran
      runner_killed        the process that watched over it was killed or broke, and the workload died with it
      runner_deaf          that process was stopped when it had to stop the workload, and both were killed
      rebooted             the machine restarted under it
      error                why it could not be started or asked
      recoveries           how often the executor brought it back; starts: what each machine wrote down
      sky_status, failure_reason, cloud, region, zone, last_recovered_at    what SkyPilot says of the job
      driver_failed, setup_failed, no_resources, controller_failed          how SkyPilot says that it failed
    """

    status: ObservedStatus
    exit_code: int | None = None
    signal: int | None = None
    uptime_s: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class Executor(Protocol):
    """Seven verbs and three properties. Only submit() starts anything. Raises Unavailable when it cannot be asked."""

    @property
    def name(self) -> str: ...

    @property
    def recovers_itself(self) -> bool:
        """True: it restarts a preempted job by itself, and the core must not. Recovery has one owner."""
        ...

    @property
    def look_every_s(self) -> float:
        """How often polling says something new; 0: always. More looks at what runs undisturbed would cost requests."""
        ...

    def expect(self, handles: Sequence[Handle]) -> None:
        """These are polled now, one by one: what can be asked once for all of them is asked so."""
        ...

    def submit(self, job: Job) -> Handle:
        """Start `job`, at most once per key, ever: a second submit gives the first one's handle and starts nothing.

        If it raises, the job may or may not have started: find(job.key) tells. Submitting again is safe as well.
        """
        ...

    def find(self, key: str) -> Handle | None:
        """The handle of whatever was submitted under `key`, by anybody, at any time; None if nothing was."""
        ...

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        """See to it that nothing ever starts under `key`, also where a submit is under way somewhere.

        None when that is so; the handle of what was submitted where it comes too late.
        """
        ...

    def poll(self, handle: Handle) -> Observation:
        """What is known now. Does not raise for a job's sake; returns quickly."""
        ...

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """SIGTERM: please save a checkpoint and exit with 75; then SIGKILL after `grace_s`. Returns at once.

        Idempotent: again, and after the end, it changes nothing, except that a shorter grace shortens the wait.
        """
        ...

    def logs(self, handle: Handle, lines: int) -> str:
        """The last `lines` lines of what the workload printed; empty if there is nothing."""
        ...
