"""The market: every price that is believed, and every row that is not, with the reason. Pure.

One lying row never hides the good ones: each is judged by itself, and what is left out is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from patron_core.errors import Refused
from patron_core.market.accelerators import accelerator_named, other_card
from patron_core.prices import Price, checked_price, fallback_price

CATALOG_SOURCE = "skypilot catalog"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    what: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "why": self.why}


@dataclass(frozen=True, kw_only=True)
class Market:
    """Prices that may be used, cheapest first by GPU, and what was left out of them."""

    prices: tuple[Price, ...]
    left_out: tuple[LeftOut, ...] = ()
    source: str = CATALOG_SOURCE
    as_of: Mapping[str, str] = field(default_factory=dict)  # by cloud: the moment the catalog was fetched
    problems: tuple[str, ...] = ()  # clouds that gave nothing, prices that could not be renewed

    def of_device(self, device: str) -> tuple[Price, ...]:
        return tuple(price for price in self.prices if price.device == device)

    def by_region(self) -> tuple[Price, ...]:
        """The cheapest zone of each machine, region and kind."""
        best: dict[tuple[Any, ...], Price] = {}
        for price in self.prices:
            place = (price.device, price.num_gpus, price.cloud, price.region, price.spot)
            if place not in best or price.usd_micros_per_hour < best[place].usd_micros_per_hour:
                best[place] = price
        return tuple(best.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "as_of": dict(self.as_of),
            "prices": [price.to_dict() for price in self.prices],
            "left_out": [one.to_dict() for one in self.left_out],
            "problems": list(self.problems),
        }


def catalog_market(
    answers: Sequence[Mapping[str, Any]], *, as_of: Mapping[str, str], problems: Iterable[str] = ()
) -> Market:
    """From what `sky_worker.catalog` read: one answer a cloud, {"cloud", "rows": [...]}; a row may hold both prices."""
    prices: list[Price] = []
    left_out: list[LeftOut] = []
    for answer in answers:
        cloud = answer["cloud"]
        for row in answer["rows"]:
            _add_row(row, cloud, as_of[cloud], prices, left_out)
    prices.sort(key=lambda p: (p.usd_micros_per_gpu_hour, p.num_gpus, p.infra or "", p.spot))
    return Market(prices=tuple(prices), left_out=tuple(left_out), as_of=dict(as_of), problems=tuple(problems))


def fallback_market(devices: Iterable[str]) -> Market:
    """The dated table of list prices, for when it was asked for: no cloud, no region, and it says what it is."""
    prices = [fallback_price(device, spot=spot) for device in devices for spot in (True, False)]
    return Market(
        prices=tuple(prices),
        source=prices[0].source if prices else "",
        problems=("these are list prices of a dated table, not of a market: no cloud or region stands behind them",),
    )


def _add_row(row: Mapping[str, Any], cloud: str, as_of: str, prices: list[Price], left_out: list[LeftOut]) -> None:
    """Both prices of one row; a missing spot price (null) means that there is no spot, which is no fault."""
    count = float(row["count"])
    place = "/".join(filter(None, (cloud, row["region"], row["zone"])))
    what = f"{count:g}x {row['accelerator']} ({row['instance_type']}) in {place}"
    accelerator = accelerator_named(row["accelerator"])
    if accelerator is None or count < 1 or not count.is_integer():
        why = "no device of ours has that name" if accelerator is None else "not a whole GPU"
        left_out.append(LeftOut(what=what, why=why))
        return
    why_other = other_card(
        accelerator, cloud=cloud, instance_type=row["instance_type"] or "", memory_gib=row["device_memory_gib"]
    )
    if why_other is not None:
        left_out.append(LeftOut(what=what, why=why_other))
        return
    for spot, usd in ((False, row["price"]), (True, row["spot_price"])):
        if usd is None:
            if not spot:
                left_out.append(LeftOut(what=f"{what}, on demand", why="the catalog has no price, and none is zero"))
            continue
        price = Price(
            device=accelerator.device,
            usd_micros_per_hour=_micros(usd),
            source=CATALOG_SOURCE,
            as_of=as_of,
            spot=spot,
            cloud=cloud,
            region=row["region"],
            zone=row["zone"],
            accelerator=accelerator.name,
            num_gpus=int(count),
            instance_type=row["instance_type"],
        )
        try:
            alone = row.get("gpu_spot_price" if spot else "gpu_price")
            if alone is not None:  # the host's price must not hide a GPU that is listed at nothing
                checked_price(replace(price, usd_micros_per_hour=_micros(alone), source=f"the GPU alone in {place}"))
            prices.append(checked_price(price))
        except Refused as refused:
            left_out.append(LeftOut(what=f"{what}, {price.kind}", why=refused.message))


def _micros(usd: float) -> int:
    """Up, but not for an ulp; 0, which is refused, for what is no number."""
    return math.ceil(round(1e6 * usd, 3)) if math.isfinite(usd) else 0
