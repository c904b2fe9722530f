"""Reclaim notices of clouds: one thread for each metadata service that may be here, asking while the run trains.

GCP  instance/preempted, held open by the service until it changes, and instance/maintenance-event between two of those
AWS  spot/instance-action every five seconds, with an IMDSv2 token; a rebalance recommendation is only a warning

The firmware says which cloud this is; where it names another maker, nothing is asked. Where it cannot be read, one
quick look decides. A service that is here is asked to the end of the run, whatever it answers in between.

PATRON_METADATA_GCP, PATRON_METADATA_AWS: another address that answers like it, or `off`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.preemption.stop import StopRequest

if TYPE_CHECKING:
    import httpx  # takes a tenth of a second to import: only in the thread, and only on a cloud

CONNECT_S, ANSWER_S = 1.0, 3.0
LONG_POLL_S = 10  # GCP gives 30 s: one answer that is lost must not cost the whole notice
AWS_EVERY_S = 5.0  # what AWS recommends
SOONEST_S = 1.0  # between two looks, should a service answer at once what it was asked to wait for
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0)
WARN_AFTER_FAILURES = 5
TOKEN_TTL_S = 21600  # the longest there is
MAX_ANSWER_BYTES = 65536
FIRMWARE = Path("/sys/class/dmi/id")

Warn = Callable[[str, str], None]


class Unusable(Exception):
    """An answer, or none, that says nothing about the machine's future."""


class Service:
    """One metadata service. `look` may block for a few seconds."""

    name: str
    address: str
    every_s = 0.0  # between two looks

    def __init__(self, client: httpx.Client, address: str):
        self._client, self._address = client, address.rstrip("/")

    def look(self, warn: Warn) -> StopRequest | None:
        """The notice, if there is one. Raises Unusable."""
        raise NotImplementedError

    def forget(self) -> None:
        """After an answer that was unusable: what earlier answers taught may be wrong."""

    @staticmethod
    def made(firmware: Mapping[str, str]) -> bool:
        """Whether this firmware is that of the cloud's machines."""
        raise NotImplementedError

    def _ask(self, method: str, path: str, *, wait_s: float = 0.0, **options: Any) -> tuple[int, httpx.Headers, str]:
        """Status, headers and text. Raises Unusable for no answer, an endless one, and a failing server's."""
        import httpx

        end = time.monotonic() + wait_s + ANSWER_S
        timeout = httpx.Timeout(wait_s + ANSWER_S, connect=CONNECT_S)
        body = b""
        try:
            with self._client.stream(method, self._address + path, timeout=timeout, **options) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES or time.monotonic() > end:
                        raise Unusable(f"{path}: an answer without end")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unusable(f"{path}: {type(error).__name__} {error}".rstrip()) from error
        if response.status_code >= 500:
            raise Unusable(f"{path}: HTTP {response.status_code}")
        return response.status_code, response.headers, body.decode("utf-8", errors="replace").strip()


class Gcp(Service):
    name = "GCP"
    address = "http://169.254.169.254"  # metadata.google.internal, without asking a resolver

    def __init__(self, client: httpx.Client, address: str):
        super().__init__(client, address)
        self._etag: str | None = None
        self._maintenance: str | None = None  # as it was at the last look; None before the first

    @staticmethod
    def made(firmware: Mapping[str, str]) -> bool:
        return firmware.get("product_name") == "Google Compute Engine"

    def look(self, warn: Warn) -> StopRequest | None:
        # the first look asks for the value as it is: waiting for a change would miss one that came before
        waiting = {"wait_for_change": "true", "timeout_sec": str(LONG_POLL_S), "last_etag": self._etag}
        preempted = self._get("preempted", **(waiting if self._etag else {}))
        if preempted == "TRUE":
            return StopRequest(source="GCP (instance/preempted: TRUE)")
        if preempted != "FALSE":
            raise Unusable(f"instance/preempted: {preempted!r:.80}, neither TRUE nor FALSE")
        return self._maintenance_notice(self._get("maintenance-event") or "NONE", warn)

    def forget(self) -> None:
        self._etag = None

    def _maintenance_notice(self, event: str, warn: Warn) -> StopRequest | None:
        before, self._maintenance = self._maintenance, event
        if event != "TERMINATE_ON_HOST_MAINTENANCE" or before == event:
            return None
        if before is None:
            # up to an hour ahead: stopping now would only start it here again, to be stopped again
            warn("maintenance_ahead", "GCP: this machine is going to be terminated for maintenance; training goes on")
            return None
        return StopRequest(source=f"GCP (instance/maintenance-event: {event})")

    def _get(self, key: str, **params: str | None) -> str | None:
        status, headers, text = self._ask(
            "GET",
            f"/computeMetadata/v1/instance/{key}",
            wait_s=LONG_POLL_S if params else 0.0,
            params=params,
            headers={"Metadata-Flavor": "Google"},
        )
        if headers.get("Metadata-Flavor") != "Google":
            raise Unusable(f"instance/{key}: HTTP {status} without the header Metadata-Flavor: Google")
        if key == "preempted":
            self._etag = headers.get("ETag")
        if status == 404:
            return None
        if status != 200:
            raise Unusable(f"instance/{key}: HTTP {status}")
        return text


