"""Fund: hold the money of a proven plan. Nothing is spent yet, and nothing more than this can be."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from patron_core.errors import Refused, Unavailable
from patron_core.estimate import Estimate
from patron_core.executors.skypilot import setup_of_machines
from patron_core.lifecycle.workload import check_spec, environment_command, workload_env
from patron_core.machines.target import target_of
from patron_core.money import cost_usd_micros, format_usd
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs.dryrun import repriced
from patron_core.verbs.next_steps import next_step
from patron_core.verbs.refusals import kept_with_the_run
from trainer.contract.grace import kill_after_s
from trainer.contract.remote import join

_FUNDABLE = frozenset({RunState.AWAITING_FUNDING, RunState.PAUSED})
_TOP_UP = frozenset({RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})
_REPEATING = frozenset({"steps", "evals", "checkpoints", "recovery"})
_ENVIRONMENT_TIMEOUT_S = 600.0  # on a busy machine whose tokens are gone from the cache


@kept_with_the_run
def fund(
    store: Store,
    run_id: str,
    *,
    usd_micros: int | None = None,
    actor: str,
    key: str,
    now: float | None = None,
) -> Run:
    """Hold `usd_micros` (default: the upper bound, as repriced by the dryrun) and make the run `funded`.

    A paused run is funded for what is left of it. A run that is funded or running already is topped up by an explicit
    amount. The same key holds once. Raises Refused: no dryrun, another spec or environment than the dryrun proved, more
    than the run may cost, or a wallet that is short.
    """
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if _held_before(store, run, key):
        return run
    if run.state in _TOP_UP and usd_micros is not None:
        _check_cap(store, run, usd_micros)
        with store.begin() as conn:
            ledger.hold(conn, run, usd_micros, key=_ledger_key(run, key), actor=actor, now=now)
            runs.add_event(conn, run.id, kind="topped_up", actor=actor, now=now, detail={"usd_micros": usd_micros})
            return runs.get_run(conn, run.id)
    if run.state not in _FUNDABLE:
        raise Refused(f"run {run.id} is {run.state}, not awaiting funding", next=next_step(run))
    check_proof(run)
    row = repriced(store, run)
    amount = hold_for(run, row) if usd_micros is None else usd_micros
    _check_cap(store, run, amount)
    with store.begin() as conn:
        ledger.hold(conn, run, amount, key=_ledger_key(run, key), actor=actor, now=now)
        if run.state is RunState.AWAITING_FUNDING:  # a resume does not rewrite the forecast that the run is judged by
            runs.set_fields(conn, run.id, now=now, estimate=(run.estimate or {}) | row.to_dict())
        return runs.transition(
            conn,
            run.id,
            old=run.state,
            new=RunState.FUNDED,
            actor=actor,
            now=now,
            detail=f"{format_usd(amount)} held",
        )


def hold_for(run: Run, row: Estimate) -> int:
    """The upper bound of what is left to do, and the margin in which a run that meets its limit saves a checkpoint."""
    left = 1.0
    newest = RunDir(run.run_dir).newest_checkpoint()
    if newest is not None:
        left = max(0.0, 1.0 - newest.step / row.recipe.num_steps)
    startup_s = sum(phase.high for name, phase in row.phases_s.items() if name not in _REPEATING)
    # one more start: a process that dies of nothing in particular comes back on the same hold
    upper_s = 2 * startup_s + left * (row.wall_s.high - startup_s)
    return cost_usd_micros(upper_s + kill_after_s(run.run_dir), row.price.usd_micros_per_hour)


def check_proof(run: Run) -> None:
    """Raises Refused unless the dryrun proved this very spec, here, in the environment as it is now."""
    again = f"python notebooks/2_dryrun.py --run {run.id}"
    if not run.dryrun:
        raise Refused(f"run {run.id} has no dryrun; its cost is a guess", next=again)
    if check_spec(run.spec).hash() != run.spec_hash or run.dryrun["spec_hash"] != run.spec_hash:
        raise Refused(f"the spec of run {run.id} is not the one that its dryrun proved", next=again)
    if not target_of(run).is_local:
        _check_setup(run, again)
        return  # what else may differ there is told there: its trainer exits with 78 before it begins
    proof = join(run.run_dir, f"dryrun-{str(run.dryrun['attempt']).rsplit('-', 1)[-1]}")
    recorded = RunDir(proof).environment() or {}
    current = current_environment(proof)
    if current.get("hash") != run.dryrun["environment_hash"]:
        changed = [k for k in sorted({*recorded, *current} - {"hash"}) if recorded.get(k) != current.get(k)]
        raise Refused(
            f"the environment changed since the dryrun of run {run.id}: {', '.join(changed) or 'its record is gone'}",
            next=again
            if run.state is RunState.AWAITING_FUNDING
            else "restore that environment; a run that has begun goes on only in its own, or plan a new run",
        )


def _check_setup(run: Run, again: str) -> None:
    """Of another machine's environment, what can be known before it is paid for."""
    proven = ((run.dryrun or {}).get("price") or {}).get("setup") or {}
    now = setup_of_machines()
    changed = [name for name in sorted({*proven, *now}) if proven.get(name) != now.get(name)]
    if changed:
        raise Refused(
            f"what machines are set up with changed since the dryrun of run {run.id}: {', '.join(changed)}", next=again
        )


def current_environment(run_dir: str) -> dict[str, Any]:
    """What the trainer would record now, on this machine, for the run in `run_dir`."""
    try:
        done = subprocess.run(
            environment_command(run_dir),
            env=os.environ | workload_env(),
            capture_output=True,
            text=True,
            timeout=_ENVIRONMENT_TIMEOUT_S,
            check=True,
        )
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", "") or str(error)
        said = said if isinstance(said, str) else said.decode(errors="replace")  # bytes where the time was over
        raise Unavailable(
            f"the environment could not be read: {said.strip()[-300:]}", next="python -m trainer.environment SPEC"
        ) from error
    return dict(found)


def _check_cap(store: Store, run: Run, amount: int) -> None:
    money = ledger.run_money(store, run.id)
    spent = money.charged_usd_micros + money.held_usd_micros
    if run.max_usd_micros is not None and spent + amount > run.max_usd_micros:
        raise Refused(
            f"run {run.id} may cost {format_usd(run.max_usd_micros)}; {format_usd(spent)} is spent or held, and "
            f"{format_usd(amount)} more would be needed",
            next="take fewer steps or a smaller depth, or plan the run again with a larger --max-usd",
        )


def _held_before(store: Store, run: Run, key: str) -> bool:
    return ledger.find(store, project=run.project, key=_ledger_key(run, key)) is not None


def _ledger_key(run: Run, key: str) -> str:
    return f"hold:{run.id}:{key}"
