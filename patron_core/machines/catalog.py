"""Prices from SkyPilot's catalog: read in a process of its own under a deadline, kept with their age.

read_market(["A100-40GB", "H100"])        live or from the cache; raises Unavailable with the command that helps
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from patron_core import settings
from patron_core.errors import InvalidInput, PatronError, Unavailable
from patron_core.executors import skypilot_client
from patron_core.market.accelerators import names_of
from patron_core.market.offers import Market, catalog_market
from patron_core.rundir.files import read_json, write_json
from trainer.contract.devices import DEVICES

CLOUDS = ("gcp", "aws", "lambda", "runpod")  # those that patron's extras install
PRICED_CLOUDS = frozenset({*CLOUDS, "azure", "oci", "ibm", "do", "nebius", "vast", "fluidstack", "paperspace", "cudo"})
TIMEOUT_S = 60.0
ENABLED_TIMEOUT_S = 10.0
ENABLED_AGE_S = 60.0
MAX_AGE_S = 6 * 3600.0  # SkyPilot itself fetches its catalogs again after 7 hours


_enabled: list[tuple[float, list[str] | None]] = []  # when it was asked, and the answer


def read_market(
    devices: Iterable[str],
    *,
    clouds: Sequence[str] = CLOUDS,
    max_age_s: float = MAX_AGE_S,
    timeout_s: float = TIMEOUT_S,
    now: float | None = None,
) -> Market:
    """Prices of `devices` (names of the GPU table) in `clouds`, no older than `max_age_s` where they can be renewed.

    A cloud that does not answer in time is named in `problems` and the others count; prices that were kept stand in for
    it, and say so. Raises InvalidInput for an unknown device or cloud, Unavailable when there is no price at all.
    """
    now = time.time() if now is None else now
    wanted = _accelerators(devices)
    _check_clouds(clouds)
    kept = {cloud: _kept(cloud, wanted) for cloud in clouds}
    stale = [cloud for cloud, answer in kept.items() if answer is None or now - answer["read_at"] > max_age_s]
    problems: list[str] = []
    if stale:
        read, problems = _read(wanted, stale, timeout_s)
        for cloud, answer in read.items():
            kept[cloud] = answer = answer | {"read_at": now}
            _keep(cloud, wanted, answer)
    answers = [answer for answer in kept.values() if answer is not None]
    if not answers:
        raise Unavailable(
            f"SkyPilot's catalog gave no price: {'; '.join(problems)}",
            next="try again, or take the dated table of list prices: --fallback-prices",
        )
    problems += [
        f"{answer['cloud']}: the prices of {_moment(_known_at(answer))} stand in"
        for answer in answers
        if answer["cloud"] in stale and answer["read_at"] != now
    ]
    as_of = {answer["cloud"]: _moment(_known_at(answer)) for answer in answers}
    return catalog_market(answers, as_of=as_of, problems=problems)


def enabled_clouds(*, timeout_s: float = ENABLED_TIMEOUT_S) -> list[str] | None:
    """The clouds that SkyPilot may use here, in lower case; None where its server does not say. Asked once a minute."""
    now = time.monotonic()
    if not _enabled or now - _enabled[0][0] > ENABLED_AGE_S:
        clouds: list[str] | None = None
        with suppress(PatronError):  # no server: nothing can be launched either, and prices are worth a look without
            clouds = skypilot_client.shared.clouds(timeout_s=timeout_s)
        _enabled[:] = [(now, clouds)]
    return _enabled[0][1]


def check_devices(devices: Iterable[str]) -> None:
    """Raises InvalidInput for a name that no cloud sells."""
    _accelerators(devices)


def _accelerators(devices: Iterable[str]) -> tuple[str, ...]:
    names = list(dict.fromkeys(devices))
    unknown = [name for name in names if not names_of(name)]
    if unknown or not names:
        raise InvalidInput(
            [f"device: {name!r} has no price at a cloud; allowed {', '.join(DEVICES)}" for name in unknown]
            or ["devices: at least one"],
            next="--devices A100-40GB,H100",
        )
    return tuple(one for name in names for one in names_of(name))


def _check_clouds(clouds: Sequence[str]) -> None:
    unknown = [cloud for cloud in clouds if cloud not in PRICED_CLOUDS]
    if unknown or not clouds:
        raise InvalidInput(
            [f"cloud: {cloud!r}; allowed {', '.join(sorted(PRICED_CLOUDS))}" for cloud in unknown]
            or ["clouds: at least one"],
            next=f"--clouds {','.join(CLOUDS[:2])}",
        )


def _read(names: Sequence[str], clouds: Sequence[str], timeout_s: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """({cloud: answer}, problems) from the reading process, ended at the deadline; what it said until then counts."""
    command = [sys.executable, "-P", "-m", "patron_core.executors.sky_worker.catalog"]
    command += ["--accelerators", ",".join(names), "--clouds", ",".join(clouds)]
    # files, not pipes: a grandchild that lives on would keep a pipe open, and half an answer is worth keeping
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, text=True
        )
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        answers = {answer["cloud"]: answer for line in out if (answer := _parsed(line))}
        said = err.read().strip()
    problems = [f"{cloud}: {answer['error']}" for cloud, answer in answers.items() if "error" in answer]
    silent = [cloud for cloud in clouds if cloud not in answers]
    if silent and timed_out:
        problems.append(f"{', '.join(silent)}: no answer within {timeout_s:.0f} s")
    elif silent:
        problems.append(f"{', '.join(silent)}: {said[-300:] or 'the reading process ended without a word'}")
    return {cloud: answer for cloud, answer in answers.items() if "error" not in answer}, problems


def _parsed(line: str) -> dict[str, Any] | None:
    """A whole line of the process; the one it was killed at may be torn."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _cache_file(cloud: str, names: Sequence[str]) -> Any:
    home = os.environ.get("SKY_RUNTIME_DIR", "")  # another catalog folder, other prices
    key = hashlib.sha256(json.dumps([sorted(names), home]).encode()).hexdigest()[:12]
    return settings.cache() / "prices" / f"{cloud}-{key}.json"


def _kept(cloud: str, names: Sequence[str]) -> dict[str, Any] | None:
    return read_json(_cache_file(cloud, names))


def _keep(cloud: str, names: Sequence[str], answer: dict[str, Any]) -> None:
    path = _cache_file(cloud, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, answer, durable=False)


def _known_at(answer: dict[str, Any]) -> float:
    return float(answer["fetched_at"] or answer["read_at"])


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(at))
