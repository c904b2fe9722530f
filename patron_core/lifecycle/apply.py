"""Carry out one action about one run. The only writer of attempts and of what they cost.

No network call inside a transaction: an executor is called between two of them. A crash in between loses nothing,
because the next look finds the intent, or the job under its key, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from patron_core.errors import Conflict, OnItsWay, PatronError
from patron_core.executors.base import Executor, Observation
from patron_core.lifecycle import bill, drift, holds, learned, off_forecast, ownership, trouble, workload
from patron_core.lifecycle.deadline import on_the_other
from patron_core.lifecycle.decide import Action, ActionKind
from patron_core.lifecycle.job import job_of
from patron_core.lifecycle.observe import Scene, attempt_dir
from patron_core.lifecycle.verdict import failures_after
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.states import TERMINAL, EndReason, RunState
from patron_core.store import Store, attempts, labs, ledger, runs
from patron_core.store.records import Attempt, Run
from trainer.contract.grace import kill_after_s

SUPERVISOR = "supervisor"
_WORTH_MOVING_S = 1.0  # rounding to micro-dollars makes less
# it ran and was done, or lost its machine and found no other, between two looks
_UNSEEN = {
    (RunState.LAUNCHING, RunState.SUCCEEDED): RunState.RUNNING,
    (RunState.RUNNING, RunState.FUNDED): RunState.RECOVERING,
}


def apply(store: Store, scene: Scene, action: Action, executor: Executor, *, now: float) -> None:
    """Raises Conflict when somebody else changed the run first; the next look will see what they did."""
    run, attempt = scene.run, scene.attempt
    match action.kind:
        case ActionKind.SUBMIT if attempt is not None:
            _try_to_submit(store, scene, attempt, executor, now=now)
        case ActionKind.STARTED | ActionKind.RECOVERING if action.new_state is not None:
            with _as_judged(store, scene) as conn:
                _move(
                    conn, run, action.new_state, reason=action.reason, now=now, detail=action.why, seen=action.evidence
                )
        case ActionKind.STOP | ActionKind.KILL if attempt is not None:
            _stop(store, run, attempt, action, executor, now=now)
        case ActionKind.END if attempt is not None:
            _end(store, scene, attempt, action, executor, now=now)
        case ActionKind.RELAUNCH:
            _relaunch(store, scene, action, now=now)
        case ActionKind.CLOSE if action.new_state is not None:
            with _as_judged(store, scene) as conn:
                _move(conn, run, action.new_state, reason=action.reason, now=now, detail=action.why)
        case ActionKind.FORGET:
            with store.begin() as conn:
                if runs.lock(conn, run.id).stop_requested == "pause":  # else it is to be cancelled by now
                    runs.set_fields(conn, run.id, now=now, stop_requested=None)
        case _:
            _charge_while_running(store, scene, now=now)
            if scene.situation.trouble and scene.observation is not None and scene.observation.is_final:
                trouble.note(store, run, scene.situation.trouble, actor=SUPERVISOR, now=now)
            elif not scene.situation.trouble:
                _move_deadline(store, scene, now=now)


@contextmanager
def _as_judged(store: Store, scene: Scene) -> Iterator[Connection]:
    """A write transaction in which the run and its attempt are still what was seen. Raises StaleState.

    A supervisor may have slept between look and apply, as a laptop does: what it saw must not end a later launch.
    """
    with store.begin() as conn:
        attempts.check_newest(conn, scene.run, scene.attempt)
        yield conn


def _relaunch(store: Store, scene: Scene, action: Action, *, now: float) -> None:
    """Record the intent of another attempt at the price of the one before, or of the other kind of machine."""
    run, previous = scene.run, scene.attempt
    if previous is None:
        raise ValueError(f"run {run.id} has no attempt to follow")
    price, hourly = previous.price, previous.usd_micros_per_hour
    if action.other_machine:
        price = on_the_other(price)
        hourly = int(price["usd_micros_per_hour"])
    with _as_judged(store, scene) as conn:
        attempts.create(conn, run, kind="train", usd_micros_per_hour=hourly, price=price, now=now)
        _move(conn, run, RunState.LAUNCHING, reason=None, now=now, detail=action.why)


def _try_to_submit(store: Store, scene: Scene, attempt: Attempt, executor: Executor, *, now: float) -> None:
    """What stands in the way for good ends the attempt; what may pass is noted, and tried again at the next look."""
    try:
        with _as_judged(store, scene):
            pass
        if attempt.kind == "train" and attempt.executor == ownership.LOCAL:
            drift.check(scene.run)
        _submit(store, scene.run, attempt, executor, now=now)
    except runs.StaleState:
        raise
    except Conflict as error:  # another checkout proved it, its directory holds another run, or the key another job
        said = {"error": error.message, "next": error.next}
        action = Action(kind=ActionKind.END, why=error.message, reason=EndReason.NOT_STARTED, evidence=said)
        _end(store, scene, attempt, action, executor, now=now)
    except OnItsWay as error:
        trouble.note(store, scene.run, error.message, actor=SUPERVISOR, now=now, on_its_way=True)
    except (PatronError, OSError) as error:
        message = error.message if isinstance(error, PatronError) else str(error)
        trouble.note(store, scene.run, message, actor=SUPERVISOR, now=now)
        raise


def _submit(store: Store, run: Run, attempt: Attempt, executor: Executor, *, now: float) -> None:
    """Start it under its key, which starts at most one job ever, and record the handle."""
    hold = ledger.run_money(store, run.id).held_usd_micros
    hold -= bill.set_aside_usd_micros(attempt, hold)
    directory = attempt_dir(run, attempt)
    grace_s = kill_after_s(directory)
    deadline_s = holds.deadline_s(hold, attempt.usd_micros_per_hour, stop_s=grace_s)
    workload.prepare(run, directory)
    job = job_of(run, attempt, directory, deadline_s=deadline_s, grace_s=grace_s, lab=labs.lab_id(store))
    handle = executor.submit(job)
    with store.begin() as conn:
        made = attempts.submitted(conn, attempt.id, handle=handle, deadline_s=deadline_s, now=now)
    if made.state == "ended":  # while this process slept, somebody else ended what had not been submitted
        executor.cancel(handle, grace_s=0.0)


def _stop(store: Store, run: Run, attempt: Attempt, action: Action, executor: Executor, *, now: float) -> None:
    """Ask first, and write down that it was asked after: asking twice is harmless, forgetting is not."""
    if attempt.handle is None:
        return
    if action.kind is ActionKind.KILL:
        executor.cancel(attempt.handle, grace_s=0.0)
        return
    executor.cancel(attempt.handle, grace_s=kill_after_s(attempt_dir(run, attempt)))
    with store.begin() as conn:
        attempts.stop_asked(conn, attempt.id, cause=str(action.stop_cause), now=now)
        runs.add_event(
            conn,
            run.id,
            kind="stop_asked",
            actor=SUPERVISOR,
            now=now,
            detail={"cause": str(action.stop_cause), "why": action.why},
        )


def _end(store: Store, scene: Scene, attempt: Attempt, action: Action, executor: Executor, *, now: float) -> None:
    run, seen = scene.run, scene.observation
    reason = action.reason or EndReason.LOST
    directory = RunDir(attempt_dir(run, attempt))
    if seen is None and (handle := executor.forbid(attempt.id, directory.where)) is not None:
        with store.begin() as conn:  # it had been submitted after all: own it, then stop it properly
            attempts.submitted(conn, attempt.id, handle=handle, deadline_s=attempt.deadline_s, now=now)
        return
    new_state = action.new_state or _state_after_unsubmitted(attempt, reason)
    left = _what_is_left(run, attempt, directory)
    evidence = {**action.evidence, **left.evidence}
    step = left.evidence.get("checkpoint_step")
    progressed = step is not None and step > (scene.known_checkpoint_step or 0)
    report = left.report if attempt.kind == "dryrun" and reason is EndReason.COMPLETED else None
    if attempt.kind == "dryrun" and reason is EndReason.COMPLETED and report is None:
        reason, new_state = EndReason.USER_ERROR, RunState.FAILED
    with _as_judged(store, scene) as conn:
        _charge(conn, run, attempt, replace(seen, evidence={**seen.evidence, **evidence}) if seen else None, now=now)
        attempts.ended(
            conn,
            attempt.id,
            reason=reason,
            exit_code=seen.exit_code if seen else None,
            evidence=evidence,
            now=now,
        )
        runs.set_fields(conn, run.id, now=now, failures=failures_after(reason, run.failures, progressed=progressed))
        if report is not None:
            runs.set_fields(conn, run.id, now=now, dryrun=report)
            learned.record_dryrun(conn, run, report, now=now)
        if attempt.kind == "train":
            runs.set_fields(conn, run.id, now=now, result=left.result)
            if new_state is RunState.SUCCEEDED:
                off_forecast.note(conn, run, actor=SUPERVISOR, now=now, val_bpb=left.result.get("val_bpb"))
                learned.record_run(conn, run, left.result, now=now)
                learned.record_timing(conn, run, left.result, left.timing, now=now)
        _move(conn, run, new_state, reason=reason, now=now, detail=action.why)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What an attempt that ended left in its run directory."""

    evidence: dict[str, Any]
    result: dict[str, Any]
    report: dict[str, Any] | None  # of a dryrun
    timing: dict[str, float] = field(default_factory=dict)  # of a training: seconds by what took them


