"""Fixtures of the notebooks' tests: a home of its own, a lab with a past, and the notebooks as modules."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import labs
import pytest

from patron_core.lifecycle import post
from patron_core.store import Run, Store, leases


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Run]]]:
    """A home with runs of every kind, made once. Supervisor and mirror count as running, so that none is started."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PATRON_DATABASE_URL", "PATRON_CACHE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("PATRON_HOME", str(folder))
        store = Store.open()
        runs = labs.fill(store)
        for each in (post.SUPERVISOR, post.MIRROR):
            for name in (each.name, each.lease()):
                leases.acquire(store, name, holder="tests", ttl_s=1e6)
        store.close()
    yield folder, runs
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def runs(home: Path, filled: tuple[Path, dict[str, Run]]) -> dict[str, Run]:
    """The filled lab, a copy of its database: what a test changes stays its own."""
    folder, made = filled
    home.mkdir()
    source = Store.open(f"sqlite:///{folder / 'patron.db'}")
    with source.read() as conn:
        conn.exec_driver_sql("PRAGMA wal_checkpoint")
    source.close()
    shutil.copy(folder / "patron.db", home / "patron.db")
    shutil.copytree(folder / "hosts", home / "hosts")  # the same machine as before
    return made


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    found = Store.open()
    yield found
    found.close()


@pytest.fixture
def notebook() -> Callable[[str], ModuleType]:
    """A notebook by its name, imported as a module: its app and its arguments."""

    def load(name: str) -> ModuleType:
        path = next(path for path in labs.NOTEBOOKS if path.stem == name)
        spec = importlib.util.spec_from_file_location(f"notebook_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
