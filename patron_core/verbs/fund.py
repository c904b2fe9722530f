"""Fund: hold the money of a proven plan. Nothing is spent yet, and nothing more than this can be."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from patron_core.errors import Conflict, Refused, Unavailable
from patron_core.estimate import Estimate
from patron_core.executors.sky_task import setup_of_machines
from patron_core.lifecycle import holds
from patron_core.lifecycle.deadline import hold_usd_micros, terms_of
from patron_core.lifecycle.workload import WORKLOAD, environment_command, spec_of, workload_env
from patron_core.machines.target import target_of
from patron_core.money import check_usd_micros, format_usd
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, requests, runs
from patron_core.store.records import Run
from patron_core.verbs import moving
from patron_core.verbs.access import asks
from patron_core.verbs.dryrun import repriced, repriced_any
from patron_core.verbs.forecasts import planned
from patron_core.verbs.here import check_here
from patron_core.verbs.next_steps import next_step
from patron_core.verbs.refusals import kept_with_the_run
from patron_core.workloads.forecast import ForeignEstimate
from trainer.contract.keys import dryrun_folder, kind_and_number
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.remote import join

_FUNDABLE = frozenset({RunState.AWAITING_FUNDING, RunState.PAUSED})
_TOP_UP = frozenset({RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})
_LOOKS = 5  # at a run that others change at the same moment
_ENVIRONMENT_TIMEOUT_S = 600.0  # on a busy machine whose tokens are gone from the cache


@asks("spend")
@kept_with_the_run
def fund(
    store: Store,
    run_id: str,
    *,
    usd_micros: int | None = None,
    actor: str,
    key: str,
    on_progress: Callable[[str], object] = lambda line: None,
    now: float | None = None,
) -> Run:
    """Hold `usd_micros` (default: the upper bound, as repriced by the dryrun) and make the run `funded`.

    A paused run is funded for what is left of it. A run that is funded or running already is topped up by an explicit
    amount, and goes on for as much longer. The same key holds once; with another amount it is a Conflict. Raises
    Refused: no dryrun, another spec or environment than the dryrun proved, more than the run may cost, a wallet that
    is short, or a run that ended meanwhile.
    """
    now = time.time() if now is None else now
    if usd_micros is not None:
        check_usd_micros(usd_micros, "fund")
    for _ in range(_LOOKS):
        with store.read() as conn:
            run = runs.get_run(conn, run_id)
            if requests.answered(conn, run.id, "fund", key, {"usd_micros": usd_micros}):
                return run
        on_progress("Checking the environment.")
        offer = _offer_for(store, run, usd_micros)
        on_progress(f"Holding {format_usd(offer.usd_micros)}.")
        with store.begin() as conn:
            now_is = runs.lock(conn, run.id)
            if requests.answered(conn, run.id, "fund", key, {"usd_micros": usd_micros}):
                return now_is
            if (now_is.state, now_is.spec_hash) == (run.state, run.spec_hash):  # else somebody was faster: look again
                requests.write(conn, run.id, "fund", key, {"usd_micros": usd_micros}, actor=actor, now=now)
                return _hold(conn, now_is, offer, key=key, actor=actor, now=now)
    raise Conflict(f"run {run.id} changes too fast to be funded; it is {run.state} now", next=next_step(run))


def fund_together(
    store: Store, run_ids: Sequence[str], *, max_usd_micros: int, actor: str, key: str, now: float | None = None
) -> list[Run]:
    """One hold for all of them: their upper bounds, in one transaction, or nothing.

    Those that are past funding are returned as they are. Raises Refused where the bounds come to more than
    `max_usd_micros`, and as `fund` does.
    """
    now = time.time() if now is None else now
    offers: dict[str, tuple[Run, _Offer]] = {}
    seen: dict[str, dict[str, Any]] = {}
    for run in (runs.get_run(store, run_id) for run_id in run_ids):
        if run.state is RunState.AWAITING_FUNDING:
            check_proof(run, seen=seen)
            row = repriced(store, run)
            offers[run.id] = (run, _Offer(usd_micros=hold_for(run, row), row=row))
    total = sum(offer.usd_micros for _, offer in offers.values())
    if total > max_usd_micros:
        raise Refused(
            f"{len(offers)} runs need up to {format_usd(total)}; {format_usd(max_usd_micros)} of the budget are left",
            next="give it a larger budget under the same key, or plan fewer or shorter runs under another",
        )
    with store.begin() as conn:
        for run_id in sorted(offers):  # in one order, whoever else locks some of them
            run, offer = offers[run_id]
            now_is = runs.lock(conn, run_id)
            if (now_is.state, now_is.spec_hash) != (run.state, run.spec_hash):
                raise Conflict(f"run {run_id} was changed meanwhile; it is {now_is.state}", next=next_step(now_is))
            requests.write(conn, run_id, "fund", key, {"usd_micros": None}, actor=actor, now=now)
            _hold(conn, now_is, offer, key=key, actor=actor, now=now)
    return [runs.get_run(store, run_id) for run_id in run_ids]


@dataclass(frozen=True, kw_only=True)
class _Offer:
    usd_micros: int
    row: Estimate | ForeignEstimate | None  # None: a top-up, which changes neither state nor forecast


def _offer_for(store: Store, run: Run, usd_micros: int | None) -> _Offer:
    """What would be held; everything that takes a while, before any lock."""
    if run.state in _TOP_UP and usd_micros is not None:
        return _Offer(usd_micros=usd_micros, row=None)
    if run.state not in _FUNDABLE:
        raise Refused(f"run {run.id} is {run.state}, not awaiting funding", next=next_step(run))
    check_here(store, run)
    check_proof(run)
    row = repriced_any(store, run)
    if usd_micros is None:
        usd_micros = hold_for(run, row, slower=slower_than_said(store, run, row))
    return _Offer(usd_micros=usd_micros, row=row)


def _hold(conn: Connection, run: Run, offer: _Offer, *, key: str, actor: str, now: float) -> Run:
    ledger.hold(conn, run, offer.usd_micros, key=f"hold:{run.id}:{key}", actor=actor, now=now)
    if offer.row is None:
        runs.add_event(conn, run.id, kind="topped_up", actor=actor, now=now, detail={"usd_micros": offer.usd_micros})
        return run
    if run.state is RunState.AWAITING_FUNDING:  # a resume does not rewrite the forecast that the run is judged by
        estimate = (run.estimate or {}) | planned(run.estimate) | offer.row.to_dict()
        runs.set_fields(conn, run.id, now=now, estimate=estimate)
    detail = f"{format_usd(offer.usd_micros)} held"
    return runs.transition(conn, run.id, old=run.state, new=RunState.FUNDED, actor=actor, now=now, detail=detail)


def slower_than_said(store: Store, run: Run, row: Estimate | ForeignEstimate) -> float:
    """How many times as slow as `row` says the run itself was so far, where it has a checkpoint to show for it."""
    newest = RunDir(run.run_dir).newest_checkpoint()
    trained = [a for a in attempts.for_run(store, run.id) if a.kind == "train" and a.charged_s]
    if newest is None or not trained:
        return 1.0
    return holds.slower_than_said(
        row,
        taken_s=sum(a.charged_s for a in trained),
        starts=len(trained),
        share_done=newest.step / row.num_steps,
        stop_s=holds.stop_s(run.run_dir, is_rented=not row.local),
    )


def hold_for(run: Run, row: Estimate | ForeignEstimate, *, slower: float = 1.0) -> int:
    """The upper bound of what is left to do, and the margin in which a run that meets its limit saves a checkpoint.

    `slower`: than `row` says, as it was so far (`slower_than_said`).
    """
    newest = RunDir(run.run_dir).newest_checkpoint()
    left = 1.0 if newest is None else max(0.0, 1.0 - newest.step / row.num_steps)
    stop_s = holds.stop_s(run.run_dir, is_rented=not row.local)
    target, finish_s = target_of(run), (run.estimate or {}).get("finish_s")
    quote = moving.with_transfer({}, replace(run, estimate=row.to_dict()), target)
    bytes_usd_micros = moving.hold_usd_micros(quote, max(finish_s or 0.0, row.wall_s.high))
    alone = holds.for_run(row, stop_s=stop_s, left=left, slower=slower) + bytes_usd_micros
    if not target.spot or not finish_s:
        return alone
    spot, on_demand = (replace(target, spot=spot).find_price().usd_micros_per_hour for spot in (True, False))
    terms = terms_of(row.to_dict() | {"finish_s": finish_s}, stop_s=stop_s, spot_price_share=spot / on_demand)
    both = hold_usd_micros(terms, spot=spot, on_demand=on_demand, stop_s=stop_s, left=left)
    return max(alone, both + bytes_usd_micros)


def proof_folder(run: Run) -> str:
    """Where the burst that proved the run left its record: its own run directory's, or the one that it shares."""
    proof = run.dryrun or {}
    number = (kind_and_number(str(proof.get("attempt"))) or ("", 0))[1]
    return str(proof.get("folder") or join(run.run_dir, dryrun_folder(number)))


