"""A measurement of the machine this runs on.

python -m trainer.runtime.measure --json     measure this machine (about 3 s) and print one JSON object
python -m trainer.runtime.measure --table    print the table of GPUs and measure nothing
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from trainer.contract.devices import describe_cpu, find_device
from trainer.contract.gpus import DEVICES


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
        cuda[0]["f32_flops"] = _gemm_peak("float32", "cuda", sizes=(2048, 4096), budget_s=1.0)
    cpu = describe_cpu() | {"threads": torch.get_num_threads(), "f32_flops": f32, "bf16_flops": bf16}
    cpu["busy"] = os.getloadavg()[0] > cpu["cores"]  # others were running: the peaks may be too low
    return {"cpu": cpu, "cuda": cuda, "torch": torch.__version__, "measured_s": time.perf_counter() - start}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.runtime.measure", description="Measure this machine.")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of indented JSON")
    parser.add_argument("--table", action="store_true", help="print the table of GPUs and measure nothing")
    args = parser.parse_args(argv)
    value = [asdict(device) for device in DEVICES.values()] if args.table else measure()
    print(json.dumps(value, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
