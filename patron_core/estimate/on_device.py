"""What a spec becomes on a device: its compute type, each rank's micro-batch, the size of its checkpoints. Pure."""

from __future__ import annotations

from patron_core.errors import InvalidInput
from trainer.contract.devices import Device
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import SpecError, TrainSpec
from trainer.contract.storage import checkpoint_bytes


def micro_batch_size(spec: TrainSpec, world: WorldSize) -> int:
    """Sequences of one rank. Raises InvalidInput for a batch that cannot be divided over the ranks."""
    try:
        return spec.micro_batch_size(world.ranks)
    except SpecError as error:
        raise InvalidInput(error.problems, next="take another number of --gpus, or another --batch-tokens") from error


def size_of_checkpoints(spec: TrainSpec, device: Device) -> float:
    """Bytes of one."""
    return checkpoint_bytes(spec.recipe(), 2 if compute_dtype(spec, device) == "bfloat16" else 4)


def compute_dtype(spec: TrainSpec, device: Device) -> str:
    """What the trainer takes for `auto`: bfloat16 wherever the hardware has it."""
    if spec.dtype != "auto":
        return spec.dtype
    return "bfloat16" if device.native_bf16 else "float32"
