"""Peak memory of a training step, part by part. Pure.

Weights as the trainer keeps them: matrices and lm_head in float32, embeddings in the compute dtype, Adam's moments in
float32. Activations were fitted to three published peaks (depth 10 at 16 and 32 sequences of 2048, depth 12 at 32):
34.4 bytes a token, layer and channel in compiled bfloat16, and 2.4 bytes a token and vocabulary entry for a head that
keeps all its logits at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patron_core.estimate.calibration import Calibration
from patron_core.interval import Interval
from trainer.devices import Device
from trainer.recipe import Recipe

ACTIVATION_VALUES = 17.2  # kept for each token, layer and channel, compiled
EAGER_ACTIVATION_VALUES = 25.0  # counted in the model's graph: every intermediate that backward needs
WHOLE_HEAD_BYTES = 2.4  # a token and vocabulary entry, when the head is not chunked
HEAD_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}  # trainer.head: float32 logits of one chunk; a test compares
# float32 chunks alive at once: compiled, logits and gradient in bfloat16 and a sum; eager, every intermediate too
HEAD_CHUNK_COPIES = {True: 2.0, False: 6.0}
CPU_RUNTIME_BYTES = 750e6  # interpreter, torch, loader, freed memory that is kept; from depth 1 and 2 on a CPU
CUDA_CONTEXT_BYTES = 0.8e9  # not in torch's own count, but gone
FRAGMENTATION = 0.04
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

    def to_dict(self) -> dict[str, Any]:
        return {
            "peak_bytes": self.peak_bytes.to_dict(),
            "usable_bytes": self.usable_bytes,
            "parts_bytes": dict(self.parts_bytes),
            "fits": self.fits,
            "measured": self.measured,
        }


def memory_parts(
    recipe: Recipe, *, micro_batch_size: int, item_bytes: int, compiled: bool, cpu: bool, chunked_head: bool = True
) -> dict[str, float]:
    """Bytes by part. `item_bytes` is the compute dtype's size; a whole head is upstream nanochat's."""
    params = recipe.num_params
    tokens = micro_batch_size * recipe.sequence_len
    embeddings = params.wte + params.value_embeds
    full = params.total - embeddings  # in float32
    weights = 4 * full + item_bytes * embeddings
    matrix_states = 4 if recipe.features.muon else 8
    adam = params.total - params.matrices - embeddings
    casts = (params.matrices + params.lm_head) * item_bytes if item_bytes < 4 else 0
    values = ACTIVATION_VALUES if compiled else EAGER_ACTIVATION_VALUES
    logits = tokens * recipe.vocab_size
    chunk_bytes = min(4 * logits, HEAD_CHUNK_BYTES["cpu" if cpu else "cuda"])
    head = HEAD_CHUNK_COPIES[compiled] * chunk_bytes + 4 * params.lm_head if chunked_head else WHOLE_HEAD_BYTES * logits
    parts = {
        "weights": float(weights),
        "gradients": float(weights),
        "optimizer": float(matrix_states * params.matrices + 8 * (adam + embeddings)),
        "casts": float(casts),
        "activations": values * item_bytes * tokens * recipe.dim * recipe.depth,
        "head": float(head),
    }
    if cpu:
        parts["runtime"] = CPU_RUNTIME_BYTES
    return parts


def checkpoint_bytes(recipe: Recipe, item_bytes: int) -> float:
    """Weights and optimizer state on disk."""
    params = recipe.num_params
    embeddings = params.wte + params.value_embeds
    per_matrix = 8 if recipe.features.muon else 12
    adam = params.total - params.matrices - embeddings
    return per_matrix * params.matrices + 12 * adam + (8 + item_bytes) * embeddings


def estimate_memory(
    recipe: Recipe,
    device: Device,
    *,
    micro_batch_size: int,
    item_bytes: int,
    compiled: bool,
    calibration: Calibration | None = None,
) -> Memory:
    parts = memory_parts(
        recipe, micro_batch_size=micro_batch_size, item_bytes=item_bytes, compiled=compiled, cpu=device.is_cpu
    )
    peak = sum(parts.values())
    low, mid, high = SPREAD
    measured = _measured_bytes(recipe, micro_batch_size, calibration)
    if measured is not None:
        peak, low, high = measured, 0.98, 1.04
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
