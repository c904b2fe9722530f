"""The table of GPUs: size, peaks, bandwidth, and the utilisation that training has reached on each. Pure, no torch.

Peaks are dense bf16 without sparsity, the figure that model FLOPs utilisation (MFU) is counted against.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or this machine's CPU, as the estimator sees it."""

    name: str
    accelerator: str | None  # SkyPilot's exact name; None: no accelerator to ask for
    memory_bytes: int  # as torch reports it, less than the box says
    bf16_flops: float  # peak FLOP/s
    f32_flops: float
    bytes_per_s: float  # memory bandwidth
    mfu: tuple[tuple[int, float], ...]  # (depth, MFU in bf16), rising depth
    mfu_batch_tokens: int  # tokens in a micro-batch at which that MFU holds
    mfu_spread: float  # relative, either way
    mfu_source: str
    cores: int = 12  # of the machine around it; they tokenize
    matches: tuple[str, ...] = ()  # parts of torch's device name, lower case
    measured: bool = True  # False: the peaks are a guess
    native_bf16: bool = True  # the trainer's `auto` then means bfloat16
    has_fp8: bool = False  # matrix products of e4m3 and e5m2, as torch._scaled_mm wants them

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"


_A100_MFU = ((2, 0.20), (4, 0.33), (6, 0.44), (8, 0.50), (10, 0.53), (12, 0.545), (20, 0.57), (24, 0.58))
_H100_MFU = ((2, 0.13), (4, 0.22), (6, 0.32), (8, 0.398), (12, 0.415), (18, 0.46), (24, 0.50))
_PUBLISHED = "published nanochat runs"
_SPEC_SHEET = "no published run on this card: scaled from A100 and H100"

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="A100-40GB",
            accelerator="A100",
            memory_bytes=int(39.5 * GIB),
            bf16_flops=312e12,
            f32_flops=19.5e12,
            bytes_per_s=1.555e12,
            mfu=_A100_MFU,
            mfu_batch_tokens=16 * 2048,
            mfu_spread=0.10,
            mfu_source=f"{_PUBLISHED} (53 to 55 % at depth 10)",
            matches=("a100-sxm4-40gb",),
        ),
        Device(
            name="A100-80GB",
            accelerator="A100-80GB",
            memory_bytes=int(79.2 * GIB),
            bf16_flops=312e12,
            f32_flops=19.5e12,
            bytes_per_s=2.039e12,
            mfu=_A100_MFU,
            mfu_batch_tokens=16 * 2048,
            mfu_spread=0.12,
            mfu_source=f"{_PUBLISHED} on the 40 GB card",
            matches=("a100-sxm4-80gb", "a100-sxm-80gb"),
        ),
        Device(
            name="H100",
            accelerator="H100",
            memory_bytes=int(79.2 * GIB),
            bf16_flops=989e12,
            f32_flops=67e12,
            bytes_per_s=3.35e12,
            mfu=_H100_MFU,
            mfu_batch_tokens=32 * 2048,
            mfu_spread=0.10,
            mfu_source=f"{_PUBLISHED} (39.8 % at depth 8 to 50 % at depth 24)",
            cores=26,
            matches=("h100",),
            has_fp8=True,
        ),
        Device(
            name="H200",
            accelerator="H200",
            memory_bytes=int(139.8 * GIB),
            bf16_flops=989e12,
            f32_flops=67e12,
            bytes_per_s=4.8e12,
            mfu=_H100_MFU,
            mfu_batch_tokens=32 * 2048,
            mfu_spread=0.15,
            mfu_source="published nanochat runs on H100, the same chip with faster memory",
            cores=26,
            matches=("h200",),
            has_fp8=True,
        ),
        Device(
            name="B200",
            accelerator="B200",
            memory_bytes=int(178 * GIB),
            bf16_flops=2250e12,
            f32_flops=75e12,
            bytes_per_s=8.0e12,
            mfu=((2, 0.06), (4, 0.11), (8, 0.25), (12, 0.30), (18, 0.36), (24, 0.41)),
            mfu_batch_tokens=64 * 2048,
            mfu_spread=0.30,
            mfu_source=_SPEC_SHEET,
            cores=28,
            matches=("b200",),
            has_fp8=True,
        ),
        Device(
            name="L4",
            accelerator="L4",
            memory_bytes=int(22.0 * GIB),
            bf16_flops=121e12,
            f32_flops=30.3e12,
            bytes_per_s=0.3e12,
            mfu=((2, 0.22), (4, 0.32), (8, 0.42), (12, 0.45), (24, 0.47)),  # 72 W: the clock gives way first
            mfu_batch_tokens=8 * 2048,
            mfu_spread=0.30,
            mfu_source=_SPEC_SHEET,
            cores=4,
            matches=("nvidia l4",),
            has_fp8=True,
        ),
        Device(
            name="RTX4090",
            accelerator="RTX4090",
            memory_bytes=int(23.5 * GIB),
            bf16_flops=165.2e12,
            f32_flops=82.6e12,
            bytes_per_s=1.008e12,
            mfu=((2, 0.25), (4, 0.40), (8, 0.55), (12, 0.60), (24, 0.63)),
            mfu_batch_tokens=8 * 2048,
            mfu_spread=0.30,
            mfu_source=_SPEC_SHEET,
            cores=8,
            matches=("rtx 4090",),
            has_fp8=True,
        ),
    )
}


def is_part(part: str, wanted: str) -> bool:
    """Whole words: `nvidia l4` is no part of `nvidia l40s`, nor `b200` of `gb200`; laptop chips are slower ones."""
    at = wanted.find(part)
    around = wanted[max(0, at - 1) : at] + wanted[at + len(part) : at + len(part) + 1]
    return at >= 0 and not any(c.isalnum() for c in around) and "laptop" not in wanted
