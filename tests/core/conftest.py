"""Fixtures of the core's tests: a home of its own, and a store on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres
import pytest
from scripted import HOURLY, World

from patron_core.executors.fake import FakeExecutor
from patron_core.store import Run, Store, ledger, runs

_TEMPLATE = "patron_template"  # migrated once, copied for each test


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "patron.db"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def sqlite_store(home: Path, migrated_file: Path) -> Iterator[Store]:
    home.mkdir(exist_ok=True)
    shutil.copy(migrated_file, home / "patron.db")
    store = Store.open()
    yield store
    store.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Gives the folder of the socket."""
    for server in postgres.new_server():
        yield str(server.folder)


@pytest.fixture
def mortal_postgres() -> Iterator[postgres.PostgresServer]:
    """A server for one test alone, which may stop it."""
    yield from postgres.new_server()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    postgres.administer(postgres_server, f"CREATE DATABASE {_TEMPLATE}")
    Store.open(postgres.url_of(postgres_server, _TEMPLATE)).close()
    return postgres_server


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    yield from postgres.database(postgres_server, "template0")


@pytest.fixture
def postgres_store(home: Path, postgres_template: str) -> Iterator[Store]:
    for url in postgres.database(postgres_template, _TEMPLATE):
        store = Store.open(url)
        yield store
        store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """The same test on both databases."""
    name = "sqlite_store" if request.param == "sqlite" else "postgres_store"
    found: Store = request.getfixturevalue(name)
    return found


@pytest.fixture
def world(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    found = World(store=sqlite_store, machine=FakeExecutor(name="local"))
    yield found
    assert ledger.verify(sqlite_store) == []
    assert all(count == 1 for count in found.machine.starts.values())


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(
        store: Store,
        *,
        project: str = "p",
        name: str = "a run",
        key: str | None = None,
        now: float = 100.0,
        executor: str = "local",
        host_id: str | None = None,
    ) -> Run:
        return runs.create_run(
            store,
            project=project,
            name=name,
            workload="trainer",
            spec={"depth": 2},
            spec_hash="f" * 64,
            executor=executor,
            run_dir=lambda run_id: f"/runs/{run_id}",
            actor="ada",
            host_id=host_id,
            key=key,
            now=now,
        )

    return make


@pytest.fixture
def in_threads() -> Callable[[Callable[[int], Any], int], list[Any]]:
    return _in_threads


def _in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """What `work` returned or raised in each of `count` threads that start together."""
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def one(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
