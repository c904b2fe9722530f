"""Downloads against a real server that misbehaves on request."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainer.data import DataError, Unreachable
from trainer.data.download import download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at any path. `faults` are used up, one by each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.headers: dict[str, str] = {}
        self.faults: list[str] = []
        self.requests: list[str | None] = []  # the Range of each
        self.url = f"http://127.0.0.1:{self.server_address[1]}/shard.parquet"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path.startswith("/linked"):  # as Hugging Face does: the checksum comes with the redirect
            self.send_response(302)
            self.send_header("Location", "/shard.parquet")
            self.send_header("X-Linked-Etag", f'"{SHA256}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if wanted and fault != "no range" and self.headers.get("If-Range") == self.server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = 0 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{start + len(body) - 1}/{len(self.server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "drop":
            body = body[: len(body) // 2]
            self.close_connection = True
        if fault == "garble":
            body = body[:-1] + b"!"
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.download.JITTER", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shard.parquet"


def fetch(server: Server, target: Path, url: str = "") -> list[float]:
    """Download; the delays slept."""
    slept: list[float] = []
    download(url or server.url, target, sleep=slept.append)
    assert target.read_bytes() == CONTENT
    return slept


def leftovers(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.iterdir() if ".part" in p.name)


def test_a_file_arrives_once_and_is_kept(server: Server, target: Path) -> None:
    said: list[tuple[str, float | None]] = []
    download(server.url, target, progress=lambda message, fraction: said.append((message, fraction)))
    assert said[-1] == ("downloading shard.parquet: 1 MB", 1.0)
    fetch(server, target)
    assert server.requests == [None]
    assert leftovers(target) == []


def test_a_dropped_connection_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    server.faults = ["drop", "drop"]
    assert fetch(server, target) == [1.0, 1.0]  # progress starts the delays again
    half, quarter = len(CONTENT) // 2, len(CONTENT) // 4
    assert server.requests == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


def test_a_later_process_resumes_a_part(server: Server, target: Path) -> None:
    server.faults = ["drop", "403"]
    with pytest.raises(DataError, match="403"):
        fetch(server, target)
    assert leftovers(target) == ["shard.parquet.part", "shard.parquet.part.json"]
    fetch(server, target)
    assert server.requests[-1] == f"bytes={len(CONTENT) // 2}-"


def test_a_file_that_changed_meanwhile_starts_over(server: Server, target: Path) -> None:
    server.content, server.etag, server.faults = CONTENT[::-1], '"old"', ["drop", "404"]
    with pytest.raises(DataError, match="404"):
        fetch(server, target)
    server.content, server.etag = CONTENT, '"new"'
    fetch(server, target)


@pytest.mark.parametrize("fault", ["no range", "wrong range", "416"])
def test_a_server_that_cannot_resume_starts_over(server: Server, target: Path, fault: str) -> None:
    server.faults = ["drop", fault]
    fetch(server, target)


def test_a_part_without_a_strong_etag_is_not_trusted(server: Server, target: Path) -> None:
    server.etag, server.faults = 'W/"one"', ["drop"]
    fetch(server, target)
    assert server.requests == [None, None]


def test_an_overloaded_server_is_asked_again(server: Server, target: Path) -> None:
    server.faults = ["503", "503"]
    assert fetch(server, target) == [1.0, 2.0]


def test_wrong_bytes_are_found_by_the_server_checksum(server: Server, target: Path) -> None:
    server.headers["X-Linked-ETag"] = f'"{SHA256}"'
    server.faults = ["garble"]
    assert fetch(server, target) == [1.0]


def test_the_checksum_may_come_with_a_redirect(server: Server, target: Path) -> None:
    server.faults = ["garble"]
    assert fetch(server, target, server.url.replace("/shard", "/linked")) == [1.0]


def test_a_wrong_checksum_gives_up_and_names_it(server: Server, target: Path) -> None:
    server.headers["X-Linked-ETag"] = "0" * 64
    with pytest.raises(DataError, match=f"after 3 tries: sha256 is {SHA256}") as caught:
        download(server.url, target, delays_s=(1, 2), sleep=lambda s: None)
    assert server.url in str(caught.value)
    assert not target.exists()


def test_a_rotten_copy_is_fetched_again(server: Server, target: Path) -> None:
    fetch(server, target)
    target.write_bytes(CONTENT[:-1] + b"!")
    fetch(server, target)
    assert len(server.requests) == 2


def test_many_machines_do_not_come_back_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first_delays = set()
    for _ in range(5):
        slept: list[float] = []
        with pytest.raises(Unreachable):
            download("http://127.0.0.1:9/shard.parquet", target, sleep=slept.append)
        first_delays.add(slept[0])
    assert len(first_delays) > 1
    assert all(0.5 <= delay_s <= 1.5 for delay_s in first_delays)


def test_offline_says_what_to_do(server: Server, target: Path) -> None:
    url = "http://127.0.0.1:9/shard.parquet"  # the discard port: nobody listens
    slept: list[float] = []
    with pytest.raises(Unreachable, match="Next: use a mirror") as caught:
        download(url, target, next="use a mirror", sleep=slept.append)
    assert url in caught.value.problem
    assert slept == [1, 2, 4, 8, 16, 30, 60]


HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_of_two_processes_waits_until_the_first_is_gone(server: Server, target: Path) -> None:
    target.parent.mkdir()
    lock = target.with_name(target.name + ".lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        is_waiting = threading.Event()

        def progress(message: str, fraction: float | None) -> None:
            if message.startswith("waiting"):
                is_waiting.set()

        thread = threading.Thread(target=download, args=(server.url, target), kwargs={"progress": progress})
        thread.start()
        assert is_waiting.wait(20)
        assert server.requests == []
        holder.kill()
        thread.join(20)
    assert target.read_bytes() == CONTENT


def test_many_at_once_fetch_once(server: Server, target: Path) -> None:
    threads = [threading.Thread(target=download, args=(server.url, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert server.requests == [None]
    assert target.read_bytes() == CONTENT
