"""What trains: the table of GPUs (trainer.contract.gpus), and this machine's CPU as one more device.

`python -m trainer.runtime.measure` measures this machine. Standard library only.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.contract.datasheet import SHEETS, find_device, measured_device
from trainer.contract.gpus import DEVICES, Device

__all__ = [
    "DEVICES",
    "KNOWN_GPUS",
    "Device",
    "cpu_device",
    "describe_cpu",
    "find_device",
    "local_device",
    "peak_flops",
]


KNOWN_GPUS = (*DEVICES, *(sheet.name for sheet in SHEETS))  # those that can be rented first


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Peak FLOP/s of a GPU by torch's name for it; None when the table does not know it."""
    device = find_device(device_name)
    if device is None:
        return None
    return device.bf16_flops if dtype in ("bfloat16", "float16") else device.f32_flops


# Shares of the measured GEMM peak that a whole eager training step reaches on a CPU. Depth 1 and 2 were measured (4096
# ids, 256 tokens, bf16 without AMX); depth 4 reached 35 % there, and 12 to 17 % of an AMX core's far higher peak.
_CPU_MFU = ((1, 0.22), (2, 0.26), (4, 0.32), (12, 0.35))


def cpu_device(profile: Mapping[str, Any] | None = None) -> Device:
    """This machine's CPU from a measured profile; without one, a guess from its core count, said to be one."""
    cpu = dict(profile["cpu"]) if profile else describe_cpu()
    measured = "f32_flops" in cpu
    cores = int(cpu["cores"])
    native_bf16 = bool(cpu.get("native_bf16", False))
    f32_flops = float(cpu["f32_flops"]) if measured else 60e9 * cores
    return Device(
        name="cpu",
        accelerator=None,
        memory_bytes=int(cpu["memory_bytes"]),
        bf16_flops=float(cpu["bf16_flops"]) if measured else f32_flops * (2 if native_bf16 else 1),
        f32_flops=f32_flops,
        bytes_per_s=20e9,
        mfu=_CPU_MFU,
        mfu_batch_tokens=4096,
        mfu_spread=0.45 if measured else 0.60,
        mfu_source="short runs of this trainer on a 2-core machine" if measured else "a guess of 60 GFLOP/s a core",
        cores=cores,
        measured=measured,
        native_bf16=native_bf16,
    )


def local_device(profile: Mapping[str, Any] | None = None) -> Device:
    """What a run started here uses: the first GPU of the profile that is known or was measured, else the CPU."""
    for gpu in (profile or {}).get("cuda", ()):
        device = find_device(gpu["name"])
        if device is not None:
            return device
        if gpu.get("bf16_flops") and gpu.get("f32_flops") and gpu.get("memory_bytes"):
            peaks = {key: gpu[key] for key in ("memory_bytes", "bf16_flops", "f32_flops")}
            return measured_device(str(gpu["name"]), **peaks)
    return cpu_device(profile)


def describe_cpu() -> dict[str, Any]:
    """What can be known without running anything: model, cores this process may use, memory it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_word("/sys/fs/cgroup/memory.max")
    if limit.isdigit():
        memory_bytes = min(memory_bytes, int(limit))
    quota = _first_word("/sys/fs/cgroup/cpu.max", words=2).split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = max(1, min(cores, int(quota[0]) // int(quota[1])))
    flags = _cpuinfo("flags").split()
    return {
        "model": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "memory_bytes": memory_bytes,
        "native_bf16": "amx_bf16" in flags or "avx512_bf16" in flags,
    }


def _first_word(path: str, words: int = 1) -> str:
    try:
        return " ".join(Path(path).read_text().split()[:words])
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    """The value of a key for the first core; empty where there is no such file or key."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
