"""A local HTTP server that answers as the metadata services of GCP and AWS are documented to.

GCP  https://cloud.google.com/compute/docs/metadata/querying-metadata, .../getting-live-migration-notice,
     https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
AWS  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html, .../configuring-IMDSv2.html,
     .../spot-instance-termination-notices.html, .../rebalance-recommendations.html
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATIENCE_S = 20.0


class MetadataStub:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.gcp = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.aws: dict[str, dict[str, str]] = {}  # paths below /latest/meta-data/ that exist
        self.tokens: set[str] = set()  # valid now
        self.tokens_made = 0
        self.faults: deque[str] = deque()  # each spoils one request: 503, hang, drop, garbage, endless, 302
        self.requests: list[str] = []
        self._version = 1
        self._let_go = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def set_gcp(self, key: str, value: str) -> None:
        with self.changed:
            self.gcp[key] = value
            self._version += 1
            self.changed.notify_all()

    def expire_tokens(self) -> None:
        self.tokens.clear()

    def wait_until_asked(self, times: int, path: str = "") -> None:
        """Until `times` requests for a path that contains `path` have come."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: sum(path in request for request in self.requests) >= times, PATIENCE_S
            ), self.requests

    @contextmanager
    def serving(self) -> Iterator[MetadataStub]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._let_go.set()
            with self.changed:
                self.changed.notify_all()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(stub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                if self._begin():
                    return
                url = urlsplit(self.path)
                if url.path.startswith("/computeMetadata/v1/instance/"):
                    self._gcp(url.path.rpartition("/")[2], {k: v[0] for k, v in parse_qs(url.query).items()})
                elif url.path.startswith("/latest/meta-data/"):
                    self._aws(url.path.removeprefix("/latest/meta-data/"))
                else:
                    self._answer(404, "<html>404 - Not Found</html>")

            def do_PUT(self) -> None:
                if self._begin():
                    return
                seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                if self.path != "/latest/api/token":
                    self._answer(404, "")
                elif "X-Forwarded-For" in self.headers or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
                    self._answer(400, "<html>400 - Bad Request</html>")
                else:
                    stub.tokens_made += 1
                    token = f"AQAEA-token-{stub.tokens_made}=="
                    stub.tokens.add(token)
                    self._answer(200, token, {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": seconds})

            def _begin(self) -> bool:
                """Put it on record; whether a fault has answered already."""
                with stub.changed:
                    stub.requests.append(f"{self.command} {self.path}")
                    stub.changed.notify_all()
                    fault = stub.faults.popleft() if stub.faults else None
                if fault is None:
                    return False
                if fault == "hang":
                    stub._let_go.wait(PATIENCE_S)
                elif fault == "garbage":
                    self._answer(200, "<!DOCTYPE html><p>Log in to the network", {"Metadata-Flavor": "Google"})
                elif fault == "302":
                    self._answer(302, "", {"Location": "/login"})
                elif fault == "endless":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n")
                    while not stub._let_go.is_set():
                        try:
                            self.wfile.write(b"FALSE" * 1000)
                        except OSError:
                            break
                elif fault == "503":
                    self._answer(503, "Service Unavailable", {"Metadata-Flavor": "Google"})
                self.close_connection = fault in ("drop", "hang", "endless")  # with `drop` that is all
                return True

            def _gcp(self, key: str, query: dict[str, str]) -> None:
                if self.headers.get("Metadata-Flavor") != "Google":
                    self._answer(403, "Missing Metadata-Flavor:Google header.")
                    return
                if key not in stub.gcp:
                    self._answer(404, "", {"Metadata-Flavor": "Google"})
                    return
                with stub.changed:
                    if query.get("wait_for_change") == "true":
                        before = query.get("last_etag") or _etag(stub.gcp[key])
                        stub.changed.wait_for(
                            lambda: stub._let_go.is_set() or _etag(stub.gcp[key]) != before,
                            float(query.get("timeout_sec", PATIENCE_S)),
                        )
                    value = stub.gcp[key]
                self._answer(200, value, {"Metadata-Flavor": "Google", "ETag": _etag(value)})

            def _aws(self, key: str) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in stub.tokens:
                    self._answer(401, "<html>401 - Unauthorized</html>")
                elif key not in stub.aws:
                    self._answer(404, "<html>404 - Not Found</html>")
                else:
                    self._answer(200, json.dumps(stub.aws[key]))

            def _answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
                content = body.encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def _etag(value: str) -> str:
    return f"{sum(value.encode()):016x}"
