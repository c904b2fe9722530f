"""A policy on a trace of when spot was to be had: what it costs, and whether it is late. Pure.

A trace is one bool a step: a spot machine runs through the steps that are True and is taken away at the first that is
not. The run loses what no checkpoint has; starting takes the whole change-over delay and is paid for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.market.spot_policy import Choice, Machine, Move, Progress, Terms, choose_machine

ROUNDING_S = 1e-3
Policy = Callable[[Terms, Progress], Choice]
_MACHINE = {
    Move.WAIT: Machine.NONE,
    Move.SPOT: Machine.SPOT,
    Move.ON_DEMAND: Machine.ON_DEMAND,
    Move.DONE: Machine.NONE,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    finished_s: float
    late: bool
    spot_s: float  # paid, starts included
    on_demand_s: float
    reclaims: int
    moves: int  # machines started
    lost_s: float

    def cost(self, terms: Terms) -> float:
        """In hours' worth of on-demand: 1.0 is an hour of it."""
        return (self.on_demand_s + terms.spot_price_share * self.spot_s) / 3600

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Means over many traces, in seconds."""

    finished_s: float
    spot_s: float
    on_demand_s: float
    reclaims: float


def expect(
    terms: Terms,
    *,
    reclaims_per_hour: float,
    away_s: float,
    step_s: float,
    policy: Policy = choose_machine,
    num_traces: int = 40,
) -> Expected:
    """What the policy uses on average where spot is reclaimed at a constant rate and is back after `away_s` on average.

    Spot is there at the start: it was just chosen. The traces are the same each time.
    """
    num_steps = math.ceil(terms.deadline_s / step_s)
    seen = []
    for seed in range(num_traces):
        lengths = _exponentials(seed)
        available: list[bool] = []
        while len(available) < num_steps:
            up_s = next(lengths) * 3600 / reclaims_per_hour if reclaims_per_hour > 0 else math.inf
            available += [True] * max(1, min(num_steps, round(min(up_s, terms.deadline_s) / step_s)))
            available += [False] * max(1, min(num_steps, round(next(lengths) * away_s / step_s)))
        seen.append(simulate(policy, terms, available[:num_steps], step_s=step_s))
    return Expected(
        finished_s=sum(one.finished_s for one in seen) / num_traces,
        spot_s=sum(one.spot_s for one in seen) / num_traces,
        on_demand_s=sum(one.on_demand_s for one in seen) / num_traces,
        reclaims=sum(one.reclaims for one in seen) / num_traces,
    )


def _exponentials(seed: int) -> Iterator[float]:
    """Draws with mean 1 from SplitMix64 (Steele et al., 2014): the same everywhere, and no global state."""
    for i in itertools.count(1 + (seed << 32)):
        z = (i * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield -math.log1p(-((z ^ (z >> 31)) >> 11) / 2**53)


@dataclass
class _Run:
    machine: Machine = Machine.NONE
    starting_s: float = 0.0  # left of the change-over
    done_s: float = 0.0
    saved_s: float = 0.0  # of done_s: in a checkpoint
    paid_s: dict[Machine, float] = field(default_factory=lambda: {Machine.SPOT: 0.0, Machine.ON_DEMAND: 0.0})
    reclaims: int = 0
    moves: int = 0
    lost_s: float = 0.0
    heard: bool | None = None  # of spot, when last asked for

    def leave(self) -> None:
        self.lost_s += self.done_s - self.saved_s
        self.done_s, self.machine, self.starting_s = self.saved_s, Machine.NONE, 0.0

    def enter(self, machine: Machine, restart_s: float) -> None:
        self.leave()
        self.machine, self.starting_s = machine, restart_s
        self.moves += machine is not Machine.NONE


def simulate(
    policy: Policy,
    terms: Terms,
    available: Sequence[bool],
    *,
    step_s: float,
    decide_every: int = 1,
    starts_s: Sequence[float] = (),
    told: bool = True,
) -> Outcome:
    """The run to its end. Past the end of the trace there is no spot.

    `decide_every`: steps between decisions, at most terms.decide_every_s; between them nobody notices a reclaim.
    `starts_s`: how long the starts take, one after the other, at most terms.restart_s; none given: all of it.
    `told`: whether the policy knows of spot without asking. Else asking is how it learns: where there is none it gets
    none, knows that at the next decision, and by the one after it no longer.
    """
    if decide_every * step_s > terms.decide_every_s + 1e-9:
        raise InvalidInput(
            [f"decide_every: {decide_every} steps of {step_s} s are more than {terms.decide_every_s} s"],
            next="decide as often as the terms say",
        )
    run, step = _Run(), 0
    while run.done_s < terms.work_s:
        spot = step < len(available) and bool(available[step])
        if run.machine is Machine.SPOT and not spot:
            run.leave()
            run.reclaims += 1
        if step % decide_every == 0:
            _decide(policy, terms, run, spot, step * step_s, starts_s, told)
        _advance(run, terms, step_s)
        step += 1
        if step * step_s > 10 * terms.deadline_s + 10 * terms.work_s:
            break  # a policy that waits for ever
    unused_s = _unused_s(run, terms)
    finished_s = step * step_s - unused_s
    if run.machine is not Machine.NONE:
        run.paid_s[run.machine] -= unused_s
    return Outcome(
        finished_s=finished_s,
        late=run.done_s < terms.work_s or finished_s > terms.deadline_s + ROUNDING_S,
        spot_s=run.paid_s[Machine.SPOT],
        on_demand_s=run.paid_s[Machine.ON_DEMAND],
        reclaims=run.reclaims,
        moves=run.moves,
        lost_s=run.lost_s,
    )


def _decide(
    policy: Policy, terms: Terms, run: _Run, spot: bool, now_s: float, starts_s: Sequence[float], told: bool
) -> None:
    seen = Progress(
        work_left_s=terms.work_s - run.saved_s,
        time_left_s=terms.deadline_s - now_s,
        machine=run.machine,
        spot_available=spot if told else run.heard,
    )
    run.heard = None
    wanted = _MACHINE[policy(terms, seen).move]
    if wanted is run.machine:
        return
    if wanted is Machine.SPOT and not spot:
        run.enter(Machine.NONE, 0.0)
        run.heard = False
        return
    start_s = starts_s[run.moves] if run.moves < len(starts_s) else terms.restart_s
    run.enter(wanted, start_s)


def _advance(run: _Run, terms: Terms, step_s: float) -> None:
    if run.machine is Machine.NONE:
        return
    run.paid_s[run.machine] += step_s
    working_s = max(0.0, step_s - run.starting_s)
    run.starting_s = max(0.0, run.starting_s - step_s)
    run.done_s += working_s
    if terms.loss_s <= 0 or run.done_s >= terms.work_s:
        run.saved_s = run.done_s
    else:
        run.saved_s += terms.loss_s * ((run.done_s - run.saved_s) // terms.loss_s)


def _unused_s(run: _Run, terms: Terms) -> float:
    """Of the last step: time after the last work was done."""
    return max(0.0, run.done_s - terms.work_s)
