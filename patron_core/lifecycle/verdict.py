"""Why an attempt ended: from its exit code, its own last word, and the machine's evidence. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from patron_core.executors.base import Observation, ObservedStatus
from patron_core.states import COUNTED_RETRY, FREE_RETRY, EndReason
from trainer.contract.exits import (
    EXIT_BAD_SPEC,
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_KILLED,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUME,
    EXIT_SIGKILL,
    EXIT_SIGTERM,
    EXIT_STOPPED,
    SOURCE_UNREACHABLE,
)

if TYPE_CHECKING:
    from patron_core.lifecycle.decide import Situation

_FULL_SHARE = 0.98  # of the memory that there is


class StopCause(StrEnum):
    """Why Patron itself asked an attempt to stop."""

    CANCEL = "cancel"
    PAUSE = "pause"
    FUNDS = "funds"
    DEADLINE = "deadline"
    CAPACITY = "capacity"
    HUNG = "hung"
    SWITCH = "switch"  # to another kind of machine, for its deadline


def verdict(now: Situation, seen: Observation) -> EndReason:
    """Why an attempt ended: from its exit code, its own last word, and the machine's evidence.

    137 and -9 mean only SIGKILL. Who sent it is judged from the evidence: the kernel (its oom_kills counter rose),
    Patron (it had asked for a stop), a reclaim (the instance is gone or gave notice), or nobody knows (lost).
    """
    told = (now.result or {}).get("reason")
    stop = now.stop_requested or now.stop_cause
    by_us = {
        StopCause.CANCEL: EndReason.CANCELLED,
        StopCause.PAUSE: EndReason.PAUSED,
        StopCause.FUNDS: EndReason.OUT_OF_FUNDS,
        StopCause.DEADLINE: EndReason.DEADLINE,
        StopCause.CAPACITY: EndReason.NO_CAPACITY,
        StopCause.HUNG: EndReason.HUNG,
        StopCause.SWITCH: EndReason.SWITCHED,
    }
    if seen.exit_code == EXIT_DONE:
        return EndReason.COMPLETED
    if seen.exit_code == EXIT_OUT_OF_MEMORY:
        return EndReason.HOST_OOM if told == "host_oom" else EndReason.CUDA_OOM
    if seen.exit_code == EXIT_DIVERGED:
        return EndReason.DIVERGED
    if seen.exit_code == EXIT_BAD_SPEC:
        return EndReason.ENVIRONMENT_DRIFT if told == "environment_drift" else EndReason.BAD_SPEC
    if seen.exit_code in (EXIT_RESUME, EXIT_STOPPED):
        if stop:
            return by_us[StopCause(stop)]
        if SOURCE_UNREACHABLE in (told, *seen.evidence):
            return EndReason.SOURCE_UNREACHABLE
        if told == "deadline" or seen.evidence.get("deadline_hit") or seen.exit_code == EXIT_STOPPED:
            return by_us[StopCause(now.deadline_cause or StopCause.DEADLINE)]
        return EndReason.NOTICE
    if seen.evidence.get("no_resources"):
        return EndReason.NO_CAPACITY
    if seen.evidence.get("setup_failed"):
        return EndReason.USER_ERROR
    if seen.evidence.get("oom_kills", 0) > 0 or seen.evidence.get("driver_failed"):
        return EndReason.HOST_OOM
    killed = seen.status is ObservedStatus.GONE or seen.signal in (signal.SIGKILL, signal.SIGTERM)
    never_ran = seen.exit_code is None and seen.signal is None
    if killed or never_ran or seen.exit_code in (EXIT_SIGKILL, EXIT_SIGTERM, EXIT_KILLED):
        if stop:
            return by_us[StopCause(stop)]
        if seen.evidence.get("deadline_hit"):
            return by_us[StopCause(now.deadline_cause or StopCause.DEADLINE)]
        if seen.evidence.get("instance_gone") or seen.evidence.get("reclaim_notice"):
            return EndReason.PREEMPTED
        return EndReason.HOST_OOM if _memory_was_full(seen.evidence) else EndReason.LOST
    return EndReason.USER_ERROR


def _memory_was_full(evidence: Mapping[str, Any]) -> bool:
    """By the last reading before a kill that nobody else explains; the counters of a lost machine cannot be asked."""
    memory = evidence.get("memory") or {}
    used, limit = memory.get("cgroup_bytes"), memory.get("cgroup_limit_bytes")
    if used is not None and limit and used >= _FULL_SHARE * limit:
        return True
    rss, available = memory.get("rss_bytes"), memory.get("available_bytes")
    return rss is not None and available is not None and available < (1 - _FULL_SHARE) * (rss + available)


def failures_after(reason: EndReason, failures: int, *, progressed: bool) -> int:
    """Unexplained deaths in a row without a new checkpoint, this one counted."""
    if reason in COUNTED_RETRY:
        return 1 if progressed else failures + 1
    return failures if reason in FREE_RETRY else 0
