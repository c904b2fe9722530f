"""On a rented card's machine polars, obstore, marimo and mlflow may be missing: training there needs none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT, Trainer, result

from tests.bench.jobs import child_environ

ENTRY_POINTS = (
    "trainer.train",
    "trainer.session",
    "trainer.dryrun",
    "trainer.sample",
    "trainer.environment",
    "trainer.runtime.measure",
    "patron_core.estimate",
    "tests.bench.gpu",
    "tests.bench.jobs",
    "tests.bench.sides",
    "tests.bench.learning",
    "tests.bench.upstream",
    "tests.bench.checkpoint",
    "tests.bench.head",
    "tests.bench.lease.run",
    "tests.bench.lease.part",
    "tests.bench.lease.machine",
    "tests.bench.lease.correct",
    "tests.bench.lease.speed",
    "tests.bench.lease.runs",
    "tests.bench.lease.costs",
)


def test_every_entry_point_imports(bare: dict[str, str]) -> None:
    """One process: what one import leaves behind hides nothing, since the packages are missing for all."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    command = [sys.executable, "-c", code, *ENTRY_POINTS]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_trains_saves_and_ends(bare: dict[str, str], trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    code, stderr = trainer.train(run_dir, trainer.spec(num_steps=2), env=bare)
    assert code == 0, stderr
    assert (run_dir / "checkpoints" / "step-000002" / "manifest.json").exists()


def test_parquet_without_polars_is_refused_with_what_to_do(
    bare: dict[str, str], trainer: Trainer, tmp_path: Path
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    spec = trainer.spec(data=f"path:{tmp_path / 'a.parquet'}")
    code, stderr = trainer.train(tmp_path / "run", spec, env=bare)
    assert code == 78, stderr
    assert "pip install polars" in result(tmp_path / "run")["message"]


def test_a_job_keeps_what_pythonpath_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packages lie in folders of their own, a child that lost them could not even import torch."""
    monkeypatch.setenv("PYTHONPATH", "/some/packages")
    assert child_environ()["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/some/packages"])
    monkeypatch.delenv("PYTHONPATH")
    assert child_environ()["PYTHONPATH"] == str(ROOT)
