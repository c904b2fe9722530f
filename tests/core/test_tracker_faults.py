"""A real MLflow server behind a wire that fails: it answers 500 although it has stored, 503, or late."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from test_tracking import NOW, Workload, curve, expected, metrics, run, workload  # noqa: F401  (two are fixtures)

from patron_core.mirror import tracking
from patron_core.store import Run, Store

UP_WITHIN_S = 120.0


class Wire(ThreadingHTTPServer):
    """Between client and server. `fault` says what befalls a request: stored-500, 503, or late (seconds)."""

    daemon_threads = True

    def __init__(self, server_url: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.server_url, self.fault, self.late_s = server_url, "", 0.0
        self.client = httpx.Client(timeout=60)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Wire

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        wire = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if wire.fault == "503":
            return self._answer(503, b"{}")
        time.sleep(wire.late_s)
        kept = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
        got = wire.client.request(self.command, wire.server_url + self.path, content=body, headers=kept)
        writes = self.command == "POST" and not self.path.endswith(("search", "get"))
        if wire.fault == "stored-500" and writes:
            return self._answer(500, b"{}")
        return self._answer(got.status_code, got.content)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _pass_on


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + UP_WITHIN_S
        while not _is_up(url):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.3)
        between = Wire(url)
        threading.Thread(target=between.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", between.url)
        yield between
        between.shutdown()
        between.server_close()
        between.client.close()
    finally:
        import psutil

        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            process.kill()
        server.wait()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_server_that_fails_is_caught_up_with_and_no_point_is_there_twice(
    store: Store,
    run: Run,  # noqa: F811
    workload: Workload,  # noqa: F811
    wire: Wire,
) -> None:
    now = NOW

    def sync() -> tracking.MirrorReport:
        nonlocal now
        now += 3600.0  # longer than any pause after a fault
        return tracking.sync(store, run, now=now, timeout_s=2)

    workload.start("a-train-1", None, *metrics(1))
    assert sync().error is None
    for number, fault in enumerate(("503", "stored-500"), start=2):
        workload.write("a-train-1", *metrics(number))
        wire.fault = fault
        assert sync().error is not None, fault
    wire.fault, wire.late_s = "", 0.5
    workload.write("a-train-1", *metrics(4))
    end = time.monotonic() + 120
    while curve(store, run) != expected(range(1, 5)):
        assert time.monotonic() < end, curve(store, run)
        sync()
