"""The machine this runs on: what it is and what it was measured to do. Measured once by the trainer, then kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from patron_core import settings
from patron_core.errors import Unavailable
from patron_core.machines.host import this_host
from patron_core.prices import Price, local_price
from patron_core.store import Store, calibrations
from trainer.contract.devices import Device, describe_cpu, local_device

MEASURE_TIMEOUT_S = 120.0


def machine_key() -> str:
    """The name measurements of this machine are kept under: its own, whatever others have the same CPU."""
    return this_host().id


def busy_words() -> str:
    """What to add to a complaint about slowness where others are using this machine too."""
    cores, load = int(describe_cpu()["cores"]), os.getloadavg()[0]
    return f" (the machine is busy: load {load:.1f} on {cores} cores)" if load > cores else ""


def known_profile(store: Store) -> dict[str, Any] | None:
    """The last measured profile of this machine, if it was ever measured."""
    found = calibrations.latest(store, machine_key(), kind="peak", limit=1)
    return dict(found[0].values) if found else None


def measured_profile(store: Store, *, again: bool = False, now: float | None = None) -> dict[str, Any]:
    """The profile, measured now (a few seconds) if it never was, or `again`. Raises Unavailable if measuring fails."""
    known = None if again else known_profile(store)
    if known is not None:
        return known
    command = [sys.executable, "-P", "-m", "trainer.runtime.measure", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEASURE_TIMEOUT_S, check=True)
        profile: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise Unavailable(
            f"this machine could not be measured: {said.strip()[-300:]}", next="python -m trainer.runtime.measure"
        ) from error
    with store.begin() as conn:
        calibrations.record(
            conn,
            machine=machine_key(),
            kind="peak",
            values=profile,
            now=time.time() if now is None else now,
        )
    return profile


def this_device(store: Store | None) -> Device:
    """What a local run trains on: measured if it was, else a guess that says so."""
    return local_device(known_profile(store) if store is not None else None)


def this_price(*, now: float | None = None) -> Price:
    return local_price(settings.local_usd_micros_per_hour(), as_of=today(now))


def today(now: float | None = None) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(now))
