"""A real S3 server for tests: moto over HTTP, with a gate before it that can hold, refuse and count requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

PATIENCE_S = 60.0
SETTINGS = ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN")
Respond = Callable[..., Any]


class Held:
    """Requests that a test holds. They are refused in the end: what was held never gets through."""

    def __init__(self, matches: Callable[[str, str], bool]):
        self.matches = matches
        self.reached = threading.Event()
        self._released = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        self._released.wait(PATIENCE_S)

    def release(self) -> None:
        self._released.set()


class S3Server:
    """Listens on a free port; `stop` and `start` lose no objects."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self._held: Held | None = None
        self.requests: list[tuple[str, str]] = []
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environ(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "test-key-id",
            "AWS_SECRET_ACCESS_KEY": "test-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hold(self, matches: Callable[[str, str], bool]) -> Held:
        """Hold the requests for which matches(method, path) from now on, until they are released."""
        self._held = Held(matches)
        return self._held

    def let_all_pass(self) -> None:
        if self._held is not None:
            self._held.release()
        self._held = None

    def _answer(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        held = self._held
        if held is not None and held.matches(method, path):
            held.wait()
            respond("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._app(environ, respond)
        return answer


def make_server() -> S3Server:
    """Skips the test, naming the package, where it is not installed."""
    pytest.importorskip("obstore", reason="needs the package obstore")
    pytest.importorskip("moto", reason="needs the package moto[server]")
    pytest.importorskip("flask", reason="needs the package moto[server]")
    return S3Server()
