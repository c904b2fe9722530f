"""A plan for a GPU is proven by that GPU and by nothing else: no CPU, no other card, no driver too old for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import environment
from trainer.contract.exits import EXIT_BAD_SPEC, EnvironmentDrift
from trainer.contract.spec import TrainSpec
from trainer.environment import check_device

SPEC = TrainSpec.from_dict({"depth": 1})


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a CPU is no stand-in")
def test_a_dryrun_on_a_cpu_proves_nothing_for_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"depth": 1}')
    command = [sys.executable, "-m", "trainer.dryrun", str(tmp_path / "spec.json"), str(tmp_path / "run")]
    done = subprocess.run([*command, "--expect-device", "H100"], capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_BAD_SPEC, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["reason"] == "environment_drift"
    assert "the plan is for an H100, and torch sees no CUDA device" in result["message"]


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020)")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(environment, "_driver_version", lambda: "535.183.01")
    with pytest.raises(EnvironmentDrift, match=r"too old .*driver here is 535\.183\.01.*built for CUDA 13\.0"):
        check_device(SPEC, "H100")


@pytest.mark.parametrize(
    ("card", "expected", "good"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA H100 PCIe", "H100", False),  # a quarter slower
        ("NVIDIA A100-SXM4-40GB", "A100-40GB", True),
        ("NVIDIA A100-SXM4-80GB", "A100-40GB", False),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB", False),
        ("NVIDIA T4", "H100", False),
    ],
)
def test_another_card_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, card: str, expected: str, good: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: card)
    if good:
        check_device(SPEC, expected)
        return
    with pytest.raises(EnvironmentDrift, match=f"the plan is for an {expected}, and this machine has an {card}"):
        check_device(SPEC, expected)


def test_a_spec_for_a_cpu_is_no_plan_for_a_gpu() -> None:
    check_device(TrainSpec.from_dict({"depth": 1, "device": "cpu"}), None)
    with pytest.raises(EnvironmentDrift, match="says device: cpu"):
        check_device(TrainSpec.from_dict({"depth": 1, "device": "cpu"}), "H100")
