"""A team: machines of its own for each story, and one PostgreSQL server."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import machines
import postgres
import pytest
from machines import Machine

from patron_core.store import Store


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The folder of its socket; its database `template` is migrated."""
    if (reason := machines.why_not()) is not None:
        pytest.skip(reason)
    for found in postgres.new_server():
        folder = str(found.folder)
        postgres.administer(folder, "CREATE DATABASE template_team")
        Store.open(postgres.url_of(folder, "template_team")).close()
        yield folder


@pytest.fixture(scope="session")
def new_team(
    server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., tuple[Store, list[Machine]]]]:
    """Makes a database and machines that share it, by the names of their users; safe to call from threads."""
    made: list[Machine] = []
    stores: list[Store] = []
    numbers, lock = itertools.count(), threading.Lock()

    def make(*users: str, **environ: str) -> tuple[Store, list[Machine]]:
        with lock:
            name = f"team_{next(numbers)}"
            postgres.administer(server, f"CREATE DATABASE {name} TEMPLATE template_team")
            folder: Path = tmp_path_factory.mktemp(name)
        url = postgres.url_of(server, name)
        store = Store.open(url)
        stores.append(store)
        shared = {"PATRON_DATABASE_URL": url, "PATRON_LOCAL_USD_PER_HOUR": "3.60", **environ}
        team = [Machine(folder / user, f"host-{user}", user=user, environ=shared) for user in users]
        made.extend(team)
        return store, team

    yield make
    for machine in made:
        machine.lose()
    for store in stores:
        store.close()
