"""Verdicts and decisions, as tables: every row is a situation that has cost somebody money."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from patron_core.executors.base import Observation, ObservedStatus
from patron_core.lifecycle.decide import (
    BACK_OFF_S,
    FAILURE_BUDGET,
    KILL_AGAIN_S,
    SILENCE_FACTOR,
    SILENCE_S,
    TROUBLE_S,
    ActionKind,
    Situation,
    decide,
)
from patron_core.lifecycle.verdict import StopCause, failures_after, verdict
from patron_core.states import EndReason, RunState

HOUR_USD_MICROS = 3_600_000  # a second costs a thousandth of a dollar


def situation(**changes: Any) -> Situation:
    base: dict[str, Any] = {
        "state": RunState.RUNNING,
        "attempt_state": "submitted",
        "hold_usd_micros": 1_000_000,
        "usd_micros_per_hour": HOUR_USD_MICROS,
    }
    return Situation(**(base | changes))


def ended(exit_code: int | None = None, signal: int | None = None, **evidence: Any) -> Observation:
    return Observation(status=ObservedStatus.ENDED, exit_code=exit_code, signal=signal, evidence=evidence)


def silent(seconds: float, longest: float = 0.0) -> Observation:
    evidence = {"silent_s": seconds, "longest_silence_s": longest}
    return Observation(status=ObservedStatus.RUNNING, uptime_s=10.0, evidence=evidence)


_ON_ITS_WAY: dict[str, Any] = {
    "attempt_state": "intent", "trouble": "x", "on_its_way": True, "since_trouble_s": 9999.0, "capacity_wait_s": 1800.0,
}  # fmt: skip
RUNNING = Observation(status=ObservedStatus.RUNNING, uptime_s=10.0)
KILLED = signal.SIGKILL.value


@pytest.mark.parametrize(
    ("seen", "changes", "reason"),
    [
        (ended(0), {}, EndReason.COMPLETED),
        (ended(0), {"stop_requested": "cancel"}, EndReason.COMPLETED),  # it was done before it heard
        (ended(75), {}, EndReason.NOTICE),
        (ended(75), {"stop_requested": "pause"}, EndReason.PAUSED),
        (ended(75), {"stop_requested": "cancel"}, EndReason.CANCELLED),
        (ended(75), {"stop_cause": "funds"}, EndReason.OUT_OF_FUNDS),
        (ended(75), {"stop_cause": "hung"}, EndReason.HUNG),
        (ended(signal=KILLED, killed=True), {"stop_cause": "hung"}, EndReason.HUNG),
        (ended(75), {"result": {"reason": "deadline"}, "deadline_cause": "funds"}, EndReason.OUT_OF_FUNDS),
        (ended(75), {"result": {"reason": "deadline"}, "deadline_cause": "deadline"}, EndReason.DEADLINE),
        (ended(76), {}, EndReason.CUDA_OOM),
        (ended(76), {"result": {"reason": "cuda_oom"}}, EndReason.CUDA_OOM),
        (ended(76), {"result": {"reason": "host_oom"}}, EndReason.HOST_OOM),
        (ended(77), {}, EndReason.DIVERGED),
        (ended(78), {}, EndReason.BAD_SPEC),
        (ended(78), {"result": {"reason": "environment_drift"}}, EndReason.ENVIRONMENT_DRIFT),
        (ended(1), {}, EndReason.USER_ERROR),
        (ended(127), {}, EndReason.USER_ERROR),
        (ended(signal=signal.SIGSEGV.value), {}, EndReason.USER_ERROR),
        (ended(signal=KILLED), {}, EndReason.LOST),
        (ended(137), {}, EndReason.LOST),
        (ended(signal=KILLED, oom_kills=1), {}, EndReason.HOST_OOM),
        (ended(137, oom_kills=2), {"stop_cause": "funds"}, EndReason.HOST_OOM),
        (ended(signal=KILLED, instance_gone=True), {}, EndReason.PREEMPTED),
        (ended(signal=KILLED, reclaim_notice=True), {}, EndReason.PREEMPTED),
        (ended(signal=KILLED), {"stop_requested": "cancel"}, EndReason.CANCELLED),
        (ended(signal=KILLED, deadline_hit=True), {"deadline_cause": "funds"}, EndReason.OUT_OF_FUNDS),
        (Observation(status=ObservedStatus.GONE), {}, EndReason.LOST),
        (Observation(status=ObservedStatus.GONE, evidence={"instance_gone": True}), {}, EndReason.PREEMPTED),
    ],
)
def test_the_verdict_comes_from_evidence(seen: Observation, changes: dict[str, Any], reason: EndReason) -> None:
    assert verdict(situation(observation=seen, **changes), seen) is reason


@pytest.mark.parametrize(
    ("changes", "kind", "new_state"),
    [
        ({"attempt_state": "intent"}, ActionKind.SUBMIT, None),
        ({"attempt_state": "intent", "stop_requested": "cancel"}, ActionKind.END, None),
        ({"observation": RUNNING}, ActionKind.WAIT, None),
        ({"observation": RUNNING, "state": RunState.LAUNCHING}, ActionKind.STARTED, RunState.RUNNING),
        ({"observation": RUNNING, "stop_requested": "pause"}, ActionKind.STOP, None),
        ({"observation": RUNNING, "hold_usd_micros": 14_000}, ActionKind.STOP, None),
        (
            {"observation": RUNNING, "stop_cause": "funds", "since_stop_s": 16 + KILL_AGAIN_S},
            ActionKind.KILL,
            None,
        ),
        ({"observation": RUNNING, "stop_cause": "funds", "hold_usd_micros": 0}, ActionKind.WAIT, None),
        ({"observation": Observation(status=ObservedStatus.UNREACHABLE)}, ActionKind.WAIT, None),
        ({"observation": silent(SILENCE_S - 1)}, ActionKind.WAIT, None),
        ({"observation": silent(SILENCE_S + 1)}, ActionKind.STOP, None),
        ({"observation": silent(SILENCE_S + 1), "slowest_s": SILENCE_S}, ActionKind.WAIT, None),
        ({"observation": silent(SILENCE_S + 1, longest=SILENCE_S)}, ActionKind.WAIT, None),
        ({"observation": silent(SILENCE_FACTOR * 100 + 1), "slowest_s": 100.0}, ActionKind.STOP, None),
        ({"observation": silent(9e9), "stop_cause": "hung"}, ActionKind.WAIT, None),
        ({"observation": ended(75), "stop_cause": "hung"}, ActionKind.END, RunState.RECOVERING),
        ({"observation": ended(75), "stop_cause": "hung", "failures": 2}, ActionKind.END, RunState.FAILED),
        ({"observation": ended(75), "stop_cause": "hung", "recovers_itself": True}, ActionKind.END, RunState.PAUSED),
        ({"observation": ended(0), "trouble": "no answer", "since_trouble_s": TROUBLE_S}, ActionKind.WAIT, None),
        (
            {"observation": ended(0), "trouble": "no answer", "since_trouble_s": TROUBLE_S + 1},
            ActionKind.END,
            RunState.SUCCEEDED,
        ),
        ({"attempt_state": "intent", "trouble": "x", "since_trouble_s": TROUBLE_S}, ActionKind.SUBMIT, None),
        ({"attempt_state": "intent", "trouble": "x", "since_trouble_s": TROUBLE_S + 1}, ActionKind.END, None),
        # the first launch builds SkyPilot's controller, which takes longer than trouble may; and has a limit of its own
        (_ON_ITS_WAY | {"without_machine_s": 1799.0}, ActionKind.SUBMIT, None),
        (_ON_ITS_WAY | {"without_machine_s": 1801.0}, ActionKind.END, RunState.FUNDED),
        (_ON_ITS_WAY | {"without_machine_s": 1801.0, "attempt_kind": "dryrun"}, ActionKind.END, RunState.DRAFT),
        ({"observation": ended(0)}, ActionKind.END, RunState.SUCCEEDED),
        ({"observation": ended(75)}, ActionKind.END, RunState.RECOVERING),
        ({"observation": ended(76)}, ActionKind.END, RunState.FAILED),
        ({"observation": ended(signal=KILLED)}, ActionKind.END, RunState.RECOVERING),
        ({"observation": ended(signal=KILLED), "failures": FAILURE_BUDGET - 1}, ActionKind.END, RunState.FAILED),
        ({"observation": ended(75), "failures": FAILURE_BUDGET + 5}, ActionKind.END, RunState.RECOVERING),
        ({"observation": ended(signal=KILLED), "stop_requested": "cancel"}, ActionKind.END, RunState.CANCELLED),
        ({"observation": ended(1), "stop_requested": "cancel"}, ActionKind.END, RunState.CANCELLED),
        ({"observation": ended(0), "attempt_kind": "dryrun"}, ActionKind.END, RunState.AWAITING_FUNDING),
        ({"observation": ended(76), "attempt_kind": "dryrun"}, ActionKind.END, RunState.FAILED),
        ({"observation": ended(75), "attempt_kind": "dryrun", "stop_cause": "funds"}, ActionKind.END, RunState.DRAFT),
        ({"state": RunState.RECOVERING, "attempt_state": "ended"}, ActionKind.RELAUNCH, RunState.LAUNCHING),
        (
            {"state": RunState.RECOVERING, "attempt_state": "ended", "hold_usd_micros": 100},
            ActionKind.CLOSE,
            RunState.PAUSED,
        ),
        (
            {"state": RunState.RECOVERING, "attempt_state": "ended", "run_dir_exists": False, "had_checkpoint": True},
            ActionKind.CLOSE,
            RunState.FAILED,
        ),
        ({"state": RunState.RECOVERING, "attempt_state": "ended", "recovers_itself": True}, ActionKind.WAIT, None),
        (
            {"state": RunState.RECOVERING, "attempt_state": "ended", "stop_requested": "cancel"},
            ActionKind.CLOSE,
            RunState.CANCELLED,
        ),
    ],
)
def test_one_situation_one_action(changes: dict[str, Any], kind: ActionKind, new_state: RunState | None) -> None:
    action = decide(situation(**changes))
    assert (action.kind, action.new_state) == (kind, new_state)


def test_recovery_waits_longer_after_each_unexplained_death() -> None:
    for failures, delay_s in enumerate(BACK_OFF_S):
        early = {"state": RunState.RECOVERING, "attempt_state": "ended", "failures": failures}
        assert decide(situation(**early, since_end_s=delay_s)).kind is ActionKind.RELAUNCH
        if delay_s:
            assert decide(situation(**early, since_end_s=delay_s - 0.1)).kind is ActionKind.WAIT


@pytest.mark.parametrize("reason", list(EndReason))
def test_preemption_never_eats_the_failure_budget(reason: EndReason) -> None:
    after = failures_after(reason, 1, progressed=False)
    if reason in (EndReason.LOST, EndReason.HUNG, EndReason.SOURCE_UNREACHABLE):
        assert after == 2
        assert failures_after(reason, 2, progressed=True) == 1
    elif reason in (EndReason.PREEMPTED, EndReason.NOTICE, EndReason.SWITCHED):
        assert after == 1
    else:
        assert after == 0


def test_a_source_that_does_not_answer_is_waited_for_and_never_ends_a_run_for_good() -> None:
    seen = Observation(status=ObservedStatus.ENDED, exit_code=75)
    now = {"observation": seen, "result": {"reason": "source_unreachable"}, "state": RunState.RUNNING}
    assert decide(situation(**now, failures=0)).new_state is RunState.RECOVERING
    assert decide(situation(**now, failures=9)).new_state is RunState.PAUSED
    dryrun = decide(situation(**now | {"state": RunState.DRYRUN}, attempt_kind="dryrun"))
    assert (dryrun.reason, dryrun.new_state) == (EndReason.SOURCE_UNREACHABLE, RunState.DRAFT)


def test_asked_to_stop_for_money_only_once() -> None:
    first = decide(situation(observation=RUNNING, hold_usd_micros=10_000))
    assert first.stop_cause is StopCause.FUNDS
    assert decide(situation(observation=RUNNING, hold_usd_micros=9_000, stop_cause="funds")).kind is ActionKind.WAIT
