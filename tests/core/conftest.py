"""Fixtures of the core's tests: a home of its own, and a store on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
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


class PostgresServer:
    """A PostgreSQL of our own on a Unix socket, which can be stopped and started again. Use `start`."""

    def __init__(self, binaries: Path):
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="patron-pg-", dir="/tmp"))
        user = _unprivileged_user()
        if user is not None:
            shutil.chown(self.folder, user, pwd.getpwnam(user).pw_gid)
        as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        self._shared: dict[str, Any] = {
            "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"},
            "cwd": self.folder,
            **as_user,
        }
        flags = ["-D", self.folder / "data", "-U", "patron", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run([binaries / "initdb", *flags], check=True, capture_output=True, **self._shared)
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "60"}
        settings |= {"fsync": "off"}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self.binaries / "postgres", "-D", self.folder / "data", *flags]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, process_group=0, **self._shared)
        _wait_until_it_answers(self.folder, self._server)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            self._server.wait(timeout=30)
            self._server = None


def _new_server() -> Iterator[PostgresServer]:
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (package: postgresql)")
    server = PostgresServer(binaries)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Gives the folder of the socket."""
    for server in _new_server():
        yield str(server.folder)


@pytest.fixture
def mortal_postgres() -> Iterator[PostgresServer]:
    """A server for one test alone, which may stop it."""
    yield from _new_server()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    _administer(postgres_server, f"CREATE DATABASE {_TEMPLATE}")
    Store.open(postgres_url(postgres_server, _TEMPLATE)).close()
    return postgres_server


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    yield from _database(postgres_server, "template0")


@pytest.fixture
def postgres_store(home: Path, postgres_template: str) -> Iterator[Store]:
    for url in _database(postgres_template, _TEMPLATE):
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


def postgres_url(folder: str, database: str) -> str:
    return f"postgresql+psycopg://patron@/{database}?host={folder}"


def _database(folder: str, template: str) -> Iterator[str]:
    name = f"test_{time.monotonic_ns()}"
    _administer(folder, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres_url(folder, name)
    _administer(folder, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(folder: str, statement: str) -> None:
    with psycopg.connect(host=folder, user="patron", dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)


def _postgres_binaries() -> Path | None:
    """The folder that holds both initdb and postgres, symbolic links followed."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in candidates if (each / "initdb").exists() and (each / "postgres").exists()), None)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root, so that root needs somebody else; None for everybody else."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _wait_until_it_answers(folder: Path, server: subprocess.Popen[bytes], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and server.poll() is None:
        try:
            psycopg.connect(host=str(folder), user="patron", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")
