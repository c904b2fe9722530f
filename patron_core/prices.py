"""What an hour of a machine costs, where the figure comes from, and which figures are refused. Pure.

An unknown, zero or implausible price refuses; it never counts as zero (catalogs have listed H100 at $0, B200 at $0.01).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from patron_core.errors import Refused
from patron_core.money import format_usd, typed_usd
from trainer.contract.devices import DEVICES, find_device

FALLBACK_AS_OF = "2025-06-30"
FALLBACK_SOURCE = "fallback table"
_FALLBACK_NOTE = "rounded up from public price lists, one GPU with its host; a fallback, not a quote"
# (on demand, spot) in micro-dollars an hour
_FALLBACK: dict[str, tuple[int, int]] = {
    "A100-40GB": (3_680_000, 1_840_000),
    "A100-80GB": (5_070_000, 2_540_000),
    "H100": (11_000_000, 3_400_000),
    "H200": (11_000_000, 4_000_000),
    "B200": (17_000_000, 7_000_000),
    "L4": (710_000, 290_000),
    "RTX4090": (700_000, 350_000),
}
# Spot markets and small clouds go far below list price, so the floors are low; they are there to catch catalog errors.
_LOWEST_SHARE = 0.12  # of the list price of its kind: what a spot market may fall to is no price for an hour on demand
_HIGHEST_SHARE_OF_ON_DEMAND = 10


@dataclass(frozen=True, kw_only=True)
class Price:
    """A price as it was seen. `as_of` is a date (YYYY-MM-DD) or a moment; it is stored with every attempt."""

    device: str
    usd_micros_per_hour: int  # of the whole machine, all its GPUs
    source: str  # "fallback table", "skypilot catalog", "PATRON_LOCAL_USD_PER_HOUR"
    as_of: str
    spot: bool = False
    cloud: str | None = None
    region: str | None = None
    zone: str | None = None
    accelerator: str | None = None  # SkyPilot's exact name; None: nothing to ask SkyPilot for
    num_gpus: int = 1
    instance_type: str | None = None
    note: str = ""

    @property
    def is_fallback(self) -> bool:
        return self.source == FALLBACK_SOURCE

    @property
    def kind(self) -> str:
        return "spot" if self.spot else "on demand"

    @property
    def infra(self) -> str | None:
        """Where, as SkyPilot writes it: cloud/region/zone; None where it is no cloud's price."""
        return "/".join(filter(None, (self.cloud, self.region, self.zone))) or None

    @property
    def usd_micros_per_gpu_hour(self) -> int:
        return round(self.usd_micros_per_hour / self.num_gpus)

    @property
    def machine(self) -> str:
        return self.device if self.num_gpus == 1 else f"{self.num_gpus}x {self.device}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        where = f" in {self.infra}" if self.infra else ""
        note = f" ({self.note})" if self.note else ""
        hourly = format_usd(self.usd_micros_per_hour)
        return f"{self.machine} {self.kind}{where} at {hourly} an hour, {self.source}, {self.as_of}{note}."


def fallback_price(device: str, *, spot: bool) -> Price:
    """The dated table's price, for when no catalog answers. Raises Refused for a device it does not list."""
    found = find_device(device)
    if found is None or found.name not in _FALLBACK:
        raise Refused(
            f"no price is known for {device!r}; the fallback table has {', '.join(_FALLBACK)}",
            next="name one of these devices, or give a price: --usd-per-hour 1.50",
        )
    on_demand_micros, spot_micros = _FALLBACK[found.name]
    return Price(
        device=found.name,
        usd_micros_per_hour=spot_micros if spot else on_demand_micros,
        source=FALLBACK_SOURCE,
        as_of=FALLBACK_AS_OF,
        spot=spot,
        note=_FALLBACK_NOTE,
    )


LOCAL_SOURCE = "PATRON_LOCAL_USD_PER_HOUR"  # of this machine's price: a setting


def local_price(usd_micros_per_hour: int, *, as_of: str) -> Price:
    """What an hour of this machine counts for (settings.local_usd_micros_per_hour)."""
    price = Price(device="cpu", usd_micros_per_hour=usd_micros_per_hour, source=LOCAL_SOURCE, as_of=as_of)
    return checked_price(price)


def checked_price(price: Price | None, *, device: str = "") -> Price:
    """The same price, or Refused: missing, zero, negative, or out of all proportion for the device."""
    if price is None:
        raise Refused(
            f"no price is known for {device or 'this device'}, and an unknown price never counts as zero",
            next="check the SkyPilot catalog (sky show-gpus), or give a price: --usd-per-hour 1.50",
        )
    hourly = price.usd_micros_per_hour
    if not isinstance(hourly, int) or isinstance(hourly, bool) or hourly <= 0:
        raise Refused(
            f"{price.source} gives {price.device} at {hourly!r} micro-dollars an hour; a price must be above 0",
            next="give the real price: --usd-per-hour 1.50",
        )
    bounds = plausible_usd_micros_per_hour(price.device, spot=price.spot)
    low, high = (price.num_gpus * bound for bound in bounds)
    if not low <= hourly <= high:
        raise Refused(
            f"{price.source} gives {price.machine} at {format_usd(hourly)} an hour; plausible is "
            f"{format_usd(low)} to {format_usd(high)}, so this looks like an error of the catalog",
            next=f"take another region or cloud, or give the real price: --usd-per-hour {typed_usd(low)} or more",
        )
    return price


def plausible_usd_micros_per_hour(device: str, *, spot: bool) -> tuple[int, int]:
    """Lowest and highest hourly price that is believed for one device of that kind."""
    found = find_device(device)
    if found is None or found.name not in _FALLBACK:
        return 1, 1_000_000_000
    on_demand_micros, spot_micros = _FALLBACK[found.name]
    return round(
        _LOWEST_SHARE * (spot_micros if spot else on_demand_micros)
    ), _HIGHEST_SHARE_OF_ON_DEMAND * on_demand_micros


assert set(_FALLBACK) == set(DEVICES), set(_FALLBACK) ^ set(DEVICES)