class Aws(Service):
    name = "AWS"
    address = "http://169.254.169.254"
    every_s = AWS_EVERY_S

    def __init__(self, client: httpx.Client, address: str):
        super().__init__(client, address)
        self._token: str | None = None
        self._recommendation: str | None = None

    @staticmethod
    def made(firmware: Mapping[str, str]) -> bool:
        # Nitro names its vendor; the older Xen machines only have it in the version, as in 4.11.amazon
        return any("amazon" in firmware.get(key, "").casefold() for key in ("sys_vendor", "bios_version"))

    def look(self, warn: Warn) -> StopRequest | None:
        said = self._get("spot/instance-action")
        if said is not None:
            action, at = said.get("action"), said.get("time")
            if not isinstance(action, str):
                raise Unusable(f"spot/instance-action: no action in {said!r:.80}")
            return StopRequest(source=f"AWS (spot/instance-action: {action} at {at})", ends_at=_unix_s(at))
        recommended = self._get("events/recommendations/rebalance")
        noticed_at = str(recommended.get("noticeTime")) if recommended is not None else None
        if noticed_at != self._recommendation and noticed_at is not None:
            warn("rebalance_recommended", f"AWS: this machine is likelier to be reclaimed, since {noticed_at}")
        self._recommendation = noticed_at
        return None

    def _get(self, key: str) -> dict[str, Any] | None:
        """The JSON object of a key; None where there is no such key now."""
        path = f"/latest/meta-data/{key}"
        for _ in range(2):
            if self._token is None:
                self._token = self._new_token()
            status, _, text = self._ask("GET", path, headers={"X-aws-ec2-metadata-token": self._token})
            if status != 401:
                break
            self._token = None  # it has expired
        if status == 404:
            return None
        if status != 200:
            raise Unusable(f"{key}: HTTP {status}")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Unusable(f"{key}: {text!r:.80} is no JSON object")
        return value

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        status, _, token = self._ask("PUT", "/latest/api/token", headers=headers)
        if status != 200 or not token or not token.isascii() or not token.isprintable():
            raise Unusable(f"/latest/api/token: HTTP {status}, no token")
        return token


SERVICES: tuple[type[Service], ...] = (Gcp, Aws)


@contextmanager
def watching_for_notices(
    notify: Callable[[StopRequest], None],
    warn: Warn,
    *,
    firmware: Path = FIRMWARE,
    sleep: Callable[[threading.Event, float], object] = threading.Event.wait,
) -> Iterator[list[threading.Thread]]:
    """Inside the block, hand a cloud's reclaim notice to `notify`, from a thread. Neither end waits for the network."""
    closed = threading.Event()
    made_by = _read_firmware(firmware)
    threads = []
    for kind in SERVICES:
        address = os.environ.get(f"PATRON_METADATA_{kind.name}")
        is_here = bool(address) or kind.made(made_by)
        if address == "off" or (made_by and not is_here):
            continue
        watch = _Watch(
            kind=kind, address=address or kind.address, is_here=is_here, notify=notify, warn=warn, closed=closed,
            sleep=sleep,
        )  # fmt: skip
        threads.append(threading.Thread(target=watch.run, name=f"notices-{kind.name}", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        closed.set()


@dataclass(kw_only=True)
class _Watch:
    kind: type[Service]
    address: str
    is_here: bool  # known; else the first look tells
    notify: Callable[[StopRequest], None]
    warn: Warn
    closed: threading.Event
    sleep: Callable[[threading.Event, float], object]

    def run(self) -> None:
        import httpx

        with httpx.Client(trust_env=False, follow_redirects=False) as client:
            service = self.kind(client, self.address)
            failures = 0
            while not self.closed.is_set():
                start = time.monotonic()
                try:
                    request = service.look(self._warn)
                except Unusable as error:
                    if not self.is_here:
                        return
                    service.forget()
                    failures += 1
                    self._complain_once(failures, error)
                    self.sleep(self.closed, BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])
                    continue
                if request is not None:
                    if not self.closed.is_set():
                        self.notify(request)
                    return
                self.is_here, failures = True, 0
                self.sleep(self.closed, service.every_s or max(0.0, SOONEST_S - (time.monotonic() - start)))

    def _warn(self, code: str, message: str) -> None:
        if not self.closed.is_set():
            self.warn(code, message)

    def _complain_once(self, failures: int, error: Unusable) -> None:
        if failures == WARN_AFTER_FAILURES:
            self._warn(
                "notices_unavailable",
                f"{self.kind.name}'s metadata service at {self.address} cannot be used ({error}); until it can, a "
                f"reclaim comes without a notice. PATRON_METADATA_{self.kind.name}=off stops asking",
            )


def _read_firmware(folder: Path) -> dict[str, str]:
    """What the firmware says about this machine; empty where that cannot be read."""
    found = {}
    for key in ("product_name", "sys_vendor", "bios_version"):
        try:
            found[key] = (folder / key).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
    return found


def _unix_s(moment: object) -> float | None:
    """Of an ISO 8601 time with its zone."""
    try:
        parsed = datetime.fromisoformat(str(moment))
    except ValueError:
        return None
    return parsed.timestamp() if parsed.tzinfo is not None else None
