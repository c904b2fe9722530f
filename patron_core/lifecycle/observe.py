"""Load a run and look at the world: everything that `decide` may know, gathered in one place. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patron_core.executors.base import Executor, Observation, ObservedStatus
from patron_core.lifecycle.decide import Situation, StopCause
from patron_core.money import cost_usd_micros
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Attempt, Run
from trainer.contract.grace import kill_after_s
from trainer.contract.remote import join


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
    return join(run.run_dir, f"dryrun-{attempt.number}") if attempt.kind == "dryrun" else run.run_dir


def look(store: Store, run_id: str, executor: Executor, *, now: float) -> Scene:
    """Never raises for the run's sake; raises what the store or the executor raises when they cannot be asked."""
    run = runs.get_run(store, run_id)
    made = attempts.for_run(store, run.id)
    attempt = made[-1] if made else None
    known_step = max((a.evidence.get("checkpoint_step") or 0 for a in made if a.kind == "train"), default=0) or None
    observation = None
    if attempt is not None and attempt.state == "submitted" and attempt.handle is not None:
        observation = _with_notice(executor.poll(attempt.handle), RunDir(attempt_dir(run, attempt)), attempt.id)
    return Scene(
        run=run,
        attempt=attempt,
        known_checkpoint_step=known_step,
        observation=observation,
        situation=_situation(store, run, attempt, observation, executor, known_step, now=now),
    )


def _with_notice(seen: Observation, directory: RunDir, attempt_id: str) -> Observation:
    """A workload that is killed soon after its cloud's notice says nothing at its end, but it has noted the notice."""
    over = seen.status in (ObservedStatus.ENDED, ObservedStatus.GONE)
    if not over or (seen.signal is None and seen.exit_code is not None):
        return seen
    notice = directory.reclaim_notice(attempt_id)
    return seen if notice is None else replace(seen, evidence={**seen.evidence, "reclaim_notice": notice})


def uncharged_usd_micros(attempt: Attempt, uptime_s: float | None) -> int:
    """What the attempt's time costs beyond what has been charged for it."""
    if uptime_s is None:
        return 0
    return max(0, cost_usd_micros(max(0.0, uptime_s), attempt.usd_micros_per_hour) - attempt.charged_usd_micros)


def _situation(
    store: Store,
    run: Run,
    attempt: Attempt | None,
    observation: Observation | None,
    executor: Executor,
    known_checkpoint_step: int | None,
    *,
    now: float,
) -> Situation:
    hold = ledger.run_money(store, run.id).held_usd_micros
    if attempt is None:
        return Situation(state=run.state, stop_requested=run.stop_requested, hold_usd_micros=hold)
    if observation is not None:
        hold -= uncharged_usd_micros(attempt, observation.uptime_s)
    directory = RunDir(attempt_dir(run, attempt))
    result = directory.result()
    deadline_s = run.spec.get("deadline_s")
    return Situation(
        state=run.state,
        stop_requested=run.stop_requested,
        attempt_state=attempt.state,
        attempt_kind=attempt.kind,
        observation=observation,
        result=result if result and result.get("attempt") == attempt.id else None,
        run_dir_exists=directory.exists(),
        had_checkpoint=known_checkpoint_step is not None,
        hold_usd_micros=max(0, hold),
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
        without_machine_s=_since(run.updated_at if run.state is RunState.RECOVERING else attempt.started_at, now),
        capacity_wait_s=(attempt.price.get("machine") or {}).get("wait_s") or float("inf"),
    )


def _since(then: float | None, now: float) -> float:
    """Seconds since `then`. A clock that jumped back must not make anybody wait for ever: then it is long ago."""
    if then is None:
        return 0.0
    return now - then if now >= then else float("inf")
