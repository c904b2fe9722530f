"""One start of the trainer: what it was asked for, and what it speaks, listens and counts through.

Standard library at import, so that a bad spec is refused before torch loads.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.contract.events import EventWriter
from trainer.preemption.stop import StopWatch
from trainer.runtime.console import Console
from trainer.runtime.world import World

if TYPE_CHECKING:
    from trainer.checkpoint.bucket import Bucket


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line."""

    spec: str  # a path or a URL
    run_dir: str  # a path or a URL
    attempt: str | None = None
    deadline_s: float | None = None
    burst_steps: int | None = None
    rehearse: bool = False  # after the burst go on stepping, without saves, for somebody to kill it
    expected_environment: str | None = None  # hash
    expected_device: str | None = None  # a name of contract.gpus


@dataclass(frozen=True, kw_only=True)
class Start:
    asked: Asked
    run_dir: Path  # where this machine works on the run
    events: EventWriter
    console: Console
    stop: StopWatch
    world: World
    bucket: Bucket | None  # where the run lives, if not here
    started_at: float  # Unix time, imports included


def process_started_at() -> float:
    """When this process began, imports included; now, where that cannot be known."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii")
        ticks_after_boot = int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5)
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - max(0.0, uptime_s - ticks_after_boot / os.sysconf("SC_CLK_TCK"))
