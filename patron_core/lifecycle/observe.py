"""Load a run and look at the world: everything that `decide` may know, gathered in one place. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from patron_core.executors.base import Executor, Observation
from patron_core.lifecycle import bill, trouble
from patron_core.lifecycle.bill import CLOCK_NOISE_S
from patron_core.lifecycle.deadline import LOOK_EVERY_S, Finish, finish_of
from patron_core.lifecycle.decide import Situation
from patron_core.lifecycle.verdict import StopCause
from patron_core.money import cost_usd_micros
from patron_core.rundir.record import reclaim_notice
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Attempt, Run
from trainer.contract.grace import kill_after_s
from trainer.contract.keys import dryrun_folder
from trainer.contract.remote import join

LONG_AGO_S = 86_400.0
_SLOW_PARTS = ("start_s", "data_s", "tokenizer_s", "compile_s", "first_step_s", "step_s", "eval_s", "checkpoint_s")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run as it is now: its rows, its newest attempt, what the executor says, and the situation made of them."""

    run: Run
    attempt: Attempt | None  # the newest one, ended or not
    known_checkpoint_step: int | None  # the newest that any ended attempt left
    observation: Observation | None
    situation: Situation


def attempt_dir(run: Run, attempt: Attempt) -> str:
    """A dryrun has a run directory of its own inside the run's, so that a burst never mixes with the real thing."""
    return join(run.run_dir, dryrun_folder(attempt.number)) if attempt.kind == "dryrun" else run.run_dir


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the store says of a run."""

    run: Run
    attempts: list[Attempt]
    held_usd_micros: int


def rows_of(store: Store, found: Sequence[Run]) -> list[Rows]:
    """Of all these runs, in as many statements as for one."""
    ids = [run.id for run in found]
    with store.read() as conn:
        made, money = attempts.for_runs(conn, ids), ledger.runs_money(conn, ids)
    return [Rows(run=run, attempts=made[run.id], held_usd_micros=money[run.id].held_usd_micros) for run in found]


def look(store: Store, run_id: str, executor: Executor, *, now: float, rows: Rows | None = None) -> Scene:
    """Never raises for the run's sake; raises what the store or the executor raises when they cannot be asked.

    `rows`: of a moment ago, for whoever looks at many. What is done about the scene is guarded by them.
    """
    rows = rows or rows_of(store, [runs.get_run(store, run_id)])[0]
    run, made = rows.run, rows.attempts
    attempt = made[-1] if made else None
    known_step = max((a.evidence.get("checkpoint_step") or 0 for a in made if a.kind == "train"), default=0) or None
    observation = None
    if attempt is not None and attempt.state == "submitted" and attempt.handle is not None:
        observation = _not_longer_than_submitted(executor.poll(attempt.handle), attempt, now)
    left = _left_behind(run, attempt, observation) if attempt is not None else _Left()
    return Scene(
        run=run,
        attempt=attempt,
        known_checkpoint_step=known_step,
        observation=left.observation,
        situation=_situation(store, rows, attempt, left, executor, known_step, now=now),
    )


def _not_longer_than_submitted(seen: Observation, attempt: Attempt, now: float) -> Observation:
    """A machine's own count of its seconds is foreign: what is charged is never more than has passed.

    Since the attempt was written down, before the first try to submit it: where whoever submitted died of it, the job
    runs from then on, and `started_at` is when the next one found it.
    """
    if seen.uptime_s is None:
        return seen
    return replace(seen, uptime_s=min(max(0.0, seen.uptime_s), _since(attempt.created_at, now) + CLOCK_NOISE_S))


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What the run directory says of the attempt."""

    observation: Observation | None = None  # completed by it
    result: dict[str, Any] | None = None
    run_dir_exists: bool = True
    unreadable: str | None = None


def _left_behind(run: Run, attempt: Attempt, observation: Observation | None) -> _Left:
    directory = RunDir(attempt_dir(run, attempt))
    try:
        result = directory.result()
        return _Left(
            observation=_with_notice(observation, directory, attempt.id),
            result=result if result and result.get("attempt") == attempt.id else None,
            run_dir_exists=directory.exists(),
        )
    except OSError as error:
        return _Left(observation=observation, unreadable=f"the run directory cannot be read: {error}")