def _what_is_left(run: Run, attempt: Attempt, directory: RunDir) -> _Left:
    """Nothing, and why, where it cannot be read: decide has waited long enough for that to pass."""
    try:
        newest = directory.newest_checkpoint()
        evidence = (_moved(directory, attempt) if attempt.price.get("transfer") else {}) | {
            "checkpoint_step": newest.step if newest else None,
            "log_tail": directory.log_tail(attempt.id, 20),
            "last_word": learned.last_word(directory, attempt.id),
        }
        report = learned.dryrun_report(run, attempt, directory) if attempt.kind == "dryrun" else None
        result = learned.run_result(directory)
        timing = learned.run_timing(directory, result) if attempt.kind == "train" else {}
        return _Left(evidence=evidence, result=result, report=report, timing=timing)
    except OSError as error:
        return _Left(evidence={"unreadable": str(error)}, result={}, report=None)


def _moved(directory: RunDir, attempt: Attempt) -> dict[str, Any]:
    """Bytes of checkpoints that went up, by the record, and that are there now."""
    uploads = (event.data.get("bytes") for event in record_of(directory).marks("uploaded", attempt=attempt.id))
    up = sum(number for number in uploads if isinstance(number, int | float) and number > 0)
    return {"uploaded_bytes": up, "stored_bytes": directory.checkpoint_bytes()}


