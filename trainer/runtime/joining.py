"""Which world this process trains in: read from the environment that a launcher gave it."""

from __future__ import annotations

import os

from trainer.contract.exits import BadSpec
from trainer.runtime.world import ALONE, World


def join() -> World:
    """The world that the environment's variables describe; waits for all of its ranks. None of them: one process."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise BadSpec(
            f"WORLD_SIZE is {size} without {', '.join(missing)}; start with python -m trainer.launch or torchrun"
        )
    from trainer.runtime.distributed import Ranks  # torch comes with it

    return Ranks()
