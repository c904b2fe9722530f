"""Fixtures that every folder of tests uses."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import s3

# Tests start hundreds of processes: where none may keep what it compiled, each compiles torch and MLflow anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What Patron prints is compared as an activated environment shows it: without `uv run` before its commands.
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)

# In this order, before all other files: the longest first, so that no worker ends long after the other.
LONGEST_FIRST = (
    "skylab/test_sky.py",
    "training/test_bucket.py",
    "training/test_bench.py",
    "training/test_train.py",
    "training/test_kills.py",
    "test_loop.py",
    "training/test_distributed.py",
    "notebooks/test_notebooks.py",
    "training/test_stop.py",
)
# A search plans for the time that it measures: SkyPilot's lab beside it would leave it none.
LAST = "test_search.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Named files run in this process; a folder, or everything, is shared by two to four workers, file by file."""
    only_files = all(Path(arg.split("::")[0]).is_file() for arg in config.args)
    return 0 if only_files else max(2, min(4, os.cpu_count() or 2))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(LONGEST_FIRST)} | {tests / LAST: len(LONGEST_FIRST) + 1}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST_FIRST)))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.S3Server]:
    server = s3.make_server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: s3.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a fresh bucket; this process and those that it starts have the credentials."""
    for name in s3.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    name = f"runs-{uuid.uuid4().hex[:8]}"
    httpx.put(f"{s3_server.url}/{name}").raise_for_status()
    s3_server.requests.clear()
    yield f"s3://{name}"
    s3_server.let_all_pass()


@pytest.fixture(scope="session", autouse=True)
def _no_cloud() -> Iterator[None]:
    """No test asks the machine's metadata service whether it is to be reclaimed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GCP", "AWS"):
            patch.setenv(f"PATRON_METADATA_{name}", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compiled code outlives the caches of single tests: the head's kernel alone takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/patron-compiled-{os.getuid()}")
        yield


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """What Patron makes private within this process does not bind the next test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh PATRON_HOME; no setting of the person who runs the tests leaks in."""
    for name in (
        "PATRON_DATABASE_URL",
        "PATRON_CACHE",
        "PATRON_RUNS",
        "PATRON_SCRATCH",
        "PATRON_LOCAL_USD_PER_HOUR",
        "MLFLOW_TRACKING_URI",
    ):
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
