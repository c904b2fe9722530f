"""What to do about a run, given what is seen of it. Pure: no clock, no database, no network.

`decide` turns a situation into one action; the supervisor carries it out. Every rule about retrying, money running out
and stopping is in this file and nowhere else; why an attempt ended is judged in verdict.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from patron_core.executors.base import Observation, ObservedStatus
from patron_core.lifecycle.deadline import Finish
from patron_core.lifecycle.verdict import StopCause, verdict
from patron_core.market.spot_policy import Machine, Move
from patron_core.money import affordable_s
from patron_core.states import COUNTED_RETRY, NEXT_STATE, EndReason, RunState
from trainer.contract import grace
from trainer.contract.exits import EXIT_RESUME

FAILURE_BUDGET = 3  # unexplained deaths in a row without a new checkpoint
BACK_OFF_S = (0.0, 5.0, 30.0, 120.0)  # before the next launch, by unexplained deaths in a row
SILENCE_S = 300.0  # a workload that neither recorded nor printed anything for so long is taken for hung,
SILENCE_FACTOR = 5.0  # or for so many times its longest silence so far, or the slowest part of its dryrun
TROUBLE_S = 600.0  # how long to try what fails, before the run rests and its money is free again
_LAUNCHED = frozenset({RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})
_WITHOUT_MACHINE = frozenset({ObservedStatus.PENDING, ObservedStatus.RECOVERING})
KILL_AGAIN_S = 5.0  # the executor kills by itself; this long after that, by force


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything `decide` may look at."""

    state: RunState
    stop_requested: str | None = None  # "cancel" or "pause", asked by a person
    attempt_state: str | None = None  # intent, submitted, ended; None: no attempt
    attempt_kind: str = "train"
    observation: Observation | None = None
    result: Mapping[str, Any] | None = None  # the run directory's last word, if it belongs to this attempt
    run_dir_exists: bool = True
    had_checkpoint: bool = False  # an earlier attempt left one
    hold_usd_micros: int = 0  # left after charging for the time observed
    usd_micros_per_hour: int = 0
    deadline_cause: str | None = None  # what the attempt's own deadline stands for: funds or deadline
    stop_cause: str | None = None  # already asked to stop, and why
    since_stop_s: float = 0.0
    kill_after_s: float = grace.STOP_WITHIN_S + grace.LEAVE_S  # from asking to killing; the hold has to pay for it
    slowest_s: float = 0.0  # the slowest part of the dryrun: how long this workload may well be silent
    trouble: str | None = None  # why what the attempt left cannot be read, or why it could not be submitted
    since_trouble_s: float = 0.0
    on_its_way: bool = False  # that is no trouble: what was asked for takes minutes
    failures: int = 0  # unexplained deaths in a row without a new checkpoint
    since_end_s: float = 0.0  # since the last attempt ended
    recovers_itself: bool = False
    without_machine_s: float = 0.0  # since it was submitted, or lost its machine
    capacity_wait_s: float = float("inf")  # how long to look for a machine
    finish: Finish | None = None  # it has to be done by a time, and may choose between two kinds of machine
    last_reason: EndReason | None = None  # why the newest attempt ended, where it has


class ActionKind(StrEnum):
    WAIT = "wait"
    SUBMIT = "submit"  # the intent is recorded: look the key up, launch only if nobody has it
    STARTED = "started"
    RECOVERING = "recovering"  # the executor brings it back by itself
    STOP = "stop"  # ask the attempt to save and stop
    KILL = "kill"  # it was asked and did not
    END = "end"  # the attempt is over: charge, judge, move on
    RELAUNCH = "relaunch"  # a new attempt
    CLOSE = "close"  # no attempt lives, and the run can go to its next state
    FORGET = "forget"  # the wish to pause came to a run that rests


@dataclass(frozen=True, kw_only=True)
class Action:
    kind: ActionKind
    why: str
    reason: EndReason | None = None
    new_state: RunState | None = None
    stop_cause: StopCause | None = None
    other_machine: bool = False  # the next attempt is on the other kind
    evidence: dict[str, Any] = field(default_factory=dict)


def decide(now: Situation) -> Action:
    """The one thing to do next."""
    if now.attempt_state in ("intent", "submitted"):
        return _with_live_attempt(now)
    if now.stop_requested == StopCause.PAUSE and now.state not in _LAUNCHED:
        return Action(kind=ActionKind.FORGET, why=f"asked to pause, and {now.state.value} already")
    if now.stop_requested:
        reason = _wished(now.stop_requested)
        return Action(kind=ActionKind.CLOSE, why="asked to stop", reason=reason, new_state=NEXT_STATE[reason])
    if now.state is RunState.RECOVERING:
        return _recover(now)
    return Action(kind=ActionKind.WAIT, why="nothing to do")


