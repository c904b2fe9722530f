"""What has to be in order before a GPU can be rented: each thing by itself, in bounded time, with what mends it.

The free checks spend nothing. `machine` starts one small machine by the whole path that a run takes, to see that it
reaches the bucket; it costs some cents.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from patron_core import settings
from patron_core.errors import OnItsWay, PatronError, Unavailable
from patron_core.executors import skypilot, skypilot_client
from patron_core.executors.base import Job, ObservedStatus
from patron_core.executors.records import Records
from patron_core.lifecycle.leftovers import DOCTOR
from patron_core.machines import catalog, credentials
from patron_core.money import format_usd
from patron_core.verbs.free_checks import check_writable
from trainer.contract.remote import is_url, join

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
LIMIT_S = 60.0  # of one check
_ANSWER_S = 20.0  # of SkyPilot, beside the import that its first answer waits for
MACHINE_LIMIT_S = 1500.0  # of the machine: a first launch makes SkyPilot's controller, too
DEVICES = ("A100-40GB", "H100")
_QUOTAS_ASKED = 4
_LOOK_EVERY_S = 2.0
CONSOLIDATE = (
    "printf 'jobs: {controller: {consolidation_mode: true}}\\n' >> ~/.sky/config.yaml && sky api stop && sky api start"
)
_SITES = frozenset({"slurm", "ssh", "kubernetes", "k8s"})  # their machines may share this one's disk


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what was looked at, how it stands, what was found, and the command that mends it."""

    name: str
    status: str  # pass, fail, unknown
    found: str
    next: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == FAIL)

    def to_dict(self) -> dict[str, Any]:
        first = next((check.next for check in self.failed), "patron estimate --spot --prices")
        return {"ok": not self.failed, "checks": [check.to_dict() for check in self.checks], "next": first}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    devices: tuple[str, ...]
    spot: bool


def doctor(
    *,
    devices: Sequence[str] = DEVICES,
    spot: bool = True,
    machine: bool = False,
    limit_s: float = LIMIT_S,
    on_check: Callable[[Check], None] | None = None,
) -> Diagnosis:
    """Every check, in order. None takes longer than `limit_s`; with `machine` the last one up to MACHINE_LIMIT_S.

    Raises InvalidInput for an unknown device.
    """
    catalog.check_devices(devices)
    asked = _Asked(devices=tuple(devices), spot=spot)
    checks: list[Check] = []
    for name, look, needs_server, longest_s in _looks(machine, limit_s):
        server = next((check for check in checks if check.name == "server"), None)
        if needs_server and server is not None and server.status != PASS:
            found = Check(name=name, status=UNKNOWN, found="SkyPilot's server does not answer", next=server.next)
        else:
            found = _timed(name, look, asked, longest_s)
        checks.append(found)
        if on_check is not None:
            on_check(found)
    return Diagnosis(checks=tuple(checks))


_Look = Callable[[_Asked], Check]


def _looks(machine: bool, limit_s: float) -> Iterator[tuple[str, _Look, bool, float]]:
    yield "versions", _versions, False, limit_s
    yield "server", _server, False, limit_s
    yield "clouds", _clouds, True, limit_s
    yield "accelerators", _accelerators, True, max(limit_s, catalog.TIMEOUT_S)
    yield "quota", _quota, True, limit_s
    yield "controller", _controller, True, limit_s
    yield "bucket", _bucket, False, limit_s
    yield "credentials", _credentials, False, limit_s
    yield "machine", _machine if machine else _no_machine, True, MACHINE_LIMIT_S if machine else limit_s


def _timed(name: str, look: _Look, asked: _Asked, limit_s: float) -> Check:
    """The check, or that it did not answer; one that hangs is left behind, in a thread that ends with the process."""
    begin = time.monotonic()
    said: list[Check] = []
    looking = threading.Thread(target=lambda: said.append(_judged(name, look, asked)), daemon=True)
    looking.start()
    looking.join(limit_s)
    late = Check(name=name, status=UNKNOWN, found=f"no answer within {limit_s:.0f} s", next="sky api status")
    return replace(said[0] if said else late, seconds=round(time.monotonic() - begin, 1))


