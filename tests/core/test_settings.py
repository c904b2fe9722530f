"""Places from the environment: a relative one means the folder of whoever gives it, here and in every child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patron_core import settings, verbs
from patron_core.errors import InvalidInput
from patron_core.machines.target import Target
from patron_core.store import Store

RELATIVE = {
    "PATRON_HOME": "lab",
    "PATRON_CACHE": "lab/cache",
    "PATRON_RUNS": "lab/runs",
    "PATRON_DATABASE_URL": "sqlite:///lab/patron.db",
    "MLFLOW_TRACKING_URI": "sqlite:///lab/mlflow.db?timeout=5",
}


def test_relative_places_are_absolute_here_and_in_a_child_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in RELATIVE.items():
        monkeypatch.setenv(name, value)
    names = ("home", "cache", "runs_place", "database_url", "tracking_uri")
    here = [str(getattr(settings, name)()) for name in names]
    lab = tmp_path / "lab"
    assert here[:3] == [str(lab), f"{lab}/cache", f"{lab}/runs"]
    assert here[3:] == [f"sqlite:///{lab}/patron.db", f"sqlite:///{lab}/mlflow.db?timeout=5"]
    program = "from patron_core import settings as s; print(*(getattr(s, n)() for n in " + repr(names) + "), sep='\\n')"
    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd="/",
        env=settings.for_children() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.splitlines() == here


@pytest.mark.parametrize(
    "url", ["sqlite:////a/b.db", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://ada@host/lab"]
)
def test_other_urls_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PATRON_DATABASE_URL", url)
    assert settings.database_url() == url


def test_trackers_and_buckets_are_no_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given, meant in {
        "databricks": "databricks",
        "http://host:5000": "http://host:5000",
        "mlruns": f"{tmp_path}/mlruns",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert settings.tracking_uri() == meant
    monkeypatch.setenv("PATRON_RUNS", "gs://bucket/runs")
    assert settings.runs_place() == "gs://bucket/runs"


def test_nothing_is_set_for_children_that_was_not_set_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RELATIVE:
        monkeypatch.delenv(name, raising=False)
    assert settings.for_children() == dict(os.environ)


def test_data_of_this_machine_is_refused_for_a_machine_in_a_cloud_before_anything_is_asked(
    store: Store, tmp_path: Path
) -> None:
    spec = {"depth": 1, "sequence_len": 64, "vocab_size": 512, "batch_tokens": 256, "num_steps": 2}
    rented = Target(executor="sky", device="H100", usd_micros_per_hour=3_000_000)
    with pytest.raises(InvalidInput, match=rf"path:{tmp_path} is on this machine") as caught:
        verbs.plan(store, spec=spec | {"data": f"path:{tmp_path}"}, target=rented, actor="ada")
    assert "--data fineweb-edu or climbmix" in caught.value.message + caught.value.next
    Target(executor="sky", device="H100", only="slurm/lab/gpu").check_data(f"path:{tmp_path}")  # they share its disk
    Target().check_data(f"path:{tmp_path}")
    rented.check_data("climbmix")
