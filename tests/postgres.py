"""A PostgreSQL of the tests' own, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest


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


def new_server() -> Iterator[PostgresServer]:
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


def url_of(folder: str, database: str) -> str:
    return f"postgresql+psycopg://patron@/{database}?host={folder}"


def database(folder: str, template: str) -> Iterator[str]:
    name = f"test_{time.monotonic_ns()}"
    administer(folder, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield url_of(folder, name)
    administer(folder, f"DROP DATABASE {name} WITH (FORCE)")


def administer(folder: str, statement: str) -> None:
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