def _judged(name: str, look: _Look, asked: _Asked) -> Check:
    try:
        return look(asked)
    except PatronError as error:
        status = UNKNOWN if isinstance(error, Unavailable) and name != "server" else FAIL
        return Check(name=name, status=status, found=error.message, next=error.next)
    except Exception as error:  # one check that breaks must not hide the others
        return Check(name=name, status=UNKNOWN, found=f"{type(error).__name__}: {error}", next="sky api status")


def _versions(asked: _Asked) -> Check:
    found = [f"{name} {importlib.metadata.version(name)}" for name in ("patron", "skypilot", "torch")]
    return Check(name="versions", status=PASS, found=f"{', '.join(found)}, Python {platform.python_version()}")


def _server(asked: _Asked) -> Check:
    server = skypilot_client.shared.server(timeout_s=_ANSWER_S)
    found = f"{server['version']} at {server['url']}"
    if server["version"] != server["client_version"]:
        mend = "sky api stop && sky api start" if server["local"] else "sky api info"
        return Check(name="server", status=FAIL, found=f"{found}; the client is {server['client_version']}", next=mend)
    return Check(name="server", status=PASS, found=found)


def _clouds(asked: _Asked) -> Check:
    clouds = skypilot_client.shared.clouds(timeout_s=_ANSWER_S)
    if not clouds:
        return Check(name="clouds", status=FAIL, found="none is enabled", next="sky check")
    return Check(name="clouds", status=PASS, found=", ".join(clouds))


def _accelerators(asked: _Asked) -> Check:
    usable = _priced_clouds()
    if not usable:
        return Check(
            name="accelerators", status=UNKNOWN, found="no enabled cloud has a price list", next="sky show-gpus"
        )
    market = catalog.read_market(asked.devices, clouds=usable)
    said, missing = [], []
    for device in asked.devices:
        rows = [p for p in market.of_device(device) if p.num_gpus == 1 and p.spot == asked.spot]
        if rows:
            best = min(rows, key=lambda price: price.usd_micros_per_hour)
            said.append(f"{device} {best.kind} from {format_usd(best.usd_micros_per_hour)} an hour in {best.infra}")
        else:
            missing.append(device)
    if missing:
        kind = "spot" if asked.spot else "on demand"
        said.append(f"none of {', '.join(usable)} sells one {' or '.join(missing)} {kind}")
    status = PASS if len(missing) < len(asked.devices) else FAIL
    mend = f"patron estimate --devices {','.join(missing)} --prices" if missing else ""
    return Check(name="accelerators", status=status, found="; ".join(said), next=mend)


def _quota(asked: _Asked) -> Check:
    """Where a cloud tells it: only that it is zero is known for sure, since SkyPilot takes no answer for enough."""
    usable = [cloud for cloud in _priced_clouds() if cloud in ("aws", "gcp")]
    if not usable:
        return Check(name="quota", status=UNKNOWN, found="no enabled cloud tells it", next="sky show-gpus")
    market = catalog.read_market(asked.devices, clouds=usable)
    rows = [p for p in market.by_region() if p.num_gpus == 1 and p.spot == asked.spot]
    cheapest = sorted(rows, key=lambda price: price.usd_micros_per_hour)[:_QUOTAS_ASKED]
    none_at = []
    for price in cheapest:
        row = {"infra": f"{price.cloud}/{price.region}", "instance_type": price.instance_type, "use_spot": price.spot}
        row["accelerators"] = f"{price.accelerator}:1"
        if not skypilot_client.shared.has_quota(row, timeout_s=_ANSWER_S):
            none_at.append(f"{price.device} in {price.cloud}/{price.region}")
    if none_at:
        mend = "see Quota in README: Spot GPUs, from zero"
        status = FAIL if len(none_at) == len(cheapest) else UNKNOWN
        return Check(name="quota", status=status, found=f"zero for {', '.join(none_at)}", next=mend)
    places = ", ".join(f"{p.cloud}/{p.region}" for p in cheapest)
    return Check(name="quota", status=UNKNOWN, found=f"not known to be zero in {places}", next="sky show-gpus")


