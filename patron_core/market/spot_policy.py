"""With a deadline: run on spot while there is slack, switch to on-demand when the slack is gone. Pure.

The policy is Uniform Progress of Wu et al., "Can't Be Late: Optimizing Spot Instance Savings under Deadlines" (NSDI
2024). With d the change-over delay (from asking for a machine to the first new step), C work left and R time left:

    thrifty        done is done
    safety net     idle and R < C + 2d: on-demand, to the end
    exploitation   once on spot, stay until it is taken away
    risk           idle and spot is to be had: take it
    uniform        idle, no spot, and less is done than the share of time that has passed: on-demand, to catch up
    hysteresis     leave on-demand for spot only when what is done covers the share at 2d from now

The paper decides at every moment and loses no work. Here decisions come every `decide_every_s`, and a reclaim takes
back what no checkpoint has, up to `loss_s`. So C counts from the newest durable checkpoint, and both are reserved:
2d + decide_every_s + loss_s in the safety net, and a spot machine is given up when C + d + decide_every_s > R, which
checkpoints in time never reach. By induction R >= C + d at every decision off on-demand: whoever could have made it
with on-demand from the start makes it (tests/core/test_spot_policy.py tries to break this).

A rule of our own: on-demand is not left when what spot would save on the rest does not pay for the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from patron_core.errors import InvalidInput

ROUNDING_S = 1e-6  # sums of seconds are no excuse to give up a machine


class Machine(StrEnum):
    """What a run is on, starting up included."""

    NONE = "none"
    SPOT = "spot"
    ON_DEMAND = "on_demand"


class Move(StrEnum):
    """What to be on until the next decision; the same as now means: stay."""

    DONE = "done"
    WAIT = "wait"
    SPOT = "spot"
    ON_DEMAND = "on_demand"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What does not change during a run. Seconds of work are seconds on one machine, without starts."""

    work_s: float  # all of it, upper bound
    deadline_s: float  # from the start of the run
    restart_s: float  # change-over delay, upper bound: machine, setup, loading, compiling
    decide_every_s: float  # between two decisions, upper bound: polling, and noticing that a machine is gone
    loss_s: float = 0.0  # work that a reclaim may take back: the checkpoint interval and its upload
    spot_price_share: float = 0.35  # spot price over on-demand price

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {getattr(self, name)!r}; allowed at least 0"
            for name in ("work_s", "restart_s", "decide_every_s", "loss_s", "spot_price_share")
            if not getattr(self, name) >= 0
        ]
        if not self.deadline_s > 0:
            problems.append(f"deadline_s: {self.deadline_s!r}; allowed above 0")
        if problems:
            raise InvalidInput(problems, next="give the run's work and deadline in seconds")

    @property
    def feasible(self) -> bool:
        """Whether on-demand from the start meets the deadline; the policy promises no more than that."""
        return self.deadline_s >= self.work_s + self.restart_s


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is seen at a decision."""

    work_left_s: float  # counted from the newest durable checkpoint
    time_left_s: float
    machine: Machine
    spot_available: bool | None = None  # as the last request or probe said; None: asking is how to find out


@dataclass(frozen=True, kw_only=True)
class Choice:
    move: Move
    why: str


def choose_machine(terms: Terms, now: Progress) -> Choice:
    """What to run on until the next decision."""
    if now.work_left_s <= 0:
        return Choice(move=Move.DONE, why="all work is done")
    slack_s = now.time_left_s - now.work_left_s
    if now.machine is Machine.ON_DEMAND:
        return _on_demand(terms, now, slack_s)
    if now.machine is Machine.SPOT:
        if slack_s + ROUNDING_S < terms.restart_s + terms.decide_every_s:
            return Choice(move=Move.ON_DEMAND, why=f"the slack of {slack_s:.0f} s is one change-over: spot is given up")
        return Choice(move=Move.SPOT, why="spot, until it is taken away")
    if slack_s < _net_s(terms):
        return Choice(move=Move.ON_DEMAND, why=f"the slack of {slack_s:.0f} s is down to the safety net")
    if now.spot_available is not False:
        return Choice(move=Move.SPOT, why=f"spot, with {slack_s:.0f} s of slack")
    behind_s = _expected_s(terms, now.time_left_s) - (terms.work_s - now.work_left_s)
    if behind_s > 0:
        return Choice(move=Move.ON_DEMAND, why=f"no spot, and {behind_s:.0f} s behind uniform progress")
    return Choice(move=Move.WAIT, why=f"no spot, and {-behind_s:.0f} s ahead of uniform progress")


def choose_greedily(terms: Terms, now: Progress) -> Choice:
    """The paper's baseline: spot or nothing until the safety net, then on-demand to the end."""
    choice = choose_machine(terms, now)
    slack_s = now.time_left_s - now.work_left_s
    if now.machine is Machine.ON_DEMAND and choice.move is Move.SPOT:
        return Choice(move=Move.ON_DEMAND, why="on-demand to the end")
    if now.machine is Machine.NONE and choice.move is Move.ON_DEMAND and slack_s >= _net_s(terms):
        return Choice(move=Move.WAIT, why="waiting for spot")
    return choice


def _on_demand(terms: Terms, now: Progress, slack_s: float) -> Choice:
    stay = Move.ON_DEMAND
    if not now.spot_available:
        return Choice(move=stay, why="no spot is known to be there")
    if slack_s < _net_s(terms):
        return Choice(move=stay, why=f"the slack of {slack_s:.0f} s does not pay for trying spot")
    ahead_s = terms.work_s - now.work_left_s - _expected_s(terms, now.time_left_s - 2 * terms.restart_s)
    if ahead_s < 0:
        return Choice(move=stay, why=f"{-ahead_s:.0f} s short of the lead that two change-overs need")
    saved = now.work_left_s * (1 - terms.spot_price_share)
    if saved <= terms.restart_s * terms.spot_price_share:
        return Choice(move=stay, why="too little is left for a move to pay")
    return Choice(move=Move.SPOT, why=f"{ahead_s:.0f} s ahead, and spot is there")


def _net_s(terms: Terms) -> float:
    return 2 * terms.restart_s + terms.decide_every_s + terms.loss_s


def _expected_s(terms: Terms, time_left_s: float) -> float:
    """Work that is done by then under uniform progress."""
    return terms.work_s * min(1.0, (terms.deadline_s - time_left_s) / terms.deadline_s)
