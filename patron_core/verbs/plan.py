"""Plan: what would a depth take on a device, and a draft of the one to make. Spends nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from patron_core import settings
from patron_core.errors import InvalidInput
from patron_core.estimate import Calibration, Estimate, Verdict, estimate, size_of_checkpoints
from patron_core.estimate.core_price import CorePrice, core_price
from patron_core.estimate.verdict import Budget, check_budget, judge
from patron_core.lifecycle import ownership
from patron_core.lifecycle.workload import WORKLOAD, check_spec
from patron_core.machines import this_machine
from patron_core.machines.host import this_host
from patron_core.machines.target import GIVEN_SOURCE, LOCAL_DEVICE, Target
from patron_core.money import check_usd_micros
from patron_core.prices import Price, fallback_price
from patron_core.scaling import Fit
from patron_core.store import Store, hosts, runs
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.measured import calibration_for, fit_of
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.moving import egress_usd_micros_per_gb
from patron_core.verbs.spec_door import spec_on
from trainer.contract.core_tasks import BundleError, read_bundle
from trainer.contract.devices import DEVICES, KNOWN_GPUS, Device, find_device
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.spec import TrainSpec


def device_names() -> list[str]:
    return [LOCAL_DEVICE, *DEVICES]


def device_named(store: Store | None, name: str) -> Device:
    """A row of the GPU table, or `local` for this machine. Raises InvalidInput with the names there are."""
    if name == LOCAL_DEVICE:
        return this_machine.this_device(store)
    found = find_device(name)
    if found is None:
        raise InvalidInput(
            [f"device: {name!r}; allowed {LOCAL_DEVICE}, {', '.join(KNOWN_GPUS)}"],
            next=f"name one of them, for instance {LOCAL_DEVICE}; of this machine's own card: patron measure",
        )
    return found


def price_for(
    device: Device, *, local: bool, spot: bool = False, ranks: int = 1, usd_micros_per_hour: int | None = None
) -> Price:
    """This machine's price from the settings; of so many GPUs what is given for one, or from the dated fallback table,
    which says that it is."""
    if local:
        return this_machine.this_price()
    if usd_micros_per_hour is None:
        one = fallback_price(device.name, spot=spot)
    else:
        given = {"usd_micros_per_hour": usd_micros_per_hour, "source": GIVEN_SOURCE, "as_of": this_machine.today(None)}
        one = Price(device=device.name, spot=spot, **given)  # type: ignore[arg-type]
    return replace(one, usd_micros_per_hour=ranks * one.usd_micros_per_hour, num_gpus=ranks)


def estimates(
    store: Store | None,
    *,
    depths: Sequence[int],
    devices: Sequence[str],
    spec: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
    budget_usd_micros: int | None = None,
    spot: bool = False,
    usd_micros_per_hour: int | None = None,
    world: WorldSize = ONE,
) -> list[Estimate]:
    """Every depth on every device, by so many processes. `spec`: the fields that were given; the others are the
    device's own defaults. Without a store nothing is known yet.

    `usd_micros_per_hour`: of one GPU, in the place of the dated table. A device to be rented that costs more than
    PATRON_MAX_USD_PER_HOUR is over budget, whatever the budget is.
    """
    if not depths or not devices:
        raise InvalidInput(["depths and devices: at least one of each"], next="--depths 6,8,10,12 --devices A100-40GB")
    check_budget(budget_s, budget_usd_micros)
    rows, given = [], dict(spec or {})
    fit_on = cache(lambda corpus: fit_of(store, corpus))
    for name in devices:
        device, local = device_named(store, name), name == LOCAL_DEVICE
        base = spec_on(device, given | {"depth": depths[0]})
        key = Target(num_gpus=world.per_node).machine_key() if local else None
        calibration = calibration_for(store, base, machine_key=key, world=world) if local else None
        price = price_for(device, local=local, spot=spot, ranks=world.ranks, usd_micros_per_hour=usd_micros_per_hour)
        fit = fit_on(base.data)
        known = _known(device, json.dumps(given, sort_keys=True, default=repr), price, calibration, fit, world)
        for depth in depths:
            if depth not in known:
                one = spec_on(device, given | {"depth": depth})
                known[depth] = estimate(one, device, price=price, calibration=calibration, fit=fit, world=world)
            rows.append(known[depth])
    return [_judged(row, budget_s, budget_usd_micros) for row in rows]


def core_prices(rows: Sequence[Estimate], folder: str) -> list[CorePrice]:
    """What measuring CORE of each takes, by the task files in a folder. Raises InvalidInput for one that has none."""
    try:
        tasks = read_bundle(Path(folder).expanduser())
    except BundleError as error:
        raise InvalidInput([f"core: {error.problem}"], next=error.next) from error
    return [core_price(row, tasks) for row in rows]


@lru_cache(maxsize=64)
def _known(
    device: Device, given: str, price: Price, calibration: Calibration | None, fit: Fit, world: WorldSize
) -> dict[int, Estimate]:
    """What was estimated before of exactly this, by depth: a page asks anew at each move of a slider."""
    return {}


def _judged(row: Estimate, budget_s: float | None, budget_usd_micros: int | None) -> Estimate:
    """The verdict by a budget, with the cap that placement and launching obey; this machine costs what it costs."""
    cap = None if row.local else settings.max_usd_micros_per_hour()
    budget = Budget(
        s=budget_s,
        usd_micros=budget_usd_micros,
        max_usd_micros_per_hour=cap,
        usd_micros_per_hour=row.price.usd_micros_per_hour,
    )
    return replace(row, budget=budget, verdict=judge(row.memory, row.wall_s, row.cost_usd_micros, budget))


@asks("run")
def plan(
    store: Store,
    *,
    spec: Mapping[str, Any],
    project: str = DEFAULT_PROJECT,
    name: str | None = None,
    target: Target = Target(),  # noqa: B008  # frozen
    max_usd_micros: int | None = None,
    budget_s: float | None = None,
    try_anyway: bool = False,
    actor: str,
    key: str | None = None,
    now: float | None = None,
) -> Run:
    """A draft run with its estimate. The same key and question give the same run again; spends nothing.

    Raises InvalidInput where it may run out of memory; `try_anyway`: a dryrun shall say whether it does.
    """
    if max_usd_micros is not None:
        check_usd_micros(max_usd_micros, "max_usd_micros")
    target.check()
    checked = check_spec(spec)
    target.check_data(checked.data)
    if not target.is_local:
        target = replace(target, checkpoint_bytes=size_of_checkpoints(checked, target.find_device(store)))
    now = time.time() if now is None else now
    row = estimate_on(target, store, checked, budget_s=budget_s, budget_usd_micros=max_usd_micros)
    if row.verdict is Verdict.OUT_OF_MEMORY and not try_anyway:
        raise InvalidInput(
            [row.sentence],
            next="take a smaller device_batch_size or depth, or try it all the same: a dryrun with --try-anyway tells",
        )
    return draft(
        store,
        target=target,
        workload=WORKLOAD,
        spec=checked.to_dict(),
        spec_hash=checked.hash(),
        estimate=row.to_dict(),
        name=name or f"d{checked.depth}-{checked.hash()[:6]}",
        project=project,
        max_usd_micros=max_usd_micros,
        budget_s=budget_s,
        actor=actor,
        key=key,
        now=now,
    )


def draft(
    store: Store,
    *,
    target: Target,
    workload: str,
    spec: dict[str, Any],
    spec_hash: str,
    estimate: dict[str, Any],
    name: str,
    project: str,
    max_usd_micros: int | None,
    budget_s: float | None,
    actor: str,
    key: str | None,
    now: float,
) -> Run:
    """The run as planned, of whichever workload; a local one belongs to this machine, which is heard of by it."""
    host = this_host() if target.executor == ownership.LOCAL else None
    if host is not None:
        hosts.heard(store, host)
    return runs.create_run(
        store,
        project=project,
        name=name,
        workload=workload,
        spec=spec,
        spec_hash=spec_hash,
        executor=target.executor,
        run_dir=target.run_dir,
        actor=actor,
        key=key,
        now=now,
        host_id=host.id if host else None,
        max_usd_micros=max_usd_micros,
        estimate=estimate | {"machine": target.machine_key(), "target": target.to_dict(), "finish_s": budget_s},
        terms={"budget_s": budget_s},
    )


def preview(store: Store, target: Target, spec: Mapping[str, Any]) -> Estimate:
    """What a plan there comes to, by the price that was given or the dated table: no catalog is asked. `spec`: the
    fields that were given. Raises what `plan` does before it looks at memory."""
    target.check()
    dated = not target.is_local and target.usd_micros_per_hour is None
    checked = spec_on(target.find_device(store), spec)
    return estimate_on(replace(target, fallback=True) if dated else target, store, checked)


def estimate_on(
    target: Target,
    store: Store,
    spec: TrainSpec,
    *,
    budget_s: float | None = None,
    budget_usd_micros: int | None = None,
    calibration: Calibration | None = None,
) -> Estimate:
    """On a machine like the target, with the best measurement there is of such a one."""
    return estimate(
        spec,
        target.find_device(store),
        price=target.find_price(),
        budget_s=budget_s,
        budget_usd_micros=budget_usd_micros,
        calibration=calibration or calibration_for(store, spec, machine_key=target.machine_key(), world=target.world),
        fit=fit_of(store, spec.data),
        local=target.is_local,
        egress_usd_micros_per_gb=egress_usd_micros_per_gb(target, settings.runs_place()),
        world=target.world,
    )
