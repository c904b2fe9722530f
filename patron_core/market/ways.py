"""The ways to run on an offer, and what each is expected to take, reclaims included. Pure.

On demand: price x wall time. Spot: price x the paid time of `spot_cost.spot_time`, which is work, work done twice and
new starts. Spot, then on demand, with a deadline: what `spot_policy` does on average over simulated reclaims.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

from patron_core.errors import InvalidInput
from patron_core.estimate import Estimate, wall
from patron_core.interval import ZERO, Interval, duration, total
from patron_core.market.simulate import Expected, expect
from patron_core.market.spot_cost import ReclaimRate, SpotTime, spot_time
from patron_core.market.spot_policy import Terms
from patron_core.market.transfer import Place, checkpoints_usd_micros_per_hour, egress_usd_micros_per_gb
from patron_core.money import cost_usd_micros, format_usd
from patron_core.prices import Price

MAX_STEPS = 500  # of a simulation; decisions are that much coarser than they will be


class Way(StrEnum):
    ON_DEMAND = "on_demand"
    SPOT = "spot"
    SPOT_THEN_ON_DEMAND = "spot_then_on_demand"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run takes on one device, on a machine that stays: from its estimate."""

    device: str
    startup_s: Interval  # provisioning to the first step
    work_s: Interval  # steps and evaluations
    stall_s: float  # what the steps wait for one checkpoint
    interval_s: float  # between checkpoints
    fits_memory: bool
    sentence: str  # of the estimate
    checkpoint_bytes: float = 0.0
    num_gpus: int = 1  # of each machine
    num_nodes: int = 1  # machines, each at the price

    @property
    def wall_s(self) -> Interval:
        saves = self.work_s.scaled(self.stall_s / self.interval_s)
        return total((self.startup_s, self.work_s, saves))


