"""What this machine is, and the rates of its best matrix product and copy: the ceilings of all that follows."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from typing import Any

from tests.bench.jobs import ROOT, checkout_version
from tests.bench.lease.setting import Report, Setting

PACKAGES = ("torch", "triton", "numpy", "tokenizers", "flash-attn", "flash-attn-4", "liger-kernel")


def describe(setting: Setting, report: Report) -> None:
    report(python=platform.python_version(), packages=packages(), commit=checkout_version(ROOT), gpu=nvidia_smi())

    import torch

    from trainer.runtime.measure import _gemm_peak

    report(
        torch_cuda=torch.version.cuda,
        device=torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.machine(),
    )
    if not setting.smoke and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device on this machine; rehearse with --smoke")
    sizes = (256,) if setting.smoke else (4096, 8192)
    report(bf16_flops=_gemm_peak("bfloat16", setting.device, sizes=sizes, budget_s=0.2 if setting.smoke else 2.0))
    report(copy_bytes_per_s=copy_rate(setting.device, 2**20 if setting.smoke else 2**32))


def packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def nvidia_smi() -> str | None:
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def copy_rate(device: str, num_bytes: int, repeat: int = 5) -> float:
    """Bytes read and written in a second by the best of some copies within the device."""
    import torch

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=device)
    target: Any = torch.empty_like(source)
    seconds = []
    for _ in range(repeat):
        synchronize()
        start = time.perf_counter()
        target.copy_(source)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * num_bytes / min(seconds)
