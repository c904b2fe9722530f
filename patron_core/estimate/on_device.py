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


def check_fp8(spec: TrainSpec, device: Device) -> None:
    """Raises InvalidInput for a card without fp8 products; on a CPU they are emulated."""
    if spec.fp8 and not (device.has_fp8 or device.is_cpu):
        raise InvalidInput(
            [f"fp8: {device.name} multiplies no fp8 numbers; H100, H200, B200, L4, L40S and RTX 40 and 50 cards do"],
            next="leave fp8 out, or take such a card",
        )


def compute_dtype(spec: TrainSpec, device: Device) -> str:
    """What the trainer takes for `auto`: bfloat16 wherever the hardware has it."""
    if spec.dtype != "auto":
        return spec.dtype
    return "bfloat16" if device.native_bf16 else "float32"
