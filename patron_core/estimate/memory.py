"""Whether a training step fits into a device: its parts (contract.footprint), an interval, and what is usable. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from patron_core.estimate.calibration import Calibration
from patron_core.interval import Interval
from patron_core.scaling.law import Z90
from trainer.contract.devices import Device
from trainer.contract.footprint import FRAGMENTATION, memory_parts
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.recipe import Recipe
from trainer.contract.storage import checkpoint_bytes

CUDA_CONTEXT_BYTES = 0.8e9  # not in torch's own count, but gone
SPREAD = (0.85, 1.0, 1.20)


@dataclass(frozen=True, kw_only=True)
class Memory:
    peak_bytes: Interval
    usable_bytes: float
    parts_bytes: dict[str, float]
    measured: bool

    @property
    def fits(self) -> bool:
        """Judged by the upper bound: running out costs a launch, a smaller micro-batch costs a few percent."""
        return self.peak_bytes.high <= self.usable_bytes

    @property
    def oom_probability(self) -> float:
        """That the peak is above what is usable, its interval taken as that of a log-normal one."""
        spread = math.log(self.peak_bytes.high / self.peak_bytes.mid) / Z90
        return 0.5 * (1 + math.erf(math.log(self.peak_bytes.mid / self.usable_bytes) / spread / math.sqrt(2)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "peak_bytes": self.peak_bytes.to_dict(),
            "usable_bytes": self.usable_bytes,
            "parts_bytes": dict(self.parts_bytes),
            "fits": self.fits,
            "oom_probability": self.oom_probability,
            "measured": self.measured,
        }


def estimate_memory(
    recipe: Recipe,
    device: Device,
    *,
    micro_batch_size: int,
    item_bytes: int,
    compiled: bool,
    calibration: Calibration | None = None,
    world: WorldSize = ONE,
) -> Memory:
    """Of one rank on its device: the optimizer's state is shared out over all of them, the rest is whole on each.
    Processes on one CPU share its memory."""
    parts = memory_parts(
        recipe, micro_batch_size=micro_batch_size, item_bytes=item_bytes, compiled=compiled, cpu=device.is_cpu
    )
    parts["optimizer"] /= world.ranks
    if device.is_cpu:
        parts = {name: world.per_node * num_bytes for name, num_bytes in parts.items()}
        parts["checkpoint"] = checkpoint_bytes(recipe, item_bytes)  # the copy that is written while training goes on
    peak = sum(parts.values())
    low, mid, high = SPREAD
    measured = _measured_bytes(recipe, micro_batch_size, calibration)
    if measured is not None:
        peak, low, high = measured * (world.per_node if device.is_cpu else 1), 0.98, 1.04
    usable = (device.memory_bytes - (0 if device.is_cpu else CUDA_CONTEXT_BYTES)) * (1 - FRAGMENTATION)
    return Memory(
        peak_bytes=Interval(low * peak, mid * peak, high * peak),
        usable_bytes=usable,
        parts_bytes=parts,
        measured=measured is not None,
    )


def _measured_bytes(recipe: Recipe, micro_batch_size: int, calibration: Calibration | None) -> float | None:
    """A measured peak holds for the same depth and micro-batch, and for nothing else."""
    if calibration is None or calibration.peak_memory_bytes is None:
        return None
    same_model = calibration.depth == recipe.depth and calibration.flops_per_token == recipe.flops_per_token
    if same_model and calibration.micro_batch_tokens == micro_batch_size * recipe.sequence_len:
        return float(calibration.peak_memory_bytes)
    return None
