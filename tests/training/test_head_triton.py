"""The head's Triton kernel against its formula, in Triton's interpreter; and who runs where it cannot."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import ROOT

from tests.bench.jobs import child_environ
from trainer.model.head import softcap_cross_entropy_
from trainer.runtime.machine import load_cuda_kernel

CPU = torch.device("cpu")


def kernels(*options: str, **environ: str) -> dict[str, Any]:
    """From a process: the interpreter is chosen before triton is imported."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("triton.language") is None:
        pytest.skip("triton is not installed: uv pip install triton (Linux on x86_64)")
    command = [sys.executable, "-m", "tests.bench.lease.kernels", *options]
    environment = child_environ() | environ
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kernels(TRITON_INTERPRET="1")["cases"]
    return found


def test_it_compiles_for_hopper_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    """What the interpreter lets pass the compiler may not: a name that it cannot see, a type that it cannot make."""
    compiled = kernels("--compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))["compiled"]
    assert len(compiled) == 4
    assert all(kernel["bytes"] > 1000 and kernel["16_byte_loads"] > 0 for kernel in compiled)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_gradient", [True, False], ids=["training", "evaluation"])
def test_it_is_the_formula_at_odd_sizes_too(cases: list[dict[str, Any]], dtype: str, with_gradient: bool) -> None:
    mine = [case for case in cases if case["dtype"] == dtype and case["with_gradient"] == with_gradient]
    assert {case["vocab_size"] for case in mine} == {7, 97, 4096, 4097, 9001}
    assert [case for case in mine if not case["ok"]] == []


def test_where_it_does_not_work_the_formula_does_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trainer.model.head_triton", None)
    warnings: list[str] = []
    kernel = load_cuda_kernel(CPU, False, lambda code, message: warnings.append(f"{code}: {message}"))
    assert kernel is softcap_cross_entropy_
    assert warnings[0].startswith("no_triton_kernel: ")
    assert "trainer.model.head_triton" in warnings[0]


class FakeTriton:
    def __init__(self, loss: float):
        self._loss = loss

    def triton_kernel(self, logits_CV: Tensor, _targets: Tensor, _cap: float | None, _factor: float | None) -> Tensor:
        return torch.full((logits_CV.size(0),), self._loss)


@pytest.mark.parametrize(("loss", "is_taken"), [(4.158883, True), (0.0, False), (float("nan"), False)])
def test_it_is_taken_only_where_its_first_answer_is_right(
    monkeypatch: pytest.MonkeyPatch, loss: float, is_taken: bool
) -> None:
    fake = FakeTriton(loss)
    monkeypatch.setitem(sys.modules, "trainer.model.head_triton", fake)
    warnings: list[str] = []
    kernel = load_cuda_kernel(CPU, False, lambda _code, message: warnings.append(message))
    assert bool(warnings) is not is_taken
    logits_CV, targets_C = torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    assert kernel(logits_CV, targets_C, 15.0, None).item() == pytest.approx(loss if is_taken else math.log(3))
    assert kernel(logits_CV, targets_C, None, None).item() == pytest.approx(math.log(3)), "the formula's own case"
