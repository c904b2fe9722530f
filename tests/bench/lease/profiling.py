"""Where a step's time on a GPU goes, by kind of kernel, from a trace of torch's profiler. Pure but for `profile_step`.

A kernel belongs to the range (optimizer, head) in which the processor launched it, whatever thread did; else its name
tells. Idle is the time of the step in which no kernel ran.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.loop import TrainingLoop

OPTIMIZER, HEAD = "patron.optimizer", "_HeadLoss"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
NAMES = (  # kind, parts of kernels' names; the first that fits
    ("copies", ("memcpy", "memset")),
    ("attention", ("flex_attention", "flash", "fmha", "sdpa", "attention")),
    ("products", ("gemm", "nvjet", "cutlass", "cublas", "xmma", "triton_tem", "splitk", "gemv")),
)
MOST_KERNELS = 25


def kernel_kinds(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by kind, idle included, and the kernels that took most. Times in the trace are microseconds."""
    ranges: list[tuple[str, float, float]] = []
    launched_at: dict[int, float] = {}
    kernels: list[Mapping[str, Any]] = []
    for event in events:
        kind = event.get("cat")
        if kind in ON_DEVICE:
            kernels.append(event)
        elif kind in LAUNCHES:
            launched_at[event.get("args", {}).get("correlation", -1)] = event["ts"]
        elif event.get("name") in (OPTIMIZER, HEAD) and "dur" in event:
            ranges.append((event["name"], event["ts"], event["ts"] + event["dur"]))
    seconds: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        launch = launched_at.get(kernel.get("args", {}).get("correlation", -2))
        within = {name for name, start, end in ranges if launch is not None and start <= launch < end}
        seconds[kind_of(kernel["name"], within)] += kernel["dur"] / 1e6
        by_name[kernel["name"]] += kernel["dur"] / 1e6
    spans = [(kernel["ts"], kernel["ts"] + kernel["dur"]) for kernel in kernels]
    whole_s = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e6 if spans else 0.0
    most = sorted(by_name.items(), key=lambda pair: -pair[1])[:MOST_KERNELS]
    return {
        "seconds": dict(seconds) | {"idle": whole_s - busy_s(spans)},
        "step_s": whole_s,
        "num_kernels": len(kernels),
        "longest": [{"name": name[:160], "seconds": took} for name, took in most],
    }


def kind_of(name: str, within: set[str]) -> str:
    if OPTIMIZER in within:
        return "optimizer"
    lower = name.lower()
    kind = next((kind for kind, parts in NAMES if any(part in lower for part in parts)), "elementwise")
    if "softcap_cross_entropy" in lower or (HEAD in within and kind == "elementwise"):
        return "head"
    return "head products" if HEAD in within and kind == "products" else kind


def busy_s(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one of the spans, given in microseconds, lasts."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1e6


def profile_step(loop: TrainingLoop, trace_path: Path) -> dict[str, Any]:
    """One more step of the loop, traced; the trace is kept, compressed."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    plain_step = loop.optimizer.step

    def ranged_step(step: int) -> None:
        with record_function(OPTIMIZER):
            plain_step(step)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    loop.optimizer.step = ranged_step  # type: ignore[method-assign]
    try:
        with profile(activities=activities) as profiler:
            loop.run(loop.position.step + 1, only_steps=True)
    finally:
        loop.optimizer.step = plain_step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        content = path.read_bytes()
    trace_path.write_bytes(gzip.compress(content, compresslevel=5))
    events = json.loads(content)["traceEvents"]
    return kernel_kinds(events)