def check_proof(run: Run, *, seen: dict[str, dict[str, Any]] | None = None) -> None:
    """Raises Refused unless the dryrun proved this very spec, here, in the environment as it is now.

    `seen`: what was found for a proof a moment ago, by its folder; runs that share one share the look.
    """
    again = f"patron dryrun --run {run.id} --yes"
    if not run.dryrun:
        raise Refused(f"run {run.id} has no dryrun; its cost is a guess", next=again)
    if spec_of(run).hash() != run.spec_hash or run.dryrun["spec_hash"] != run.spec_hash:
        raise Refused(f"the spec of run {run.id} is not the one that its dryrun proved", next=again)
    if not target_of(run).is_local:
        _check_setup(run, again)
        return  # what else may differ there is told there: its trainer exits with 78 before it begins
    proof = proof_folder(run)
    recorded = RunDir(proof).environment() or {}
    seen = {} if seen is None else seen
    current = seen[proof] = seen.get(proof) or current_environment(proof, target_of(run).world, workload=run.workload)
    if current.get("hash") != run.dryrun["environment_hash"]:
        names = sorted({*recorded, *current} - {"hash", "num_devices"})
        changed = [name for name in names if recorded.get(name) != current.get(name)]
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


def current_environment(run_dir: str, world: WorldSize = ONE, *, workload: str = WORKLOAD) -> dict[str, Any]:
    """What the workload would record now, on this machine, for the run in `run_dir`."""
    command = environment_command(run_dir, workload=workload)
    try:
        done = subprocess.run(
            command,
            env=os.environ | workload_env(world),
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
            f"the environment could not be read: {said.strip()[-300:]}", next=shlex.join(command)
        ) from error
    return dict(found)
