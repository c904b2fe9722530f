"""What ended an attempt, judged from labelled evidence: SkyPilot's word, the machine's record, counters, memory.

Each case is what was seen, the true cause, and what becomes of the run. All of them must be judged right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from patron_core.executors.base import Observation, ObservedStatus
from patron_core.executors.sky_view import observe_job
from patron_core.lifecycle.decide import ActionKind, Situation, decide
from patron_core.lifecycle.evidence import of_notice, words
from patron_core.states import SENTENCE, EndReason, RunState

GIB = 2**30
FULL = {"rss_bytes": 15 * GIB, "available_bytes": GIB // 10}
ROOMY = {"rss_bytes": 2 * GIB, "available_bytes": 12 * GIB}
USER = "Job exited with exit code {} (user program failure). To see the details, run: sky jobs logs --controller 7"
DRIVER = "Job failed (FAILED_DRIVER) (user program failure). The job driver on the remote cluster failed."


def start(
    exit_code: int | None = None, signal: int | None = None, *, ended: bool = True, **evidence: Any
) -> dict[str, Any]:
    """What a machine wrote down about one start of the job."""
    return {
        "host": "m", "elapsed_s": 60.0, "ended": ended, "exit_code": exit_code, "signal": signal, "evidence": evidence,
    }  # fmt: skip


LOST_MACHINE = start(ended=False, memory=ROOMY)


@dataclass(frozen=True, kw_only=True)
class Case:
    label: str
    status: str  # SkyPilot's
    starts: tuple[dict[str, Any], ...] = ()
    failure_reason: str = ""
    recovery_count: int = 0
    situation: dict[str, Any] = field(default_factory=dict)
    reason: EndReason | None
    state: RunState | None
    kind: ActionKind = ActionKind.END


CASES = [
    Case(
        label="it finished", status="SUCCEEDED", starts=(start(0),), reason=EndReason.COMPLETED,
        state=RunState.SUCCEEDED,
    ),
    Case(
        label="spot was given up for its deadline", status="CANCELLED", starts=(start(75),),
        situation={"stop_cause": "switch"}, reason=EndReason.SWITCHED, state=RunState.RECOVERING,
    ),
    Case(
        label="it finished after two reclaims", status="SUCCEEDED", starts=(LOST_MACHINE, LOST_MACHINE, start(0)),
        recovery_count=2, reason=EndReason.COMPLETED, state=RunState.SUCCEEDED,
    ),
    Case(
        label="it finished before the cancel reached it", status="SUCCEEDED", starts=(start(0),),
        situation={"stop_requested": "cancel"}, reason=EndReason.COMPLETED, state=RunState.SUCCEEDED,
    ),
    Case(
        label="the machine was reclaimed without a word", status="RECOVERING", starts=(LOST_MACHINE,),
        reason=EndReason.PREEMPTED, state=RunState.RECOVERING, kind=ActionKind.RECOVERING,
    ),
    Case(
        label="reclaimed again while SkyPilot was already looking", status="PENDING", starts=(LOST_MACHINE,),
        recovery_count=1, reason=EndReason.PREEMPTED, state=RunState.RECOVERING, kind=ActionKind.RECOVERING,
    ),
    Case(
        label="told to go, it saved and left", status="RECOVERING", starts=(start(75, reclaim_notice=True),),
        reason=EndReason.NOTICE, state=RunState.RECOVERING, kind=ActionKind.RECOVERING,
    ),
    Case(
        label="killed by nobody known, started again", status="RECOVERING", starts=(start(signal=9, memory=ROOMY),),
        reason=EndReason.LOST, state=RunState.RECOVERING, kind=ActionKind.RECOVERING,
    ),
    Case(
        label="back on another machine", status="RUNNING", starts=(LOST_MACHINE, start(ended=False)), recovery_count=1,
        situation={"state": RunState.RECOVERING}, reason=None, state=RunState.RUNNING, kind=ActionKind.STARTED,
    ),
    Case(
        label="killed by nobody known, too often", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9), start(signal=9), start(signal=9, memory=ROOMY)), reason=EndReason.LOST,
        state=RunState.PAUSED,
    ),
    Case(
        label="the kernel killed it for memory", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9, oom_kills=1, memory=FULL),), reason=EndReason.HOST_OOM, state=RunState.FAILED,
    ),
    Case(
        label="killed with the memory full, and no counter to ask", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9, memory=FULL),), reason=EndReason.HOST_OOM, state=RunState.FAILED,
    ),
    Case(
        label="killed at the limit of its cgroup", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9, memory={"cgroup_bytes": 8 * GIB - 1, "cgroup_limit_bytes": 8 * GIB}),),
        reason=EndReason.HOST_OOM, state=RunState.FAILED,
    ),
    Case(
        label="SkyPilot's driver died, mostly of memory", status="FAILED", failure_reason=DRIVER,
        starts=(LOST_MACHINE,), reason=EndReason.HOST_OOM, state=RunState.FAILED,
    ),
    Case(
        label="the GPU ran out of memory", status="FAILED", failure_reason=USER.format(76), starts=(start(76),),
        reason=EndReason.CUDA_OOM, state=RunState.FAILED,
    ),
    Case(
        label="the GPU ran out of memory, and the record is lost", status="FAILED", failure_reason=USER.format(76),
        reason=EndReason.CUDA_OOM, state=RunState.FAILED,
    ),
    Case(
        label="the loss became NaN", status="FAILED", failure_reason=USER.format(77), starts=(start(77),),
        reason=EndReason.DIVERGED, state=RunState.FAILED,
    ),
    Case(
        label="the spec cannot run", status="FAILED", failure_reason=USER.format(78), starts=(start(78),),
        reason=EndReason.BAD_SPEC, state=RunState.FAILED,
    ),
    Case(
        label="another environment than the proven one", status="FAILED", failure_reason=USER.format(78),
        starts=(start(78),), situation={"result": {"reason": "environment_drift"}}, reason=EndReason.ENVIRONMENT_DRIFT,
        state=RunState.FAILED,
    ),
    Case(
        label="a traceback", status="FAILED", failure_reason=USER.format(1), starts=(start(1),),
        reason=EndReason.USER_ERROR, state=RunState.FAILED,
    ),
    Case(
        label="a crash in native code", status="FAILED", failure_reason=USER.format(80), starts=(start(signal=11),),
        reason=EndReason.USER_ERROR, state=RunState.FAILED,
    ),
    Case(
        label="setup failed", status="FAILED_SETUP", failure_reason="setup exited with 1", reason=EndReason.USER_ERROR,
        state=RunState.FAILED,
    ),
    Case(
        label="no such machine anywhere", status="FAILED_NO_RESOURCE", failure_reason="no feasible resources",
        situation={"state": RunState.LAUNCHING}, reason=EndReason.NO_CAPACITY, state=RunState.FUNDED,
    ),
    Case(
        label="refused before anything was tried", status="FAILED_PRECHECKS", situation={"state": RunState.LAUNCHING},
        reason=EndReason.NO_CAPACITY, state=RunState.FUNDED,
    ),
    Case(
        label="no capacity until the deadline", status="CANCELLED",
        situation={"state": RunState.LAUNCHING, "stop_cause": "capacity"}, reason=EndReason.NO_CAPACITY,
        state=RunState.FUNDED,
    ),
    Case(
        label="no capacity for another machine until the deadline", status="CANCELLED", starts=(LOST_MACHINE,),
        situation={"state": RunState.RECOVERING, "stop_cause": "capacity"}, reason=EndReason.NO_CAPACITY,
        state=RunState.FUNDED,
    ),
    Case(
        label="SkyPilot's controller broke", status="FAILED_CONTROLLER", starts=(LOST_MACHINE,), reason=EndReason.LOST,
        state=RunState.PAUSED,
    ),
    Case(
        label="a machine lost that SkyPilot took for a failure", status="FAILED", failure_reason="Job failed (FAILED)",
        starts=(LOST_MACHINE,), reason=EndReason.LOST, state=RunState.PAUSED,
    ),
    Case(
        label="cancelled, and it saved", status="FAILED", failure_reason=USER.format(79),
        starts=(start(75, cancelled=True),), situation={"stop_requested": "cancel"}, reason=EndReason.CANCELLED,
        state=RunState.CANCELLED,
    ),
    Case(
        label="cancelled while it looked for another machine", status="CANCELLED", starts=(LOST_MACHINE,),
        situation={"state": RunState.RECOVERING, "stop_requested": "cancel"}, reason=EndReason.CANCELLED,
        state=RunState.CANCELLED,
    ),
    Case(
        label="paused", status="FAILED", failure_reason=USER.format(79), starts=(start(75, cancelled=True),),
        situation={"stop_requested": "pause"}, reason=EndReason.PAUSED, state=RunState.PAUSED,
    ),
    Case(
        label="it hung, and was stopped", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9, cancelled=True, killed=True, memory=ROOMY),), situation={"stop_cause": "hung"},
        reason=EndReason.HUNG, state=RunState.PAUSED,
    ),
    Case(
        label="the source of its data answered at no start", status="FAILED", failure_reason=USER.format(79),
        starts=(start(75, source_unreachable=True),) * 3, reason=EndReason.SOURCE_UNREACHABLE, state=RunState.PAUSED,
    ),
    Case(
        label="the money was used up", status="FAILED", failure_reason=USER.format(79),
        starts=(start(75, deadline_hit=True),), situation={"deadline_cause": "funds"}, reason=EndReason.OUT_OF_FUNDS,
        state=RunState.PAUSED,
    ),
    Case(
        label="the money was used up, and the record is lost", status="FAILED", failure_reason=USER.format(79),
        situation={"deadline_cause": "funds"}, reason=EndReason.OUT_OF_FUNDS, state=RunState.PAUSED,
    ),
    Case(
        label="its deadline passed, and it did not listen", status="FAILED", failure_reason=USER.format(80),
        starts=(start(signal=9, deadline_hit=True, killed=True, memory=ROOMY),),
        situation={"deadline_cause": "deadline"}, reason=EndReason.DEADLINE, state=RunState.PAUSED,
    ),
]  # fmt: skip


def seen_in(case: Case) -> Observation:
    job = {"status": case.status, "failure_reason": case.failure_reason, "recovery_count": case.recovery_count}
    return observe_job(job | {"job_duration": 60.0 if case.starts else None}, case.starts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_case_is_judged_right(case: Case) -> None:
    base: dict[str, Any] = {
        "state": RunState.RUNNING, "attempt_state": "submitted", "hold_usd_micros": 10**7,
        "usd_micros_per_hour": 3_600_000, "recovers_itself": True, "observation": seen_in(case),
    }  # fmt: skip
    action = decide(Situation(**(base | case.situation)))
    assert (action.kind, action.reason, action.new_state) == (case.kind, case.reason, case.state)


def test_there_are_enough_cases_and_every_reason_that_a_machine_can_give_is_among_them() -> None:
    assert len(CASES) >= 20
    assert len({case.label for case in CASES}) == len(CASES)
    said_by_no_machine = {EndReason.OVER_BUDGET, EndReason.NOT_STARTED, EndReason.WRITTEN_OFF}
    assert {case.reason for case in CASES} == {None, *EndReason} - said_by_no_machine


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_case_is_told_to_people(case: Case) -> None:
    seen = seen_in(case)
    said = words(seen.evidence, seen.exit_code)
    assert f"SkyPilot says {case.status}" in said
    assert case.reason is None or SENTENCE[case.reason]


def test_what_is_told_names_the_figures() -> None:
    seen = seen_in(next(case for case in CASES if case.label == "the kernel killed it for memory"))
    assert words(seen.evidence, seen.exit_code) == (
        "killed by SIGKILL; SkyPilot says FAILED; Job exited with exit code 80 (user program failure); "
        "the kernel killed 1 process for memory; last seen with 15.0 GiB of memory, 0.1 GiB were left"
    )


def waits(status: ObservedStatus, **changes: Any) -> Situation:
    base: dict[str, Any] = {
        "state": RunState.LAUNCHING, "attempt_state": "submitted", "hold_usd_micros": 10**7, "recovers_itself": True,
        "usd_micros_per_hour": 3_600_000, "observation": Observation(status=status), "capacity_wait_s": 100.0,
    }  # fmt: skip
    return Situation(**(base | changes))


def test_looking_for_a_machine_ends_at_its_deadline_and_not_before() -> None:
    assert decide(waits(ObservedStatus.PENDING, without_machine_s=99)).kind is ActionKind.WAIT
    over = decide(waits(ObservedStatus.PENDING, without_machine_s=101))
    assert (over.kind, over.stop_cause) == (ActionKind.STOP, "capacity")
    again = waits(ObservedStatus.RECOVERING, state=RunState.RECOVERING, without_machine_s=101)
    assert decide(again).stop_cause == "capacity"
    assert decide(waits(ObservedStatus.RUNNING, state=RunState.RUNNING, without_machine_s=999)).kind is ActionKind.WAIT


def test_a_dryrun_that_found_no_machine_can_be_tried_again() -> None:
    seen = observe_job({"status": "CANCELLED"}, [])
    action = decide(
        waits(seen.status, state=RunState.DRYRUN, attempt_kind="dryrun", stop_cause="capacity", observation=seen)
    )
    assert (action.reason, action.new_state) == (EndReason.NO_CAPACITY, RunState.DRAFT)


@pytest.mark.parametrize(
    ("rehearsal", "said"),
    [
        ({"ok": True}, ""),  # of a dryrun that had no step to be told in
        ({"notice_s": 6.2, "notice_saved": True, "notice_durable": True}, "within 6.2 s, in time for every"),
        (
            {"notice_s": 41.0, "notice_saved": True, "notice_durable": True},
            "GCP gives 30 s: a reclaim there takes back",
        ),
        ({"notice_s": 130.0, "notice_saved": True, "notice_durable": True}, "GCP gives 30 s and AWS gives 120 s"),
        ({"notice_s": 27.0, "notice_saved": True, "notice_durable": False}, "did not come up in 27.0 s"),
        ({"notice_s": 8.0, "notice_saved": False, "notice_durable": False}, "saved no checkpoint in 8.0 s"),
    ],
)
def test_what_a_notice_leaves_is_told_from_its_rehearsal(rehearsal: dict[str, Any], said: str) -> None:
    told = of_notice(rehearsal, 600.0)
    assert said in told
    assert ("up to 600 s of work" in told) == (bool(told) and "in time" not in told)