def _wished(stop_requested: str) -> EndReason:
    return EndReason.CANCELLED if stop_requested == StopCause.CANCEL else EndReason.PAUSED


def _with_intent(now: Situation) -> Action:
    """Never submitted as far as we know. Ending it looks the key up first, so a crash in between is not forgotten."""
    if now.stop_requested:
        reason = _wished(now.stop_requested)
        return Action(kind=ActionKind.END, why="stopped before it was submitted", reason=reason)
    if now.without_machine_s > now.capacity_wait_s:
        new_state = RunState.DRAFT if now.attempt_kind == "dryrun" else NEXT_STATE[EndReason.NO_CAPACITY]
        why = f"no machine within {now.capacity_wait_s:.0f} s" + (f": {now.trouble}" if now.trouble else "")
        return Action(kind=ActionKind.END, why=why, reason=EndReason.NO_CAPACITY, new_state=new_state)
    if now.trouble and now.since_trouble_s > TROUBLE_S and not now.on_its_way:
        reason = EndReason.NOT_STARTED
        return Action(kind=ActionKind.END, why=now.trouble, reason=reason, evidence={"error": now.trouble})
    return Action(kind=ActionKind.SUBMIT, why="intent recorded, not yet submitted")


def _with_live_attempt(now: Situation) -> Action:
    seen = now.observation
    if now.attempt_state == "intent" and seen is None:
        return _with_intent(now)
    if seen is None or seen.status is ObservedStatus.UNREACHABLE:
        return Action(kind=ActionKind.WAIT, why="the executor does not answer; unreachable is not failed")
    if seen.status in (ObservedStatus.ENDED, ObservedStatus.GONE):
        if now.trouble and now.since_trouble_s <= TROUBLE_S:
            return Action(kind=ActionKind.WAIT, why=f"it ended; its last word cannot be read: {now.trouble}")
        return _ended(now, seen)
    stop = _wanted_stop(now)
    if stop and now.stop_cause is None:
        return Action(kind=ActionKind.STOP, why=f"stop: {stop.value}", stop_cause=stop)
    if now.stop_cause is None and (why := _why_switch(now, seen)):
        return Action(kind=ActionKind.STOP, why=why, stop_cause=StopCause.SWITCH)
    if now.stop_cause is not None and now.since_stop_s > now.kill_after_s + KILL_AGAIN_S:
        return Action(kind=ActionKind.KILL, why=f"asked to stop {now.since_stop_s:.0f} s ago and still there")
    waiting = (RunState.LAUNCHING, RunState.RECOVERING)
    started = seen.status is ObservedStatus.RUNNING and now.stop_cause is None
    if started and now.state in waiting and now.attempt_kind == "train":
        return Action(kind=ActionKind.STARTED, why="the workload runs", new_state=RunState.RUNNING)
    lost = (RunState.LAUNCHING, RunState.RUNNING)
    if seen.status is ObservedStatus.RECOVERING and now.state in lost and now.attempt_kind == "train":
        return _bring_back(seen)
    return Action(kind=ActionKind.WAIT, why="in progress")


def _wanted_stop(now: Situation) -> StopCause | None:
    if now.stop_requested:
        return StopCause(now.stop_requested)
    if now.usd_micros_per_hour and affordable_s(now.hold_usd_micros, now.usd_micros_per_hour) <= now.kill_after_s:
        return StopCause.FUNDS
    waits = now.observation is not None and now.observation.status in _WITHOUT_MACHINE
    on_spot = now.finish is not None and now.finish.machine is Machine.SPOT  # the policy knows how long to look
    if waits and not on_spot and now.without_machine_s > now.capacity_wait_s:
        return StopCause.CAPACITY
    return StopCause.HUNG if _is_hung(now) else None


def _why_switch(now: Situation, seen: Observation) -> str | None:
    """Why this attempt should make way for one on the other kind of machine; None: it should not."""
    if now.finish is None or now.attempt_kind != "train":
        return None
    machine = now.finish.machine  # on demand one comes, and counts from when it was asked for
    if machine is Machine.SPOT and seen.status in _WITHOUT_MACHINE:
        machine = Machine.NONE
    choice = now.finish.choose(machine, looked_for_s=now.without_machine_s)
    wanted = {Move.SPOT: Machine.SPOT, Move.ON_DEMAND: Machine.ON_DEMAND}.get(choice.move)
    return choice.why if wanted not in (None, now.finish.machine) else None


def _is_hung(now: Situation) -> bool:
    """Whether it is silent for too long, against its own pace. The silence is measured beside the workload, by a clock
    that neither jumps nor runs while its machine sleeps."""
    seen = now.observation
    if seen is None or seen.status is not ObservedStatus.RUNNING:
        return False
    paces_s = (now.slowest_s, float(seen.evidence.get("longest_silence_s") or 0.0))
    return float(seen.evidence.get("silent_s") or 0.0) > max(SILENCE_S, SILENCE_FACTOR * max(paces_s))