def work_of(row: Estimate) -> Work:
    """The part of an estimate that a machine has to do, whatever the machine costs."""
    item_bytes = 2 if row.dtype == "bfloat16" else 4
    save_s = wall.save_seconds(row.recipe, row.device, item_bytes, row.calibration)
    stepping = [phase for name, phase in row.phases_s.items() if name in ("steps", "evals")]
    starting = [phase for name, phase in row.phases_s.items() if name not in wall.AFTER_START]
    return Work(
        device=row.device.name,
        startup_s=total(starting) if starting else ZERO,
        work_s=total(stepping),
        stall_s=wall.STALL_SHARE.mid * save_s,
        interval_s=wall.checkpoint_interval_s(row.spec, save_s, row.step_s.mid),
        fits_memory=row.memory.fits,
        sentence=row.sentence,
        checkpoint_bytes=row.checkpoint_bytes,
        num_gpus=row.world.per_node,
        num_nodes=row.world.nodes,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the person allows; None: no limit."""

    deadline_s: float | None = None
    max_usd_micros_per_hour: int | None = None
    budget_usd_micros: int | None = None
    spot: bool | None = None  # True: only ways that use spot; False: none of them

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {value!r}; allowed above 0"
            for name in ("deadline_s", "max_usd_micros_per_hour", "budget_usd_micros")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        if problems:
            raise InvalidInput(problems, next="give limits above 0, or leave them out")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run, with what is expected of it; `why_not` is one sentence, empty for the chosen one."""

    way: Way
    price: Price
    fallback: Price | None  # the on-demand price that SPOT_THEN_ON_DEMAND ends on
    wall_s: float  # expected
    longest_s: float  # what the deadline is held against
    cost_usd_micros: int  # expected
    hold_usd_micros: int  # at worst
    reclaims: float
    egress_usd_micros: int = 0  # of that: checkpoints on their way to the bucket
    refused_for: str = ""  # memory, gpus, hourly cap, kind, deadline, budget
    why_not: str = ""

    def sentence(self) -> str:
        end = f", then on demand at {format_usd(self.fallback.usd_micros_per_hour)}" if self.fallback else ""
        lost = f", {self.reclaims:.1f} reclaims expected" if self.way is not Way.ON_DEMAND else ""
        place = f" in {self.price.infra}" if self.price.infra else ""
        hourly = format_usd(self.price.usd_micros_per_hour)
        moved = f", {format_usd(self.egress_usd_micros)} of it egress to the bucket" if self.egress_usd_micros else ""
        return (
            f"{self.price.machine} {self.price.kind}{place} at {hourly} an hour{end}: "
            f"{format_usd(self.cost_usd_micros)} and {duration(self.wall_s)} expected{moved}{lost}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "way": str(self.way),
            "price": self.price.to_dict(),
            "fallback": self.fallback.to_dict() if self.fallback else None,
            "infra": self.price.infra,
            "wall_s": self.wall_s,
            "longest_s": self.longest_s,
            "cost_usd_micros": self.cost_usd_micros,
            "hold_usd_micros": self.hold_usd_micros,
            "egress_usd_micros": self.egress_usd_micros,
            "reclaims": self.reclaims,
            "refused_for": self.refused_for or None,
            "why_not": self.why_not,
            "sentence": self.sentence(),
        }


def on_demand(work: Work, price: Price) -> Option:
    time_s = work.wall_s
    return Option(
        way=Way.ON_DEMAND,
        price=price,
        fallback=None,
        wall_s=time_s.mid,
        longest_s=time_s.high,
        cost_usd_micros=_cost(time_s.mid, price, work),
        hold_usd_micros=_cost(time_s.high, price, work),
        reclaims=0.0,
    )


def spot(work: Work, price: Price, rate: ReclaimRate) -> Option:
    expected, worst = _time(work, rate, "mid"), _time(work, rate, "high")
    return Option(
        way=Way.SPOT,
        price=price,
        fallback=None,
        wall_s=expected.wall_s,
        longest_s=worst.wall_s,
        cost_usd_micros=_cost(expected.paid_s, price, work),
        hold_usd_micros=_cost(worst.paid_s, price, work),
        reclaims=expected.reclaims,
    )


def spot_then_on_demand(work: Work, price: Price, fallback: Price, rate: ReclaimRate, deadline_s: float) -> Option:
    """At worst spot is paid for all the slack without a step done, and on-demand then does everything."""
    stays = work.wall_s
    expected = _expected(work, rate, deadline_s)
    cost = _cost(expected.spot_s, price, work) + _cost(expected.on_demand_s, fallback, work)
    unused_s = max(0.0, deadline_s - stays.high)
    return Option(
        way=Way.SPOT_THEN_ON_DEMAND,
        price=price,
        fallback=fallback,
        wall_s=expected.finished_s,
        longest_s=stays.high,
        cost_usd_micros=cost,
        hold_usd_micros=max(cost, _cost(stays.high, fallback, work) + _cost(unused_s, price, work)),
        reclaims=expected.reclaims,
    )


@lru_cache(maxsize=256)
def _expected(work: Work, rate: ReclaimRate, deadline_s: float) -> Expected:
    """The policy's machine time; it depends on the device and the rate, and hardly on the prices."""
    step_s = max(10.0, deadline_s / MAX_STEPS)
    stays = work.wall_s
    terms = Terms(
        work_s=stays.mid - work.startup_s.mid,
        deadline_s=deadline_s,
        restart_s=work.startup_s.mid,
        decide_every_s=step_s,
        loss_s=work.interval_s if math.isfinite(work.interval_s) else stays.mid,
    )
    return expect(terms, reclaims_per_hour=rate.mid, away_s=rate.away_s, step_s=step_s)


def with_egress(option: Option, work: Work, bucket: Place | None) -> Option:
    """The option with what its checkpoints' way to the bucket costs, where they leave the machine's region."""
    price = option.price
    if bucket is None or not price.infra:
        return option
    per_gb = egress_usd_micros_per_gb(Place.of(price.infra), bucket)
    machines = work.num_nodes * price.usd_micros_per_hour
    an_hour = checkpoints_usd_micros_per_hour(work.checkpoint_bytes, per_gb, machines)
    moved = cost_usd_micros(option.wall_s, an_hour) if an_hour and math.isfinite(option.wall_s) else 0
    longest = cost_usd_micros(option.longest_s, an_hour) if an_hour and math.isfinite(option.longest_s) else 0
    return replace(
        option,
        cost_usd_micros=option.cost_usd_micros + moved,
        hold_usd_micros=option.hold_usd_micros + longest,
        egress_usd_micros=moved,
    )


def _time(work: Work, rate: ReclaimRate, bound: Literal["mid", "high"]) -> SpotTime:
    return spot_time(
        work_s=getattr(work.work_s, bound),
        startup_s=getattr(work.startup_s, bound),
        restart_s=getattr(work.startup_s, bound),  # data and packages are fetched anew on a new machine
        interval_s=work.interval_s,
        stall_s=work.stall_s,
        wait_s=rate.away_s,
        reclaims_per_hour=getattr(rate, bound),
    )


def _cost(seconds: float, price: Price, work: Work) -> int:
    return cost_usd_micros(min(seconds, 1e9), work.num_nodes * price.usd_micros_per_hour)
