"""Batches go to a GPU from pinned memory, and its allocator may grow what it has; a CPU sees nothing of either."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from training import ROOT

from trainer.runtime.transfer import send, use_expandable_segments


class FakeTensor:
    """Says what was done with it."""

    def __init__(self, said: tuple[str, ...] = ()):
        self.said = said

    def pin_memory(self) -> FakeTensor:
        return FakeTensor((*self.said, "pinned"))

    def to(self, device: torch.device, *, non_blocking: bool) -> FakeTensor:
        return FakeTensor((*self.said, f"to {device.type}, {non_blocking}"))


def test_only_a_gpu_gets_pinned_memory_and_nobody_waits() -> None:
    fake: Any = FakeTensor()
    sent: Any = send(fake, torch.device("cuda"))
    assert sent.said == ("pinned", "to cuda, True")
    tokens_BT = torch.arange(6)
    assert send(tokens_BT, torch.device("cpu")) is tokens_BT


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_setting_that_somebody_gave_stands(name: str) -> None:
    environ = {name: "max_split_size_mb:64"}
    use_expandable_segments(environ)
    assert environ == {name: "max_split_size_mb:64"}


def test_the_trainer_sets_it_before_torch_is_there() -> None:
    """The allocator reads it once."""
    code = (
        "import os, sys, trainer.train as train\n"
        "train.join = lambda: sys.exit(os.environ['PYTORCH_ALLOC_CONF'] + str('torch' in sys.modules))\n"
        "train.main(['spec.json', 'run'])"
    )
    environ = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "expandable_segments:TrueFalse", done.stderr