def _with_notice(seen: Observation | None, directory: RunDir, attempt_id: str) -> Observation | None:
    """A workload that is killed soon after its cloud's notice says nothing at its end, but it has noted the notice."""
    if seen is None or not seen.is_final or (seen.signal is None and seen.exit_code is not None):
        return seen
    notice = reclaim_notice(directory, attempt_id)
    return seen if notice is None else replace(seen, evidence={**seen.evidence, "reclaim_notice": notice})


def _left_to_spend(hold: int, attempt: Attempt, seen: Observation | None, *, now: float) -> int:
    """Of the hold, what is there for machine time: without what is owed, may be owed, and is set aside for the end."""
    if attempt.state == "ended":
        return hold
    if seen is not None:
        hold -= max(0, sum(bill.owed(attempt, seen).values()) - attempt.charged_usd_micros)
        hold -= cost_usd_micros(bill.unheard_s(seen, now=now), attempt.usd_micros_per_hour)
    return max(0, hold - bill.set_aside_usd_micros(attempt, hold, seen.uptime_s if seen else None))


def _situation(
    store: Store,
    rows: Rows,
    attempt: Attempt | None,
    left: _Left,
    executor: Executor,
    known_checkpoint_step: int | None,
    *,
    now: float,
) -> Situation:
    run, hold, observation = rows.run, rows.held_usd_micros, left.observation
    if attempt is None:
        return Situation(state=run.state, stop_requested=run.stop_requested, hold_usd_micros=hold)
    deadline_s = run.spec.get("deadline_s")
    waits = attempt.state == "intent" or left.unreadable is not None
    noted = trouble.standing(runs.events(store, run.id)) if waits else None
    return Situation(
        state=run.state,
        stop_requested=run.stop_requested,
        attempt_state=attempt.state,
        attempt_kind=attempt.kind,
        observation=observation,
        result=left.result,
        run_dir_exists=left.run_dir_exists,
        trouble=left.unreadable or (noted.message if noted else None),
        on_its_way=bool(noted and noted.on_its_way and not left.unreadable),
        since_trouble_s=_since(noted.since if noted else None, now),
        slowest_s=_slowest_s(run),
        had_checkpoint=known_checkpoint_step is not None,
        hold_usd_micros=_left_to_spend(hold, attempt, observation, now=now),
        usd_micros_per_hour=attempt.usd_micros_per_hour,
        deadline_cause=StopCause.DEADLINE
        if deadline_s and deadline_s < (attempt.deadline_s or float("inf"))
        else StopCause.FUNDS,
        stop_cause=attempt.stop_cause,
        since_stop_s=_since(attempt.stop_asked_at, now),
        kill_after_s=kill_after_s(attempt_dir(run, attempt)),
        failures=run.failures,
        since_end_s=_since(attempt.ended_at, now),
        recovers_itself=executor.recovers_itself,
        without_machine_s=_since(
            run.updated_at if run.state is RunState.RECOVERING else attempt.started_at or attempt.created_at, now
        ),
        finish=_finish(run, attempt, now=now),
        last_reason=attempt.reason,
        capacity_wait_s=(attempt.price.get("machine") or {}).get("wait_s") or float("inf"),
    )


_done: dict[str, tuple[float, float]] = {}  # run -> when it was last looked at, and the share that is durable


def _finish(run: Run, attempt: Attempt, *, now: float) -> Finish | None:
    if not attempt.price.get("finish"):
        return None
    at, share = _done.get(run.id, (-LONG_AGO_S, 0.0))
    if not 0 <= now - at < LOOK_EVERY_S:
        with suppress(OSError):  # what is known stays: less progress only makes it surer to be in time
            newest = RunDir(run.run_dir).newest_checkpoint()
            share = (newest.step if newest else 0) / max(1, int((run.estimate or {}).get("num_steps") or 1))
        _done[run.id] = (now, share)
    return finish_of(attempt.price, done_share=share, hourly=attempt.usd_micros_per_hour, now=now)


def _since(then: float | None, now: float) -> float:
    """Seconds since `then`; 0 where that has not been, or was by a clock a moment ahead of ours.

    A clock that was set back must not make anybody wait for all of that time: then it is long ago.
    """
    if then is None:
        return 0.0
    return max(0.0, now - then) if now > then - CLOCK_NOISE_S else LONG_AGO_S


def _slowest_s(run: Run) -> float:
    """The longest that one part of the dryrun took; 0 where nothing was measured."""
    measured = (run.dryrun or {}).get("measured") or {}
    found = [measured.get(name) for name in _SLOW_PARTS]
    return max((float(seconds) for seconds in found if isinstance(seconds, int | float)), default=0.0)