def _state_after_unsubmitted(attempt: Attempt, reason: EndReason) -> RunState:
    """A launch that ended before anything started."""
    if reason is EndReason.NOT_STARTED and attempt.kind == "dryrun":
        return RunState.DRAFT
    return RunState.CANCELLED if reason is EndReason.CANCELLED or attempt.kind == "dryrun" else RunState.PAUSED


def _move(
    conn: Connection,
    run: Run,
    new: RunState,
    *,
    reason: EndReason | None,
    now: float,
    detail: str,
    seen: dict[str, Any] | None = None,
) -> None:
    """Through the one door, by way of what nobody looked in time to see; then settle."""
    old = runs.get_run(conn, run.id).state
    if (old, new) in _UNSEEN:
        runs.transition(conn, run.id, old=old, new=_UNSEEN[old, new], actor=SUPERVISOR, now=now)
        old = _UNSEEN[old, new]
    if new is not old:
        runs.transition(
            conn, run.id, old=old, new=new, reason=reason, actor=SUPERVISOR, now=now, detail=detail, evidence=seen
        )
    if new in TERMINAL or new in (RunState.PAUSED, RunState.AWAITING_FUNDING, RunState.DRAFT):
        settle(conn, run, now=now)


def settle(conn: Connection, run: Run, *, now: float) -> int:
    """Give back what is left of the hold. Returns micro-dollars released; again, it releases nothing."""
    runs.lock(conn, run.id)  # a top-up at this moment is either in the sum below, or is told that the run rests
    number = len(attempts.for_run(conn, run.id))
    funded = ledger.run_money(conn, run.id).funded_usd_micros
    return ledger.release(conn, run, key=f"release:{run.id}:{number}:{funded}", actor=SUPERVISOR, now=now)


def _charge_while_running(store: Store, scene: Scene, *, now: float) -> None:
    attempt, seen = scene.attempt, scene.observation
    if attempt is None or seen is None or seen.uptime_s is None:
        return
    if bill.is_due(run_id=attempt.run_id, charged_s=attempt.charged_s, uptime_s=seen.uptime_s):
        with store.begin() as conn:
            _charge(conn, scene.run, attempt, seen, now=now)
            if attempt.kind == "train":
                off_forecast.note(conn, scene.run, actor=SUPERVISOR, now=now)


def _move_deadline(store: Store, scene: Scene, *, now: float) -> None:
    """A run that was topped up may go on for longer: its attempt is told before the store, and again after a crash."""
    run, attempt, hold = scene.run, scene.attempt, scene.situation.hold_usd_micros
    if attempt is None or attempt.state != "submitted" or attempt.deadline_s is None or not hold:
        return
    uptime_s = max(attempt.charged_s, (scene.observation.uptime_s if scene.observation else None) or 0.0)
    directory = attempt_dir(run, attempt)
    deadline_s = uptime_s + holds.deadline_s(hold, attempt.usd_micros_per_hour, stop_s=kill_after_s(directory))
    if attempt.stop_cause is not None or deadline_s < attempt.deadline_s + _WORTH_MOVING_S:
        return
    RunDir(directory).move_deadline(attempt.id, deadline_s, attempt.control_key)
    with store.begin() as conn:
        attempts.moved_deadline(conn, attempt.id, deadline_s=deadline_s)
        detail = {"attempt": attempt.id, "deadline_s": deadline_s}
        runs.add_event(conn, run.id, kind="deadline_moved", actor=SUPERVISOR, now=now, detail=detail)


def _charge(conn: Connection, run: Run, attempt: Attempt, seen: Observation | None, *, now: float) -> None:
    """Charge for what was had so far, never more than is held. Again, it charges nothing."""
    owed = bill.owed(attempt, seen)
    charged = sum(ledger.charge_up_to(conn, run, attempt.id, owed[kind], now=now, kind=kind) for kind in owed)
    uptime_s = (seen.uptime_s if seen else None) or 0.0
    attempts.meter(conn, attempt.id, charged_s=uptime_s, charged_usd_micros=charged)
