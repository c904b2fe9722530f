"""Prices and placement: what machines cost where, and which of them a run should take. Spends nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patron_core import settings
from patron_core.errors import Refused
from patron_core.estimate import Estimate
from patron_core.machines import catalog
from patron_core.machines.target import LOCAL_DEVICE
from patron_core.market.offers import Market, fallback_market
from patron_core.market.placement import Placement, choose
from patron_core.market.spot_cost import ReclaimRate
from patron_core.market.transfer import bucket_place
from patron_core.market.ways import Limits, work_of
from patron_core.store import Store
from patron_core.verbs.plan import estimates


def prices(
    devices: Sequence[str],
    *,
    clouds: Sequence[str] = catalog.CLOUDS,
    fallback: bool = False,
    max_age_s: float = catalog.MAX_AGE_S,
    timeout_s: float = catalog.TIMEOUT_S,
) -> Market:
    """What `devices` cost at clouds, from SkyPilot's catalog, kept for six hours; this machine has no price there.

    `fallback`: the dated table of list prices instead, which needs nothing. Raises InvalidInput for unknown names,
    Unavailable without SkyPilot or where no cloud answers.
    """
    wanted = [device for device in devices if device != LOCAL_DEVICE]
    if fallback:
        return fallback_market(wanted)
    return catalog.read_market(wanted, clouds=clouds, max_age_s=max_age_s, timeout_s=timeout_s)


def place(
    store: Store | None,
    *,
    spec: Mapping[str, Any],
    devices: Sequence[str],
    market: Market,
    deadline_s: float | None = None,
    budget_usd_micros: int | None = None,
    max_usd_micros_per_hour: int | None = None,
    spot: bool | None = None,
    rates: Mapping[str, ReclaimRate] | None = None,
) -> Placement:
    """Where a run of `spec` should go: the cheapest way that fits, the others and why not.

    `max_usd_micros_per_hour`: None takes PATRON_MAX_USD_PER_HOUR. Raises Refused where nothing fits.
    """
    wanted = [device for device in devices if device != LOCAL_DEVICE]
    rows = estimates(store, depths=[int(spec["depth"])], devices=wanted, spec=spec)
    return place_estimates(
        rows,
        market,
        deadline_s=deadline_s,
        budget_usd_micros=budget_usd_micros,
        max_usd_micros_per_hour=max_usd_micros_per_hour,
        spot=spot,
        rates=rates,
    )


def place_estimates(
    rows: Sequence[Estimate],
    market: Market,
    *,
    deadline_s: float | None = None,
    budget_usd_micros: int | None = None,
    max_usd_micros_per_hour: int | None = None,
    spot: bool | None = None,
    rates: Mapping[str, ReclaimRate] | None = None,
) -> Placement:
    """The same for one run that is estimated already, one estimate a device."""
    cap = settings.max_usd_micros_per_hour() if max_usd_micros_per_hour is None else max_usd_micros_per_hour
    limits = Limits(deadline_s=deadline_s, max_usd_micros_per_hour=cap, budget_usd_micros=budget_usd_micros, spot=spot)
    works = {row.device.name: work_of(row) for row in rows}
    bucket = bucket_place(settings.runs_place(), os.environ)
    return choose(works, market.by_region(), limits=limits, rates=rates, bucket=bucket)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A depth and where it should go, or why nowhere."""

    depth: int
    placement: Placement | None = None
    refused: Refused | None = None

    @property
    def sentence(self) -> str:
        if self.placement is not None:
            return f"d{self.depth}: {self.placement.chosen.sentence()}."
        return f"d{self.depth}: {self.refused.message if self.refused else ''}"

    def to_dict(self) -> dict[str, Any]:
        found = self.placement.to_dict() if self.placement is not None else None
        return {"depth": self.depth, "placement": found, **(self.refused.to_dict() if self.refused else {})}


def place_depths(rows: Sequence[Estimate], market: Market, **limits: Any) -> list[Placed]:
    """Each depth of a table of estimates, with the limits of `place`; a depth that fits nowhere says so."""
    by_depth: dict[int, list[Estimate]] = {}
    for row in rows:
        if not row.device.is_cpu:
            by_depth.setdefault(row.recipe.depth, []).append(row)
    placed = []
    for depth, of_depth in by_depth.items():
        try:
            placed.append(Placed(depth=depth, placement=place_estimates(of_depth, market, **limits)))
        except Refused as refused:
            placed.append(Placed(depth=depth, refused=refused))
    return placed
