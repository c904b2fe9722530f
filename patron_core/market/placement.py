"""Where a run should go: the cheapest way that fits memory, deadline and caps, and why not each other one. Pure.

A deadline is held against the upper estimate of the time. Ways and their expected cost: ways.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patron_core.errors import Refused
from patron_core.interval import duration
from patron_core.market.spot_cost import ASSUMED_RATE, ReclaimRate
from patron_core.market.transfer import Place
from patron_core.market.ways import (
    Limits,
    Option,
    Way,
    Work,
    on_demand,
    spot,
    spot_then_on_demand,
    with_egress,
)
from patron_core.money import format_usd
from patron_core.prices import Price


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The chosen way, those that would do as well, cheapest first, and those that would not."""

    chosen: Option
    alternatives: tuple[Option, ...]
    refused: tuple[Option, ...]
    assumptions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "chosen": self.chosen.to_dict(),
            "alternatives": [option.to_dict() for option in self.alternatives],
            "refused": [option.to_dict() for option in self.refused],
            "assumptions": list(self.assumptions),
        }


def choose(
    works: Mapping[str, Work],
    prices: Sequence[Price],
    *,
    limits: Limits | None = None,
    rates: Mapping[str, ReclaimRate] | None = None,
    bucket: Place | None = None,
) -> Placement:
    """The cheapest way that fits. `works` is by device name; `rates` by cloud, or cloud/region, else the assumed one.
    `bucket`: where the runs are kept; a machine elsewhere pays for the way there.

    Raises Refused where nothing fits, with how many failed of what and what to change.
    """
    limits = limits or Limits()
    options = rank(works, prices, limits=limits, rates=rates, bucket=bucket)
    fitting = [option for option in options if not option.refused_for]
    refused = tuple(option for option in options if option.refused_for)
    if not fitting:
        raise Refused(_nothing_fits(refused), next=_what_to_change(refused))
    chosen, others = fitting[0], fitting[1:]
    return Placement(
        chosen=chosen,
        alternatives=tuple(_compared(option, chosen) for option in others),
        refused=refused,
        assumptions=_assumptions(chosen, rates),
    )


def rank(
    works: Mapping[str, Work],
    prices: Sequence[Price],
    *,
    limits: Limits,
    rates: Mapping[str, ReclaimRate] | None = None,
    bucket: Place | None = None,
) -> list[Option]:
    """Every way on every price, cheapest expected cost first, refused ones with their reason last."""
    options = []
    for price in prices:
        work = works.get(price.device)
        if work is None:
            continue
        rate = rate_at(price, rates)
        if not price.spot:
            options.append(_judged(with_egress(on_demand(work, price), work, bucket), work, limits))
            continue
        fallback = _fallback(price, prices, work, limits)
        if limits.deadline_s is not None and fallback is not None:
            option = spot_then_on_demand(work, price, fallback, rate, limits.deadline_s)
        else:
            option = spot(work, price, rate)
        options.append(_judged(with_egress(option, work, bucket), work, limits))
    return sorted(options, key=lambda o: (bool(o.refused_for), o.cost_usd_micros, o.wall_s, o.price.infra or ""))


def rate_at(price: Price, rates: Mapping[str, ReclaimRate] | None) -> ReclaimRate:
    """The rate given for the region, else for the cloud, else the assumed one."""
    known = rates or {}
    region = f"{price.cloud}/{price.region}"
    return known.get(region) or known.get(price.cloud or "") or ASSUMED_RATE


def _fallback(price: Price, prices: Sequence[Price], work: Work, limits: Limits) -> Price | None:
    """The cheapest on-demand machine of the same kind in the same cloud, in the same region if there is one."""
    same = [
        other
        for other in prices
        if not other.spot
        and (other.device, other.num_gpus, other.cloud) == (price.device, price.num_gpus, price.cloud)
        and not _over_cap(other, work, limits)
    ]
    return min(same, key=lambda o: (o.region != price.region, o.usd_micros_per_hour), default=None)


def _over_cap(price: Price, work: Work, limits: Limits) -> bool:
    """All machines of the run together, as a plan is judged."""
    cap = limits.max_usd_micros_per_hour
    return cap is not None and work.num_nodes * price.usd_micros_per_hour > cap


