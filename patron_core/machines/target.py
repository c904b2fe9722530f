"""Where a run is to run: the executor, the machine it asks for, what an hour of it costs. Kept with the run's estimate.

Target()                                                   this machine
Target(executor="sky", device="H100", spot=True)           a GPU of the table, through SkyPilot
Target(executor="sky", device="H100", num_gpus=8, num_nodes=2)      two machines with eight of them each
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from patron_core import settings
from patron_core.errors import InvalidInput, Refused
from patron_core.executors import executor_names
from patron_core.executors.sky_task import setup_of_machines
from patron_core.machines import catalog, this_machine
from patron_core.market import transfer
from patron_core.money import format_usd
from patron_core.prices import Price, checked_price, fallback_price
from patron_core.store import Store
from patron_core.store.records import Run
from trainer.contract.devices import DEVICES, Device, cpu_device, find_device
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import PATH, SOURCES

LOCAL_DEVICE = "local"  # this machine
CPU = "cpu"  # elsewhere, a machine without a GPU: its speed is guessed from this one's
GIVEN_SOURCE = "given"
_NEAR = 1.1  # a zone that costs this much more than the cheapest is as good; what is charged is the dearest of them
_MOST_PLACES = 6
MOST_GPUS, MOST_NODES = 16, 64


@dataclass(frozen=True, kw_only=True)
class Target:
    executor: str = "local"
    device: str = LOCAL_DEVICE
    spot: bool = False
    num_gpus: int = 1  # of each machine, a process on each; on this one without GPUs: processes that share its cores
    num_nodes: int = 1  # machines
    usd_micros_per_hour: int | None = None  # of each machine; None: from SkyPilot's catalog
    only: str = ""  # a place as SkyPilot writes it: gcp, gcp/us-central1; empty: PATRON_SKY_INFRA, else the cheapest
    checkpoint_bytes: float = 0.0  # of the run that is planned: moving them to the bucket counts in choosing the place
    wait_s: float | None = None  # how long to look for a machine; None: PATRON_CAPACITY_WAIT_S
    fallback: bool = False  # the dated table in the place of the catalog

    @property
    def is_local(self) -> bool:
        return self.device == LOCAL_DEVICE

    @property
    def world(self) -> WorldSize:
        return WorldSize(per_node=self.num_gpus, nodes=self.num_nodes)

    @property
    def name(self) -> str:
        """In short, and without a space: H100, 8xH100, 2x8xH100 for two machines with eight of them each."""
        return self.device if self.world.ranks == 1 else f"{self.world}x{self.device}"

    @property
    def words(self) -> str:
        """As people read it."""
        if self.is_local:
            return "this machine" if self.world.ranks == 1 else f"this machine, {self.world} processes"
        return f"{self.name}{' spot' if self.spot else ''}"

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if self.executor not in executor_names():
            problems.append(f"on: {self.executor!r}; allowed {', '.join(executor_names())}")
        if self.executor == "local" and not self.is_local:
            problems.append(f"device: {self.device!r}; on this machine it is {LOCAL_DEVICE}, elsewhere add --on sky")
        if self.executor != "local" and self.device != CPU and find_device(self.device) is None:
            problems.append(f"device: {self.device!r}; allowed on {self.executor} {', '.join([*DEVICES, CPU])}")
        known = find_device(self.device)
        if self.executor != "local" and known is not None and known.name not in DEVICES:
            problems.append(f"device: {known.name} is estimated by its datasheet, and rented are {', '.join(DEVICES)}")
        if self.executor != "local" and self.device == CPU and self.usd_micros_per_hour is None:
            problems.append("device: a machine without a GPU has no price here; add --usd-per-hour")
        problems += [
            f"{name}: {value!r}; allowed 1 to {most}"
            for name, value, most in (("gpus", self.num_gpus, MOST_GPUS), ("nodes", self.num_nodes, MOST_NODES))
            if not (isinstance(value, int) and 1 <= value <= most)
        ]
        if self.executor == "local" and self.num_nodes > 1:
            problems.append(f"nodes: {self.num_nodes}; this machine is one, elsewhere add --on sky")
        if self.is_local and self.spot:
            problems.append("spot: this machine is nobody's to take away")
        if problems:
            raise InvalidInput(problems, next="for instance --on sky --device H100 --spot")

    def find_device(self, store: Store | None) -> Device:
        """What a run there trains on."""
        if self.is_local:
            return this_machine.this_device(store)
        found = cpu_device() if self.device == CPU else find_device(self.device)
        if found is None:
            raise InvalidInput([f"device: {self.device!r}; allowed {', '.join(DEVICES)}"], next="name one of them")
        return found

    def find_price(self, *, now: float | None = None) -> Price:
        """An hour of it. Raises Refused for a price that is not known or not plausible."""
        if self.is_local:
            return this_machine.this_price(now=now)
        return self._within_cap(checked_price(self._price(now)))

    def _price(self, now: float | None) -> Price:
        if self.usd_micros_per_hour is not None:
            given = Price(
                device=self.find_device(None).name,
                usd_micros_per_hour=self.usd_micros_per_hour,
                source=GIVEN_SOURCE,
                as_of=this_machine.today(now),
                spot=self.spot,
                num_gpus=self.num_gpus,
            )
            return self._of_all_nodes(given)
        if self.fallback:
            one = fallback_price(self.device, spot=self.spot)
            hourly = self.num_gpus * one.usd_micros_per_hour
            return self._of_all_nodes(replace(one, usd_micros_per_hour=hourly, num_gpus=self.num_gpus))
        dearest = max(self._market(), key=lambda price: price.usd_micros_per_hour)
        return replace(dearest, cloud=None, region=None, zone=None, note=f"the dearest of {', '.join(self.places())}")

    def _of_all_nodes(self, price: Price) -> Price:
        """What all machines of the run cost together, from what one does."""
        hourly, gpus = self.num_nodes * price.usd_micros_per_hour, self.num_nodes * price.num_gpus
        return replace(price, usd_micros_per_hour=hourly, num_gpus=gpus)

    def _market(self) -> list[Price]:
        """The cheapest zone with the way to the bucket, and those that cost little more: any of them may be where the
        machine is found. Of several machines: prices of all together."""
        device = self.find_device(None).name
        only = self._only()
        market = catalog.read_market([device], clouds=_usable_clouds(only))
        place = only.split("/") if only else []  # a cloud, a region, a zone
        found = [
            p
            for p in market.of_device(device)
            if (p.num_gpus, p.spot) == (self.num_gpus, self.spot) and [p.cloud, p.region, p.zone][: len(place)] == place
        ]
        if not found:
            kind, where = "spot" if self.spot else "on demand", f" in {only}" if only else ""
            sold = sorted({p.num_gpus for p in market.of_device(device) if p.spot == self.spot})
            others = f"; it is sold by {', '.join(map(str, sold))}" if sold else ""
            raise Refused(
                f"no cloud that SkyPilot's catalog knows offers {self.num_gpus} x {device} {kind}{where}{others}; take "
                "another --device or number of --gpus, or give its real price: --usd-per-hour",
                next=f"patron estimate --devices {device} --prices",
            )
        found = sorted(map(self._of_all_nodes, found), key=self._with_egress)
        return [p for p in found if self._with_egress(p) <= _NEAR * self._with_egress(found[0])][:_MOST_PLACES]

    def _with_egress(self, price: Price) -> int:
        """Micro-dollars of an hour there, with the way of its checkpoints to the bucket."""
        hourly, bucket = price.usd_micros_per_hour, transfer.bucket_place(settings.runs_place(), os.environ)
        if bucket is None or not self.checkpoint_bytes or not price.infra:
            return hourly
        per_gb = transfer.egress_usd_micros_per_gb(transfer.Place.of(price.infra), bucket)
        return hourly + transfer.checkpoints_usd_micros_per_hour(self.checkpoint_bytes, per_gb, hourly)

    def _within_cap(self, price: Price) -> Price:
        cap = settings.max_usd_micros_per_hour()
        if cap is not None and price.usd_micros_per_hour > cap:
            raise Refused(
                f"{price.sentence()} PATRON_MAX_USD_PER_HOUR allows {format_usd(cap)}",
                next="another device, --spot, or a larger PATRON_MAX_USD_PER_HOUR",
            )
        return price

    def places(self) -> list[str]:
        """Where to look for the machine, cheapest first, as SkyPilot writes it; empty: wherever the task file says."""
        if self.is_local:
            return []
        if self._is_priced_by_hand:
            return [self._only()] if self._only() else []
        return [price.infra for price in self._market() if price.infra]

    def _asked(self) -> list[str | dict[str, Any]]:
        """The places as the executor is told: with the accelerator and instance type of the row that was chosen."""
        if self._is_priced_by_hand:
            return list(self.places())
        return [
            {"infra": price.infra, "accelerator": price.accelerator, "instance_type": price.instance_type}
            for price in self._market()
            if price.infra
        ]

    def _only(self) -> str:
        return self.only or settings.sky_infra()

    def machine_key(self) -> str:
        """The name measurements of such a machine are kept under."""
        one = this_machine.machine_key() if self.is_local else f"{self.executor} {self.device}"
        return one if self.world.ranks == 1 else f"{one} x{self.world}"

    def quote(self, *, now: float | None = None) -> dict[str, Any]:
        """What an attempt there keeps for ever: its price, the prices that it was chosen from, what the executor is
        told to ask for, and what is set up there. Raises Refused as `find_price` does."""
        quote = self.find_price(now=now).to_dict() | {"world": asdict(self.world)}
        if self.is_local:
            return quote | {"machine": {}}
        device = self.find_device(None)
        machine = {
            "device": None if device.is_cpu else device.name,
            "accelerator": device.accelerator,
            "spot": self.spot,
            "num_gpus": self.num_gpus,
            "num_nodes": self.num_nodes,
            "places": self._asked(),
            "wait_s": self.wait_s or settings.capacity_wait_s(),
        }
        market = [] if self._is_priced_by_hand else [price.to_dict() for price in self._market()]
        return quote | {"machine": machine, "market": market, "setup": setup_of_machines()}

    @property
    def _is_priced_by_hand(self) -> bool:
        return self.fallback or self.usd_micros_per_hour is not None

    def run_dir(self, run_id: str) -> str:
        """Where a run there keeps its record: its machine has to reach it, too. Raises InvalidInput."""
        place = settings.runs_place()
        if "://" not in place and not self.shares_files:
            raise InvalidInput(
                [f"PATRON_RUNS: {place} is a folder of this machine, which a machine in a cloud cannot reach"],
                next="export PATRON_RUNS=gs://BUCKET/runs",
            )
        return f"{place.rstrip('/')}/{run_id}"

    def check_data(self, data: str) -> None:
        """Raises InvalidInput where a machine there could not read the data."""
        if data.startswith(PATH) and not self.shares_files:
            raise InvalidInput(
                [f"data: {data} is on this machine, which a machine in a cloud cannot reach"],
                next=f"--data {' or '.join(name for name in SOURCES if name != 'stdlib')}, which it fetches by itself, "
                "or --on local",
            )

    @property
    def shares_files(self) -> bool:
        """Whether machines there may be on this one's disk and network, as a site's are."""
        return self.is_local or self._only().startswith(("slurm", "ssh", "k8s", "kubernetes"))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        return cls(**values)


def _usable_clouds(only: str) -> list[str]:
    """Those that are priced and that SkyPilot may use: a place on another would be waited for in vain. Raises Refused
    where there is none."""
    enabled = catalog.enabled_clouds()
    if enabled is None:
        return list(catalog.CLOUDS)
    usable = [cloud for cloud in enabled if cloud in catalog.PRICED_CLOUDS]
    asked = only.partition("/")[0]
    if asked and asked not in enabled:
        raise Refused(f"{asked} is not enabled in SkyPilot ({_listed(enabled)})", next=f"sky check {asked}")
    if not usable and not asked:
        raise Refused(
            f"no cloud whose prices are known is enabled in SkyPilot ({_listed(enabled)})", next="sky check gcp aws"
        )
    return usable or list(catalog.CLOUDS)


def _listed(clouds: list[str]) -> str:
    return f"enabled: {', '.join(clouds) or 'none'}"


def target_of(run: Run) -> Target:
    """As planned; this machine for runs from before there was a choice."""
    return Target.from_dict((run.estimate or {}).get("target") or {})
