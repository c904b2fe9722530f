"""What must hold whatever happens. Measured at the machine, not by what the code under test says of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from patron_core.executors.base import Observation
from patron_core.lifecycle.holds import TEARDOWN_S
from patron_core.states import TERMINAL, RunState
from patron_core.store import attempts, ledger, runs
from patron_core.store.records import RunMoney

if TYPE_CHECKING:
    from .world import World

SECOND = 1_000
RESTING = TERMINAL | {RunState.PAUSED, RunState.FUNDED, RunState.AWAITING_FUNDING, RunState.DRAFT}


class Broken(Exception):
    """A promise that did not hold."""


def at_any_moment(world: World, *, thoroughly: bool) -> None:
    """`thoroughly` also asks the database, which takes longer."""
    starts = world.machine.starts
    if any(number > 1 for number in starts.values()):
        raise Broken(f"started twice: {starts}")
    live = _live(world)
    if by_force := [key for key, job in world.machine._jobs.items() if job.graces[:1] == [0.0]]:
        _asked_before(world, by_force)
    for run in world.made:
        beside = [key for key in live if key.startswith(f"{run.id}-")]
        if len(beside) > 1:
            raise Broken(f"at once on the machine: {beside}")
    if thoroughly:
        acting, world.acting = world.acting, None
        _owned(world, live)
        _paid(world)
        world.acting = acting


def at_the_end(world: World) -> None:
    """Every run rests, nothing runs any more, and what the machine worked is paid for, as far as it was allowed to."""
    at_any_moment(world, thoroughly=True)
    if live := _live(world):
        raise Broken(f"still on the machine in the end: {live}")
    for made in world.made:
        run = runs.get_run(world.store, made.id)
        if run.state not in RESTING or run.stop_requested:
            raise Broken(f"{run.id} is {run.state} in the end, asked to {run.stop_requested}")
        money = ledger.run_money(world.store, run.id)
        if money.held_usd_micros and run.state is not RunState.FUNDED:
            raise Broken(f"{run.id} is {run.state} and holds {money.held_usd_micros}")
        owed = _worked_usd_micros(world, run.id)
        if money.by_kind_usd_micros.get("charge", 0) < owed - SECOND and money.charged_usd_micros < _funded(money):
            raise Broken(f"{run.id} was charged {money.charged_usd_micros} for {owed} of machine")
    if problems := ledger.verify(world.store):
        raise Broken(f"the books: {problems}")


def _asked_before(world: World, by_force: list[str]) -> None:
    """Force comes after a request, with time to save; or at once to what had been ended before it was submitted."""
    acting, world.acting = world.acting, None
    for key in by_force:
        made = [a for a in attempts.for_run(world.store, key.rsplit("-", 2)[0]) if a.id == key]
        if made and made[0].stop_cause is not None:
            raise Broken(f"{key} was stopped by force, and was never asked to stop")
    world.acting = acting


def _owned(world: World, live: list[str]) -> None:
    for key in live:
        found = [a for a in attempts.for_run(world.store, key.rsplit("-", 2)[0]) if a.id == key]
        if not found or found[0].state == "ended":
            raise Broken(f"{key} is on the machine, and its attempt is {found[0].state if found else 'not written'}")


def _paid(world: World) -> None:
    if ledger.wallet(world.store, "lab").available_usd_micros < 0:
        raise Broken("the wallet is below zero")
    for made in world.made:
        run, money = runs.get_run(world.store, made.id), ledger.run_money(world.store, made.id)
        worked, number = _worked_usd_micros(world, run.id), len(attempts.for_run(world.store, run.id))
        by_kind = money.by_kind_usd_micros
        if by_kind.get("charge", 0) > worked + number:  # a part of a micro-dollar is owed in full
            raise Broken(f"{run.id} was charged {by_kind} for {worked} of machine")
        if money.charged_usd_micros > worked + number * (1 + _beside_usd_micros(world)):
            raise Broken(f"{run.id} was charged {by_kind} in {number} attempts")
        if money.held_usd_micros < 0 or money.charged_usd_micros > money.funded_usd_micros:
            raise Broken(f"{run.id}: {money}")
        made_of_it = attempts.for_run(world.store, run.id)
        if run.state in RESTING and made_of_it and made_of_it[-1].state != "ended":
            raise Broken(f"{run.id} is {run.state} beside {made_of_it[-1].id}, which is {made_of_it[-1].state}")
        if run.max_usd_micros is not None and money.charged_usd_micros + money.held_usd_micros > run.max_usd_micros:
            raise Broken(f"{run.id} may cost {run.max_usd_micros}: {money}")
        if worked > money.funded_usd_micros + SECOND:
            raise Broken(f"{run.id} worked {worked} on the machine, and {money.funded_usd_micros} were held for it")


def _funded(money: RunMoney) -> int:
    return money.funded_usd_micros - money.released_usd_micros


def _worked_usd_micros(world: World, run_id: str) -> int:
    seconds = sum(seen.uptime_s or 0.0 for key, seen in _jobs(world) if key.startswith(f"{run_id}-"))
    return math.ceil(seconds * SECOND)


def _beside_usd_micros(world: World) -> int:
    """The most that an attempt may cost beside its machine's time: the machine's end, and ten megabytes."""
    return round(TEARDOWN_S * SECOND) + 2_000 if world.rents else 0


def _live(world: World) -> list[str]:
    return [key for key, seen in _jobs(world) if not seen.is_final]


def _jobs(world: World) -> list[tuple[str, Observation]]:
    """Every job that the machine ever had, as it is: also while it does not answer anybody else."""
    return [(key, job.observe(world.machine.now)) for key, job in world.machine._jobs.items()]
