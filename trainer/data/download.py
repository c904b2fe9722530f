"""Downloads that survive a bad network: resumed, retried, checked, and never half there.

A file grows as `<name>.part` and is renamed when its length and checksum are right. Its sha256 is kept in
`<name>.sha256`, so a copy that rots in the cache is found and fetched again. The checksum is the server's where it
gives a sha256 (Hugging Face does: `x-linked-etag`), else our own of what arrived whole.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx

from trainer.contract.files import write_atomic
from trainer.data.errors import DataError, Unreachable
from trainer.data.files import Progress, locked, no_progress, sha256_file

# Seconds to wait after each failure in a row, about: many machines that lost one server must not all come back at
# once. Bytes that arrive start the list again.
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)
JITTER = 0.5
TIMEOUT = httpx.Timeout(30.0, read=60.0)
PROGRESS_BYTES = 2**22
T = TypeVar("T")
_SHA256 = re.compile(r'^(?:W/)?"?([0-9a-f]{64})"?$')


class _Failed(Exception):
    """This try failed; another may work."""


def download(
    url: str,
    path: Path,
    *,
    progress: Progress = no_progress,
    next: str = "check the network and the address, then start again: what has arrived is kept",
    delays_s: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring `url` to `path`, unless it is there and intact. Raises a DataError that names the URL: Unreachable where
    another time may do.
    """
    with locked(path, progress):
        if _is_intact(path):
            return
        with httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as client:
            _try_again(
                lambda: _try_once(client, url, path, progress, next),
                url,
                have=lambda: _size(_part(path)),
                progress=progress,
                next=next,
                delays_s=delays_s,
                sleep=sleep,
            )


def ask_header(
    url: str,
    header: str,
    *,
    progress: Progress = no_progress,
    next: str,
    delays_s: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """A header of the first answer for `url`, which may be a redirect; None where it has none. Raises Unreachable."""

    def ask(client: httpx.Client) -> str | None:
        response = client.head(url)
        if response.status_code in (408, 429, 500, 502, 503, 504):
            raise _Failed(f"the server answered {response.status_code} {response.reason_phrase}")
        value: str | None = response.headers.get(header)
        return value

    with httpx.Client(timeout=TIMEOUT) as client:
        return _try_again(lambda: ask(client), url, progress=progress, next=next, delays_s=delays_s, sleep=sleep)


def discard(path: Path) -> None:
    """Remove a file that was downloaded, with what was written down about it."""
    for each in (path, _part(path), _seal(path)):
        each.unlink(missing_ok=True)


def _try_again(
    work: Callable[[], T],
    url: str,
    *,
    have: Callable[[], int] = lambda: 0,
    progress: Progress,
    next: str,
    delays_s: Sequence[float] | None,
    sleep: Callable[[float], None],
) -> T:
    """`work` until it goes well; `have` bytes that grow mean that the server is there."""
    delays_s = RETRY_DELAYS_S if delays_s is None else delays_s
    failures, most = 0, have()
    while True:
        try:
            return work()
        except (_Failed, httpx.TransportError) as error:
            failures = 1 if have() > most else failures + 1
            most = max(most, have())
            reason = f"{error}" or type(error).__name__
        if failures > len(delays_s):
            raise Unreachable(f"Cannot download {url} after {failures} tries: {reason}.", next=next)
        delay_s = delays_s[failures - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        progress(f"{url.rsplit('/', 1)[-1]}: {reason}; trying again in {delay_s:.1f} s", None)
        sleep(delay_s)


def _try_once(client: httpx.Client, url: str, path: Path, progress: Progress, next: str) -> None:
    part, notes = _part(path), path.with_name(path.name + ".part.json")
    etag = _read_etag(notes) if part.exists() else ""
    have = _size(part) if etag else 0  # without an ETag nobody can tell whether the rest belongs to the beginning
    headers = {"Range": f"bytes={have}-", "If-Range": etag} if have else {}
    with client.stream("GET", url, headers=headers) as response:
        _check_status(response, url, part, next)
        if response.status_code != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _Failed(f"asked for bytes from {have}, got {response.headers.get('Content-Range')!r}")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        write_atomic(notes, json.dumps({"etag": response.headers.get("ETag", "")}))
        _receive(response, part, have, total, progress, path.name)
    _finish(part, path, total, _server_sha256(response))
    notes.unlink(missing_ok=True)


def _check_status(response: httpx.Response, url: str, part: Path, next: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416:  # the part is longer than the file: it is of another one
        part.unlink(missing_ok=True)
    if status in (408, 416, 425, 429) or status >= 500:
        raise _Failed(f"the server answered {status} {response.reason_phrase}")
    raise DataError(f"Cannot download {url}: the server answered {status} {response.reason_phrase}.", next=next)


def _receive(response: httpx.Response, part: Path, have: int, total: int | None, progress: Progress, name: str) -> None:
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        told = have
        for chunk in response.iter_raw():  # as they come: chunks of a fixed size would lose the last when cut off
            file.write(chunk)
            have += len(chunk)
            if have - told >= PROGRESS_BYTES or have == total:
                told = have
                progress(f"downloading {name}: {have / 1e6:.0f} MB", have / total if total else None)


def _finish(part: Path, path: Path, total: int | None, expected_sha256: str | None) -> None:
    if total is not None and _size(part) != total:
        raise _Failed(f"{_size(part)} bytes of {total} arrived")
    sha256 = sha256_file(part)
    if expected_sha256 and sha256 != expected_sha256:
        part.unlink()
        raise _Failed(f"sha256 is {sha256}, the server says {expected_sha256}")
    write_atomic(_seal(path), sha256)
    part.replace(path)


def _server_sha256(response: httpx.Response) -> str | None:
    """From the answer, or from the redirect that led to it."""
    for name in ("x-linked-etag", "etag"):  # the first is meant as a sha256, the second only happens to be one
        for answer in (*response.history, response):
            if match := _SHA256.match(answer.headers.get(name, "")):
                return match[1]
    return None


def _is_intact(path: Path) -> bool:
    return path.is_file() and _seal(path).is_file() and _seal(path).read_text() == sha256_file(path)


def _read_etag(notes: Path) -> str:
    """A strong ETag; only such a one can guard a resume."""
    try:
        etag = str(json.loads(notes.read_text())["etag"])
    except (FileNotFoundError, ValueError, KeyError):
        return ""
    return "" if etag.startswith("W/") else etag


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