def _bring_back(seen: Observation) -> Action:
    """Its machine went; why, as far as the machine could still say. Costs nothing until there is another."""
    starts = seen.evidence.get("starts") or [{}]
    last = starts[-1]
    reason = EndReason.PREEMPTED
    if last.get("ended"):
        reason = EndReason.NOTICE if last.get("exit_code") == EXIT_RESUME else EndReason.LOST
    return Action(
        kind=ActionKind.RECOVERING,
        why=f"the machine went away ({reason.value}); the executor looks for another",
        reason=reason,
        new_state=RunState.RECOVERING,
        evidence=dict(seen.evidence),
    )


def _ended(now: Situation, seen: Observation) -> Action:
    reason = verdict(now, seen)
    evidence = dict(seen.evidence)
    if now.attempt_kind == "dryrun":
        new_state = RunState.AWAITING_FUNDING if reason is EndReason.COMPLETED else RunState.FAILED
        if reason is EndReason.CANCELLED:
            new_state = RunState.CANCELLED
        if reason in (EndReason.NO_CAPACITY, EndReason.SOURCE_UNREACHABLE, EndReason.OUT_OF_FUNDS):
            new_state = RunState.DRAFT  # it was never tried, or not to its end: nothing is known against it
    else:
        new_state = NEXT_STATE[reason]
        if new_state is RunState.RECOVERING and now.recovers_itself and reason is not EndReason.SWITCHED:
            # it has given up on bringing it back, and nobody else may; a person can fund the run again
            new_state, evidence["judged"] = RunState.PAUSED, reason.value
            reason = reason if reason in (EndReason.HUNG, EndReason.SOURCE_UNREACHABLE) else EndReason.LOST
        if now.stop_requested == StopCause.CANCEL and new_state is not RunState.SUCCEEDED:
            new_state, reason = RunState.CANCELLED, EndReason.CANCELLED
        elif now.stop_requested == StopCause.PAUSE and new_state in (RunState.FUNDED, RunState.RECOVERING):
            new_state, evidence["judged"], reason = RunState.PAUSED, reason.value, EndReason.PAUSED
        elif reason in COUNTED_RETRY and now.failures + 1 >= FAILURE_BUDGET and not now.recovers_itself:
            # a source may answer tomorrow: it waits for somebody to fund it again
            new_state = RunState.PAUSED if reason is EndReason.SOURCE_UNREACHABLE else RunState.FAILED
            evidence["failures"] = now.failures + 1
    return Action(kind=ActionKind.END, why=reason.value, reason=reason, new_state=new_state, evidence=evidence)


def _recover(now: Situation) -> Action:
    if now.recovers_itself and now.last_reason is not EndReason.SWITCHED:
        return Action(kind=ActionKind.WAIT, why="the executor recovers by itself")
    if not now.run_dir_exists and now.had_checkpoint:
        return Action(
            kind=ActionKind.CLOSE,
            why="the run directory is missing, and its checkpoints with it",
            reason=EndReason.LOST,
            new_state=RunState.FAILED,
        )
    machine, why = _next_machine(now)
    if machine is Machine.NONE:
        return Action(kind=ActionKind.WAIT, why=why)
    other = now.finish is not None and machine is not now.finish.machine
    hourly = now.usd_micros_per_hour
    if now.finish is not None and machine is not None:
        hourly = now.finish.usd_micros_per_hour[machine]
    if affordable_s(now.hold_usd_micros, max(1, hourly)) <= now.kill_after_s:
        return Action(
            kind=ActionKind.CLOSE,
            why="what is held does not pay for another start",
            reason=EndReason.OUT_OF_FUNDS,
            new_state=RunState.PAUSED,
        )
    delay_s = BACK_OFF_S[min(now.failures, len(BACK_OFF_S) - 1)]
    if now.since_end_s < delay_s:
        return Action(kind=ActionKind.WAIT, why=f"next launch in {delay_s - now.since_end_s:.0f} s")
    return Action(kind=ActionKind.RELAUNCH, why=why, new_state=RunState.LAUNCHING, other_machine=other)


def _next_machine(now: Situation) -> tuple[Machine | None, str]:
    """What to resume on, and why; NONE: on nothing yet. None: there is no choice."""
    if now.finish is None:
        return None, "resume from the newest checkpoint"
    if now.last_reason is EndReason.SWITCHED:
        return now.finish.other_machine, "resume from the newest checkpoint, on the other kind of machine"
    choice = now.finish.choose(Machine.NONE)
    found = {Move.SPOT: Machine.SPOT, Move.ON_DEMAND: Machine.ON_DEMAND, Move.WAIT: Machine.NONE}
    return found.get(choice.move, now.finish.machine), f"resume from the newest checkpoint: {choice.why}"
