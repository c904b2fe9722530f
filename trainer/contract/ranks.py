"""How many processes train one run, how they are started and how they ended: by torchrun, one for each GPU there is.

torchrun reads its flags from the environment too, as PET_...; whoever starts a workload sets them there, since only a
machine itself knows which of several it is. It ends with 1 however its ranks ended; what they said is in result.json.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.contract import grace
from trainer.contract.exits import EXIT_DONE, EXIT_SIGKILL

TORCHRUN = "torch.distributed.run"
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000
_PER_NODE, _NODES, _NODE = "PET_NPROC_PER_NODE", "PET_NNODES", "PET_NODE_RANK"


@dataclass(frozen=True, kw_only=True)
class WorldSize:
    """Processes of one training: so many on each machine, each on a GPU of its own where there are GPUs."""

    per_node: int = 1
    nodes: int = 1

    @property
    def ranks(self) -> int:
        return self.per_node * self.nodes

    def environ(self) -> dict[str, str]:
        """What tells torchrun, on every machine the same."""
        if self.ranks == 1:
            return {}
        return {_PER_NODE: str(self.per_node), _NODES: str(self.nodes)} | self._meeting_here()

    def rendezvous(self, attempt: str) -> dict[str, str]:
        """Where the ranks of an attempt meet. On one machine torchrun takes a port that is free; of several machines
        each must know it before: it is made of the attempt's key, so that two of them on the same machines do not meet
        at one. Below what Linux gives to connections (32768 and up)."""
        if self.nodes == 1:
            return self._meeting_here()
        return {"PET_MASTER_PORT": str(_FIRST_PORT + zlib.crc32(attempt.encode()) % _NUM_PORTS)}

    def _meeting_here(self) -> dict[str, str]:
        return {"PET_STANDALONE": "1"} if self.nodes == 1 < self.ranks else {}

    def __str__(self) -> str:
        return str(self.per_node) if self.nodes == 1 else f"{self.nodes}x{self.per_node}"


ONE = WorldSize()


def world_size() -> WorldSize:
    """As the environment says it; one process where it says nothing."""
    return WorldSize(per_node=int(os.environ.get(_PER_NODE) or 1), nodes=int(os.environ.get(_NODES) or 1))


def node_rank() -> int:
    return int(os.environ.get(_NODE) or 0)


def torchrun(command: Sequence[str]) -> list[str]:
    """The command `PYTHON -m MODULE ...` started once for each rank, as the environment counts them."""
    python = command[: command.index("-m")]
    wait_s = str(round(grace.linger_s()))  # from a request to stop, or the first bad end, to the kill of those left
    return [*python, "-m", TORCHRUN, "--shutdown-timeout", wait_s, "--no-python", *command]


def is_torchrun(command: Sequence[str]) -> bool:
    return TORCHRUN in command


class LastWord:
    """What the ranks of this start say of their end. Made before they start: what is there then is an older start's."""

    def __init__(self, attempt: str, before: Mapping[str, Any] | None):
        self._attempt, self._before = attempt, before

    def exit_code(self, said: int, result: Mapping[str, Any] | None) -> int:
        """What `result` says, in the place of what torchrun `said`; as of a kill where there was no time for a word."""
        if said <= EXIT_DONE:  # done, or torchrun itself was killed
            return said
        if not result or result == self._before or result.get("attempt") != self._attempt:
            return EXIT_SIGKILL
        code = result.get("exit_code")
        return code if isinstance(code, int) and 0 < code < 256 else EXIT_SIGKILL
