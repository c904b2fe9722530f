"""What trains: the table of GPUs (trainer.gpus), and a measurement of the machine this runs on.

    python -m trainer.devices --json     measure this machine (about 3 s) and print one JSON object
    python -m trainer.devices --table    print the table and measure nothing

Standard library at import, so that an estimator can read it without torch; the measuring functions import it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.gpus import DEVICES, Device, find_device

__all__ = [
    "DEVICES",
    "Device",
    "cpu_device",
    "describe_cpu",
    "find_device",
    "local_device",
    "measure",
    "measure_cpu_peak",
    "peak_flops",
]


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
    """What a run started here uses: the first GPU of the profile that the table knows, else the CPU."""
    for gpu in (profile or {}).get("cuda", ()):
        device = find_device(gpu["name"])
        if device is not None:
            return device
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


def measure_cpu_peak(dtype: str, *, budget_s: float = 1.2) -> float:
    """FLOP/s of the best square matrix product on this CPU; a machine without fast bf16 stops at a small size."""
    return _gemm_peak(dtype, "cpu", sizes=(256, 512, 1024, 2048), budget_s=budget_s)


def _gemm_peak(dtype: str, where: str, *, sizes: tuple[int, ...], budget_s: float) -> float:
    """The best over sizes. A size is tried while the one before it (an eighth of the work) left time for it.

    The best call counts, not the mean: on a busy machine most calls wait for a core.
    """
    import torch

    end = time.perf_counter() + budget_s
    best, quickest_s = 0.0, 0.0
    for i, size in enumerate(sizes):
        left = end - time.perf_counter()
        if 8 * quickest_s > left:
            break
        a = torch.randn(size, size, device=where).to(getattr(torch, dtype))
        b = torch.randn(size, size, device=where).to(getattr(torch, dtype))
        quickest_s = _seconds(a, b, where)  # also warms up
        share_end = time.perf_counter() + left * 2.0 ** (i - len(sizes))
        while time.perf_counter() < share_end:
            quickest_s = min(quickest_s, _seconds(a, b, where))
        best = max(best, 2.0 * size**3 / quickest_s)
    return best


def _seconds(a: Any, b: Any, where: str) -> float:
    import torch

    if where == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    a @ b
    if where == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure() -> dict[str, Any]:
    """This machine's profile: what the core caches and hands to `local_device`."""
    import torch

    start = time.perf_counter()
    f32 = measure_cpu_peak("float32")
    bf16 = measure_cpu_peak("bfloat16")
    cuda: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        known = find_device(torch.cuda.get_device_name(i))
        cuda.append(
            {
                "name": torch.cuda.get_device_name(i),
                "device": known.name if known else None,
                "memory_bytes": torch.cuda.get_device_properties(i).total_memory,
            }
        )
    if cuda:
        cuda[0]["bf16_flops"] = _gemm_peak("bfloat16", "cuda", sizes=(4096, 8192), budget_s=1.0)
    cpu = describe_cpu() | {"threads": torch.get_num_threads(), "f32_flops": f32, "bf16_flops": bf16}
    cpu["busy"] = os.getloadavg()[0] > cpu["cores"]  # others were running: the peaks may be too low
    return {"cpu": cpu, "cuda": cuda, "torch": torch.__version__, "measured_s": time.perf_counter() - start}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.devices", description="Measure this machine.")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of indented JSON")
    parser.add_argument("--table", action="store_true", help="print the table of GPUs and measure nothing")
    args = parser.parse_args(argv)
    value = [asdict(device) for device in DEVICES.values()] if args.table else measure()
    print(json.dumps(value, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
