"""The head's Triton kernel against its formula, in Triton's interpreter; and who runs where it cannot."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import ROOT

from tests.bench.jobs import child_environ
from trainer.model.head import HeadKernel, softcap_cross_entropy_
from trainer.runtime import head_choice
from trainer.runtime.head_choice import load_cuda_kernel


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


Loaded = Callable[[], tuple[HeadKernel, list[str]]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loaded:
    """What a machine with a card would take, at a size for a CPU."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a card")

    def loaded() -> tuple[HeadKernel, list[str]]:
        warnings: list[str] = []

        def warn(code: str, message: str) -> None:
            warnings.append(f"{code}: {message}")

        return load_cuda_kernel(torch.device("cpu"), torch.float32, False, warn, shape=(32, 64)), warnings

    return loaded


class FakeTriton:
    """Counts its calls, and adds an error to every answer."""

    def __init__(self, error: float = 0.0):
        self.calls, self._error = 0, error

    def triton_kernel(self, logits_CV: Tensor, targets_C: Tensor, cap: float | None, factor: float | None) -> Tensor:
        self.calls += 1
        return softcap_cross_entropy_(logits_CV, targets_C, cap, factor) + self._error


def ask(kernel: HeadKernel, softcap: float | None) -> float:
    return kernel(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), softcap, None).item()


def test_where_it_cannot_be_imported_the_formula_does_it_and_says_why(
    load: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trainer.model.head_triton", None)
    kernel, warnings = load()
    assert ask(kernel, 15.0) == pytest.approx(math.log(3))
    assert warnings[0].startswith("no_triton_kernel: ")
    assert "trainer.model.head_triton" in warnings[0]


@pytest.mark.parametrize("seconds", [{"triton": 1.0, "formula": 2.0}, {"triton": 2.0, "formula": 1.0}])
def test_the_quicker_one_is_taken_for_capped_logits(
    load: Loaded, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]
) -> None:
    fake = FakeTriton()
    monkeypatch.setitem(sys.modules, "trainer.model.head_triton", fake)

    def measured(kernel: HeadKernel, *_: object) -> float:
        return seconds["formula" if kernel is softcap_cross_entropy_ else "triton"]

    monkeypatch.setattr(head_choice, "measure", measured)
    kernel, warnings = load()
    assert warnings == []
    assert ask(kernel, 15.0) == pytest.approx(math.log(3))
    assert fake.calls == (seconds["triton"] < seconds["formula"])
    ask(kernel, None)
    assert fake.calls == (seconds["triton"] < seconds["formula"]), "logits without a cap are the formula's"


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_one_whose_answer_is_wrong_is_never_taken(load: Loaded, monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    fake = FakeTriton(error)
    monkeypatch.setitem(sys.modules, "trainer.model.head_triton", fake)
    kernel, warnings = load()
    assert "WrongAnswer: loss is off" in warnings[0]
    assert ask(kernel, 15.0) == pytest.approx(math.log(3))
    assert fake.calls == 1
