"""Fixtures that every folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_cloud() -> Iterator[None]:
    """No test asks the machine's metadata service whether it is to be reclaimed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GCP", "AWS"):
            patch.setenv(f"PATRON_METADATA_{name}", "off")
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh PATRON_HOME; no setting of the person who runs the tests leaks in."""
    for name in ("PATRON_DATABASE_URL", "PATRON_CACHE", "PATRON_LOCAL_USD_PER_HOUR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATRON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def living_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home in which real processes run, at a tenth of a cent a second. None of them outlives the test."""
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", "3.60")
    monkeypatch.setenv("HOME", str(home.parent))
    yield home
    assert not (home.parent / ".cache" / "patron").exists(), "data was prepared outside PATRON_HOME, a second time"
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("PATRON_HOME") == str(home) and process.pid != os.getpid():
            process.kill()