def _judged(option: Option, work: Work, limits: Limits) -> Option:
    """With the first reason against it."""
    price, cap = option.price, limits.max_usd_micros_per_hour
    dear = next((p for p in (price, option.fallback) if p is not None and _over_cap(p, work, limits)), None)
    late = limits.deadline_s is not None and option.longest_s > limits.deadline_s
    dearer_in_all = limits.budget_usd_micros is not None and option.cost_usd_micros > limits.budget_usd_micros
    against = ("", "")
    if not work.fits_memory:
        against = ("memory", work.sentence)
    elif price.num_gpus != work.num_gpus:
        against = ("gpus", f"Sold with {price.num_gpus} GPUs a machine, and the run uses {work.num_gpus}.")
    elif dear is not None and cap is not None:
        hourly = f"{format_usd(work.num_nodes * dear.usd_micros_per_hour)} an hour {dear.kind}"
        against = ("hourly cap", f"Costs {hourly}, above the cap of {format_usd(cap)}.")
    elif limits.spot is not None and limits.spot is not price.spot:
        against = ("kind", f"Is {price.kind}, which was ruled out.")
    elif late and limits.deadline_s is not None:
        alone = ", reclaims included, with no on-demand machine there to end on," if option.way is Way.SPOT else ""
        against = (
            "deadline",
            f"Takes up to {duration(option.longest_s)}{alone} and the deadline is {duration(limits.deadline_s)}.",
        )
    elif dearer_in_all and limits.budget_usd_micros is not None:
        cost, budget = format_usd(option.cost_usd_micros), format_usd(limits.budget_usd_micros)
        against = ("budget", f"Is expected to cost {cost}, over the budget of {budget}.")
    return replace(option, refused_for=against[0], why_not=against[1])


def _compared(option: Option, chosen: Option) -> Option:
    """With what speaks for the chosen one."""
    more = option.cost_usd_micros - chosen.cost_usd_micros
    slower_s = option.wall_s - chosen.wall_s
    pace = f"{duration(abs(slower_s))} {'slower' if slower_s > 0 else 'faster'}" if abs(slower_s) >= 1 else "as fast"
    if more < 5_000:  # half a cent
        return replace(option, why_not=f"Costs the same and is {pace}.")
    amount = format_usd(max(10_000, round(more, -4)))
    share = more / max(1, chosen.cost_usd_micros)
    return replace(option, why_not=f"Costs {amount} ({share:.0%}) more and is {pace}.")


def _assumptions(chosen: Option, rates: Mapping[str, ReclaimRate] | None) -> tuple[str, ...]:
    said = [chosen.price.sentence()]
    if chosen.price.spot:
        rate = rate_at(chosen.price, rates)
        said.append(f"{rate.mid:.2g} reclaims an hour expected, {rate.high:.2g} in the upper bound: {rate.source}.")
    if chosen.fallback is not None:
        said.append(chosen.fallback.sentence())
        said.append("Spot while there is slack, then on demand: never later than on demand from the start would be.")
    return tuple(said)


def _nothing_fits(refused: Sequence[Option]) -> str:
    if not refused:
        return "no price is known for any of the devices asked for"
    counts = Counter(option.refused_for for option in refused)
    nearest = min(refused, key=_distance)
    said = ", ".join(f"{count} for {reason}" for reason, count in counts.most_common())
    return f"none of {len(refused)} offers fits: {said}. The nearest: {nearest.sentence()}. {nearest.why_not}"


def _distance(option: Option) -> tuple[bool, float, int]:
    """Sorts refused options by how little would have to change."""
    hopeless = option.refused_for in ("memory", "gpus", "kind")
    return hopeless, option.longest_s if option.refused_for == "deadline" else 0.0, option.cost_usd_micros


def _what_to_change(refused: Sequence[Option]) -> str:
    """The one change that would let most offers in."""
    if not refused:
        return "name other devices or clouds: --devices A100-40GB,H100 --clouds gcp,aws"
    most = Counter(option.refused_for for option in refused).most_common(1)[0][0]
    soonest = min((o.longest_s for o in refused if o.refused_for == "deadline"), default=0.0)
    return {
        "memory": "take a smaller depth or device_batch_size, or a device with more memory",
        "gpus": "name other clouds, which sell single GPUs",
        "hourly cap": "raise --max-usd-per-hour",
        "kind": "allow both spot and on-demand machines",
        "deadline": f"allow {duration(soonest)}, or take fewer steps",
        "budget": "raise the budget, or take fewer steps",
    }[most]