def _controller(asked: _Asked) -> Check:
    found = skypilot_client.shared.controller(timeout_s=_ANSWER_S)
    hourly = found.get("usd_per_hour")
    cost = f"${hourly:.2f} an hour while it is up" if hourly is not None else "at a price that is not known"
    idle = "it stops after ten idle minutes, and its disk stays"
    if found["kind"] == "server":
        return Check(name="controller", status=PASS, found="in the API server (consolidation mode): costs nothing more")
    if found["kind"] == "machine":
        said = f"{found['name']} is {found['status']}, {cost}; {idle}"
        return Check(name="controller", status=PASS, found=said)
    if not found["hosts"]:
        said = "SkyPilot keeps jobs on a machine of its own, and no enabled cloud can host it"
        return Check(name="controller", status=FAIL, found=said, next=CONSOLIDATE)
    said = f"the first launch makes one in {' or '.join(found['hosts'])}, in up to ten minutes: {cost}; {idle}"
    return Check(name="controller", status=PASS, found=said)


def _bucket(asked: _Asked) -> Check:
    place = settings.runs_place()
    if not is_url(place):
        clouds = set(catalog.enabled_clouds() or ())
        status = UNKNOWN if clouds and clouds <= _SITES else FAIL
        said = f"{place} is a folder of this machine, which a machine in a cloud cannot reach"
        return Check(name="bucket", status=status, found=said, next="export PATRON_RUNS=gs://BUCKET/runs")
    check_writable(join(place, DOCTOR))
    return Check(name="bucket", status=PASS, found=f"{place} can be written from here{_near(place)}")


def _near(place: str) -> str:
    """What is known of where it is."""
    cloud = {"gs": "gcp", "s3": "aws"}[place.partition("://")[0]]
    if credentials.carried(place).get("AWS_ENDPOINT_URL"):
        return "; it is at a server of its own, so every machine's uploads leave its cloud"
    enabled = catalog.enabled_clouds()
    if enabled and cloud not in enabled:
        return f"; it is at {cloud}, and machines at {', '.join(enabled)}: uploads leave their cloud, and cost"
    return f"; it is at {cloud}: rent in its region, or uploads cost"


def _credentials(asked: _Asked) -> Check:
    sites = set(catalog.enabled_clouds() or ("gcp",)) <= _SITES
    said = credentials.check_travel(settings.runs_place(), shares_this_machine=sites)
    return Check(name="credentials", status=PASS, found=said)


def _no_machine(asked: _Asked) -> Check:
    said = "whether a machine reaches the bucket is seen by starting one, for some cents"
    return Check(name="machine", status=UNKNOWN, found=said, next="patron doctor --machine --yes")


def _machine(asked: _Asked) -> Check:
    """A job with nothing to do, by the whole path of a run: its guard writes its record into the place of the runs."""
    key = f"doctor-{uuid.uuid4().hex[:8]}"
    run_dir = join(settings.runs_place(), DOCTOR, key)
    only = settings.sky_infra()
    machine = {"spot": False, "places": [only] if only else catalog.enabled_clouds() or []}
    job = Job(key=key, command=("true",), run_dir=run_dir, deadline_s=600.0, grace_s=30.0, machine=machine)
    executor, end = skypilot.SkyExecutor(), time.monotonic() + MACHINE_LIMIT_S - LIMIT_S
    handle = None
    while handle is None:
        try:
            handle = executor.submit(job)
        except OnItsWay as error:
            if time.monotonic() > end:
                executor.forbid(key, run_dir)
                return Check(name="machine", status=FAIL, found=error.message, next="sky status")
            time.sleep(_LOOK_EVERY_S)
    seen = executor.poll(handle)
    while not seen.is_final and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
        seen = executor.poll(handle)
    starts = Records(run_dir, key).starts()
    at = "/".join(str(seen.evidence[name]) for name in ("cloud", "region", "zone") if seen.evidence.get(name))
    if seen.status is ObservedStatus.ENDED and seen.exit_code == 0 and starts:
        return Check(name="machine", status=PASS, found=f"a machine{f' in {at}' if at else ''} wrote into {run_dir}")
    if not seen.is_final:
        executor.cancel(handle, grace_s=0.0)
    why = seen.evidence.get("failure_reason") or seen.evidence.get("error") or seen.status.value
    wrote = "" if starts else f"; it wrote nothing into {run_dir}"
    return Check(name="machine", status=FAIL, found=f"{why}{wrote}", next=f"sky jobs logs {handle['job_id']}")


def _priced_clouds() -> list[str]:
    return [cloud for cloud in skypilot_client.shared.clouds(timeout_s=_ANSWER_S) if cloud in catalog.PRICED_CLOUDS]
