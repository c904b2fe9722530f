"""Imported by every Python on the lab's machines, which have no GPU: the CPU trains under the name of the card that
their node claims, and an A100's steps take a while longer. Nothing else of the trainer is touched.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import time
from dataclasses import replace
from typing import Any

NODE = os.environ.get("SLURMD_NODENAME", "")
IS_A100 = NODE == "n5"
CARD = "NVIDIA A100-SXM4-40GB" if IS_A100 else "NVIDIA H100 80GB HBM3"
LONGER_S = 1.5  # than this machine's own step, on an A100


def machine(module: Any) -> None:
    found = module.find_machine
    module.find_machine = lambda *args, **named: replace(found(*args, **named), device_name=CARD)


def environment(module: Any) -> None:
    """The check of a plan's card is the real one; only whom it asks is the lab."""
    import torch

    check = module.check_device

    def checked(*asked: Any) -> None:
        there, name = torch.cuda.is_available, torch.cuda.get_device_name
        torch.cuda.is_available, torch.cuda.get_device_name = lambda: True, lambda _device=None: CARD
        try:
            check(*asked)
        finally:
            torch.cuda.is_available, torch.cuda.get_device_name = there, name

    module.check_device = checked


def loop(module: Any) -> None:
    if not IS_A100:
        return
    step = module.TrainingLoop._micro_batch

    def slower(*asked: Any) -> Any:
        time.sleep(LONGER_S)
        return step(*asked)

    module.TrainingLoop._micro_batch = slower


AFTER = {"trainer.runtime.machine": machine, "trainer.environment": environment, "trainer.loop": loop}


class Finder(importlib.abc.MetaPathFinder):
    """Changes a module of the trainer once it was read."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in AFTER:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        read = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            read(module)
            AFTER[name](module)

        spec.loader.exec_module = exec_module
        return spec


if NODE:
    sys.meta_path.insert(0, Finder())
