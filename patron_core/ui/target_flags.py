"""The flags that say where a run is to run, the same in every notebook that plans one, and what a page offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from patron_core import verbs
from patron_core.ui.flags import Arguments, Usd

MOST_GPUS, MOST_NODES = verbs.MOST_GPUS, verbs.MOST_NODES
EXECUTORS = {"This machine": "local", "A machine that SkyPilot finds": "sky"}


class TargetArguments(Arguments):
    """Arguments of a notebook that plans a run somewhere."""

    on: Literal["local", "sky"] = Field(default="local", description="this machine, or one that SkyPilot finds")
    device: str = Field(default="", description="GPU to rent with --on sky, for instance A100-40GB or H100")
    spot: bool = Field(default=False, description="rent a machine that may be taken away, at a fraction of the price")
    gpus: int = Field(default=1, ge=1, le=MOST_GPUS, description="GPUs of each machine; here without GPUs, processes")
    nodes: int = Field(default=1, ge=1, le=MOST_NODES, description="machines that train together")
    where: str = Field(default="", description="only there, as SkyPilot writes it: gcp/us-central1, slurm/lab/gpu")
    usd_per_hour: Usd | None = Field(default=None, gt=0, le=1e4, description="price of one; else from the catalog")
    fallback_prices: bool = Field(default=False, description="the dated table of list prices, and no catalog")


class LimitArguments(Arguments):
    """What one run may cost and take."""

    max_usd: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars that the run may ever cost")
    minutes: float | None = Field(default=None, gt=0, le=1e6, description="minutes that the run should be done in")
    try_anyway: bool = Field(default=False, description="also where memory may run out: the dryrun tells")


FROM_ADDRESS = {*TargetArguments.model_fields, *LimitArguments.model_fields} - {"json_output", "try_anyway"}


def rentable(asked: str = "") -> list[str]:
    """The GPUs that can be rented, by name, and what was asked for, which is checked with the plan."""
    known = [name for name in verbs.device_names() if name != verbs.LOCAL_DEVICE]
    return list(dict.fromkeys([*known, *([asked] if asked else [])]))


def form(args: TargetArguments, ui: Any) -> dict[str, Any]:
    """The same flags as elements of a page, by name; `target_of` reads their values. `ui` is marimo's."""
    on = next(label for label, name in EXECUTORS.items() if name == args.on)
    return {
        "on": ui.dropdown(EXECUTORS, value=on, label="Where"),
        "device": ui.dropdown(rentable(args.device), value=args.device or None, label="GPU", allow_select_none=True),
        "spot": ui.switch(value=args.spot, label="Spot"),
        "where": ui.text(args.where, label="Only in", placeholder="gcp/us-central1", debounce=False),
        "gpus": ui.number(1, MOST_GPUS, value=args.gpus, label="GPUs of each machine"),
        "nodes": ui.number(1, MOST_NODES, value=args.nodes, label="Machines"),
        "usd_per_hour": ui.number(0, 1e4, value=args.usd_per_hour or 0, label="$ an hour (0: the catalog's)"),
        "fallback_prices": ui.switch(value=args.fallback_prices, label="Dated list prices"),
    }


def target_of(values: Mapping[str, Any]) -> verbs.Target:
    """The target of these flags, by name; of a page's form as of the command line. An empty field was left out."""
    price = values.get("usd_per_hour")
    return verbs.Target(
        executor=values["on"],
        device=values.get("device") or verbs.LOCAL_DEVICE,
        spot=bool(values.get("spot")),
        num_gpus=int(values.get("gpus") or 1),
        num_nodes=int(values.get("nodes") or 1),
        only=values.get("where") or "",
        usd_micros_per_hour=verbs.from_usd(price) if price else None,
        fallback=bool(values.get("fallback_prices")),
    )


def limits_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the run may cost and take, as `verbs.plan` takes it."""
    cap, minutes = values.get("max_usd"), values.get("minutes")
    return {
        "max_usd_micros": verbs.from_usd(cap) if cap else None,
        "budget_s": 60 * minutes if minutes else None,
    }
