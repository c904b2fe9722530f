"""Which world this process trains in: read from the environment that a launcher gave it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from trainer.contract.exits import BadSpec
from trainer.contract.ranks import TORCHRUN
from trainer.runtime.world import ALONE, World

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def join() -> World:
    """The world that the environment's variables describe; waits for all of its ranks. None of them: one process."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise BadSpec(f"WORLD_SIZE is {size} without {', '.join(missing)}; start with python -m {TORCHRUN}")
    _die_with_torchrun()
    from trainer.runtime.distributed import Ranks  # torch comes with it

    return Ranks()


def _die_with_torchrun() -> None:
    """A rank is killed when what started it dies, by whatever means: torchrun gives each a session of its own, so that
    nobody else would find it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
