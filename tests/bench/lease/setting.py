"""What every part of a lease is told, how it reports, and the shapes that are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.jobs import Job

Report = Callable[..., None]  # named results, kept as they come: a part that is ended keeps what it had said

D12 = Job(
    side="ours",
    depth=12,
    sequence_len=2048,
    window_pattern="SSSL",
    batch_tokens=2**19,
    device_batch_size=32,
    device="cuda",
    steps=5,
)
TOY = Job(
    side="ours",
    depth=1,
    sequence_len=256,
    vocab_size=512,
    window_pattern="SSSL",
    batch_tokens=1024,
    device_batch_size=2,
    device="cpu",
    dtype="float32",
    compile=False,
    steps=1,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    smoke: bool  # toy sizes on the CPU: that all of it works
    vs: Path | None  # a checkout of upstream
    out: Path

    @property
    def device(self) -> str:
        return "cpu" if self.smoke else "cuda"

    def job(self, **changes: Any) -> Job:
        """The shape to be measured; the rehearsal's is a toy, whatever its depth would be."""
        if self.smoke:
            kept = ("side", "window_pattern", "checkout", "fp8")
            changes = {key: value for key, value in changes.items() if key in kept}
            changes |= {"dtype": "bfloat16"} if changes.get("fp8") else {}
        return replace(TOY if self.smoke else D12, **changes)


class Skip(Exception):
    """A part that cannot be measured here; its text says why."""


def small_corpus() -> Path:
    """Text that is on every machine: a package of the standard library."""
    import asyncio

    return Path(asyncio.__file__).parent
