"""The task file as the `sky` command takes it, with no core: submitted, reclaimed in the middle, resumed, done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, Lab

from patron_core.executors.records import Records
from patron_core.rundir import RunDir, lineage

PATIENCE_S = 240.0


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.5)


@pytest.mark.timeout(600)
def test_a_job_by_hand_comes_back_after_its_machine_was_taken_away(
    lab: Lab, lab_home: Path, spec: dict[str, Any], tmp_path: Path
) -> None:
    directory = RunDir(tmp_path / "run")
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"num_steps": 1000}))
    envs = {"RUN_DIR": tmp_path / "run", "SPEC": tmp_path / "spec.json", "PYTHON": sys.executable}
    flags = [part for name, value in envs.items() for part in ("--env", f"PATRON_{name}={value}")]
    where = ["--infra", "slurm/lab/spot", "--gpus", "H100:1", "--no-use-spot"]
    task = str(ROOT / "skypilot" / "train.yaml")
    lab.sky("jobs", "launch", task, "-y", "-d", "-n", "by-hand", *where, *flags, timeout_s=120)
    until(lambda: directory.newest_checkpoint() is not None, "a checkpoint")
    records = Records(str(tmp_path / "run"), "train-1")
    assert lab.reclaim(int(records.starts()[0]["job"])) == 1
    until(lambda: records.starts()[-1]["ended"], "the end")

    assert (directory.result() or {})["reason"] == "completed"
    starts = records.starts()
    assert [start["exit_code"] for start in starts] == [None, 0]
    resumed = [event.data["resumed_step"] for event in directory.all_events() if event.kind == "start"]
    assert resumed[0] is None
    assert resumed[1] > 0
    steps = [event.step for event in lineage(directory.all_events()) if event.kind == "metrics"]
    assert steps == list(range(1, 1001))
