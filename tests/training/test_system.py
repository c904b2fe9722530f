"""How busy the machine is goes into the record with a step, in whatever the machine says, and never by itself."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from training import Trainer, events

from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from trainer.contract.exits import EXIT_DONE
from trainer.runtime import system
from trainer.runtime.system import SystemSampler, parsed_gpus


def test_a_sample_is_given_once_and_says_how_busy_the_machine_is() -> None:
    sampler = SystemSampler(with_gpus=False, first_s=0.1, every_s=60)
    end = time.monotonic() + 10
    while not (seen := sampler.take()) and time.monotonic() < end:
        sum(range(100_000))
    assert 0 < seen["system/cpu_utilization"] <= 1
    assert 2**20 < seen["system/memory_bytes"] < 2**50
    assert sampler.take() == {}


def test_gpus_are_added_up_and_what_one_does_not_say_is_left_out() -> None:
    assert parsed_gpus("90, 1024, 300.5, 60\n70, 2048, [N/A], 71\n") == {
        "system/gpu_utilization": 0.8,
        "system/gpu_memory_bytes": 3072 * 2**20,
        "system/gpu_power_w": 300.5,
        "system/gpu_temperature_c": 71.0,
    }
    assert parsed_gpus("No devices were found\n") == {}


def test_a_machine_without_nvidia_smi_and_proc_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(system, "_PROC", tmp_path)
    assert system.gpus() == system.memory() == {}
    assert system.cpu_times() is None


def test_a_training_says_how_busy_its_machine_is(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.pace.SystemSampler", partial(SystemSampler, first_s=0.05))
    assert trainer.train_here(tmp_path / "run", trainer.spec(num_steps=20, eval_every_steps=0)) == EXIT_DONE
    seen = events(tmp_path / "run", "system")
    assert seen
    assert "system/memory_bytes" in seen[0]["metrics"]
    assert 1 <= seen[0]["step"] <= 20
    keys = record_of(RunDir(tmp_path / "run")).keys()
    assert {"train/loss", "system/memory_bytes"} <= set(keys)
