"""Serve: bind the port, say the link, and end when told to."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from patron_core import settings
from patron_core.errors import InvalidInput, Unavailable
from patron_core.store import tokens
from patron_core.verbs.lab import open_lab

DEFAULT_PORT = 8700
STOP_WITHIN_S = 3


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen, and how others know this server."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: any that is free
    public_url: str = ""  # of the proxy in front, which has TLS
    tls_cert: str = ""
    tls_key: str = ""

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if not 0 <= self.port <= 65535:
            problems.append(f"port: {self.port}; allowed 0 to 65535")
        if bool(self.tls_cert) != bool(self.tls_key):
            problems.append("tls: a certificate needs its key, and the key its certificate")
        problems += [
            f"tls: there is no file {path}"
            for path in (self.tls_cert, self.tls_key)
            if path and not Path(path).is_file()
        ]
        url = urlsplit(self.public_url)
        if self.public_url and (url.scheme not in ("http", "https") or not url.netloc or url.path not in ("", "/")):
            problems.append(f"behind-proxy: {self.public_url!r}; allowed like https://lab.example.org")
        if not self.is_loopback and not self.tls_cert and not self.public_url:
            problems.append(
                f"host: {self.host} is beyond this machine, where tokens would be read on their way; "
                "give --tls-cert and --tls-key, or --behind-proxy URL for a proxy that has TLS"
            )
        if problems:
            raise InvalidInput(problems, next="patron serve --help")

    def origins(self, port: int) -> list[str]:
        """Scheme, host and port at which browsers see it."""
        scheme = "https" if self.tls_cert else "http"
        names = ["127.0.0.1", "localhost", "[::1]"] if self.is_loopback else [self.host, socket.gethostname()]
        own = [f"{scheme}://{name}:{port}" for name in names]
        return [self.public_url.rstrip("/"), *own] if self.public_url else own


def serve(address: Address, notebooks: Path, *, say: Callable[[str], None]) -> None:
    """Until SIGTERM or Ctrl-C. Raises InvalidInput, and Unavailable for a port that is taken."""
    address.check()
    store = open_lab()
    assert store is not None
    if store.token is not None:
        tokens.check_scope(store.token, "admin", "open the lab to others")
    listening = _bound(address)
    port = listening.getsockname()[1]
    from patron_core.server.app import build  # marimo and FastAPI take a second to import
    from patron_core.server.entry import Entry
    from patron_core.server.pages import notebooks_in

    entry = Entry(store, port=port)
    origins = address.origins(port)
    app = build(store, entry, notebooks_in(notebooks), origins=origins)
    say(f"{origins[0]}/login?ticket={entry.ticket}")
    try:
        _run(app, address, listening)
    finally:
        listening.close()
        store.close()


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address.host, address.port))
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise Unavailable(f"{address.host}: {error.strerror}", next="patron serve") from error
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be opened by you"
        raise Unavailable(f"port {address.port} {why}", next="patron serve --port 0") from error
    return found


def _run(app: object, address: Address, listening: socket.socket) -> None:
    import uvicorn

    errors = logging.getLogger("uvicorn.error")
    errors.setLevel(logging.WARNING)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """A stop that was asked for is no failure: the signal is not raised again after it."""
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            errors.setLevel(logging.CRITICAL)  # what breaks off now was meant to
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_WITHIN_S,
        proxy_headers=False,
        server_header=False,
        ws_max_size=16 * 1024 * 1024,
        ssl_certfile=address.tls_cert or None,
        ssl_keyfile=address.tls_key or None,
    )
    settings.keep_private()
    Server(config).run(sockets=[listening])
