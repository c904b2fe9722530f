"""Where a run is to run: the executor, the machine it asks for, what an hour of it costs. Kept with the run's estimate.

Target()                                                   this machine
Target(executor="sky", device="H100", spot=True)           a GPU of the table, through SkyPilot
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from patron_core import machine
from patron_core.errors import InvalidInput
from patron_core.executors import executor_names
from patron_core.prices import Price, checked_price, fallback_price
from patron_core.store import Store
from patron_core.store.records import Run
from trainer.devices import DEVICES, Device, find_device

LOCAL_DEVICE = "local"  # this machine
GIVEN_SOURCE = "given"


@dataclass(frozen=True, kw_only=True)
class Target:
    executor: str = "local"
    device: str = LOCAL_DEVICE
    spot: bool = False
    usd_micros_per_hour: int | None = None  # None: as the price source has it

    @property
    def is_local(self) -> bool:
        return self.device == LOCAL_DEVICE

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if self.executor not in executor_names():
            problems.append(f"on: {self.executor!r}; allowed {', '.join(executor_names())}")
        if self.executor == "local" and not self.is_local:
            problems.append(f"device: {self.device!r}; on this machine it is {LOCAL_DEVICE}, elsewhere add --on sky")
        if self.executor != "local" and (found := find_device(self.device)) is None:
            problems.append(f"device: {self.device!r}; allowed on {self.executor} {', '.join(DEVICES)}")
        elif self.executor != "local" and found is not None and found.accelerator is None:
            problems.append(f"device: {self.device!r} cannot be rented")
        if self.is_local and self.spot:
            problems.append("spot: this machine is nobody's to take away")
        if problems:
            raise InvalidInput(problems, next="for instance --on sky --device H100 --spot")

    def find_device(self, store: Store | None) -> Device:
        """What a run there trains on."""
        if self.is_local:
            return machine.this_device(store)
        found = find_device(self.device)
        if found is None:
            raise InvalidInput([f"device: {self.device!r}; allowed {', '.join(DEVICES)}"], next="name one of them")
        return found

    def find_price(self, *, now: float | None = None) -> Price:
        """An hour of it. Raises Refused for a price that is not known or not plausible."""
        if self.is_local:
            return machine.this_price(now=now)
        if self.usd_micros_per_hour is None:
            return fallback_price(self.device, spot=self.spot)
        given = fallback_price(self.device, spot=self.spot)
        price = Price(
            device=given.device,
            usd_micros_per_hour=self.usd_micros_per_hour,
            source=GIVEN_SOURCE,
            as_of=machine.today(now),
            spot=self.spot,
        )
        return checked_price(price)

    def machine_key(self) -> str:
        """The name measurements of such a machine are kept under."""
        return machine.machine_key() if self.is_local else f"{self.executor} {self.device}"

    def to_ask_for(self, store: Store | None) -> dict[str, Any]:
        """What the executor is told: SkyPilot's name of the accelerator, spot or not. Nothing for this machine."""
        if self.is_local:
            return {}
        return {"accelerator": self.find_device(store).accelerator, "num_gpus": 1, "spot": self.spot}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        return cls(**values)


def target_of(run: Run) -> Target:
    """As planned; this machine for runs from before there was a choice."""
    return Target.from_dict((run.estimate or {}).get("target") or {})
