"""A lab on a port, in this process: the gate, the API and the pages, without the notebooks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from patron_core import verbs
from patron_core.lifecycle import post
from patron_core.server.app import build
from patron_core.server.entry import Entry
from patron_core.store import Store, leases
from patron_core.store.tokens import Allowance


@dataclass
class Lab:
    store: Store
    base: str
    entry: Entry
    secrets: dict[str, str] = field(default_factory=dict)

    def token(self, name: str, *scopes: str, **allowance: Any) -> str:
        """The secret of a token, made once."""
        if name not in self.secrets:
            made = Allowance(**allowance) if allowance else None
            _, secret = verbs.make_token(self.store, name=name, scopes=scopes, allowance=made, actor="ada")
            self.secrets[name] = secret
        return self.secrets[name]

    def client(self, name: str, *scopes: str, **allowance: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token(name, *scopes, **allowance)}"}
        return httpx.Client(base_url=self.base, headers=headers, timeout=60)


def count_as_supervised(store: Store, patch: pytest.MonkeyPatch) -> None:
    """Supervisor and mirror count as running, so that none is started."""
    for door in ("patron_core.verbs.ensure_running", "patron_core.lifecycle.supervisor.ensure_running"):
        patch.setattr(door, lambda store: None)
    for each in (post.SUPERVISOR, post.MIRROR):
        leases.acquire(store, each.name, holder="tests", ttl_s=1e6)


def own_lab(home: Path, patch: pytest.MonkeyPatch) -> Store:
    """A store in a home of its own, whatever the environment names; supervisor and mirror count as running."""
    for name in ("PATRON_DATABASE_URL", "PATRON_CACHE", "PATRON_RUNS", "MLFLOW_TRACKING_URI", "PATRON_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setenv("PATRON_HOME", str(home))
    store = Store.open()
    count_as_supervised(store, patch)
    return store


@contextmanager
def serving(store: Store) -> Iterator[Lab]:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    entry = Entry(store, port=port)
    base = f"http://127.0.0.1:{port}"
    app = build(store, entry, [], origins=[base])
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    assert server.started
    yield Lab(store=store, base=base, entry=entry)
    server.should_exit = True
    thread.join(timeout=20)
    listening.close()
