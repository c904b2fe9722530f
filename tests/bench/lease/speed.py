"""How fast a step is: MFU, tokens/s, memory, compilation, a profile by kind of kernel, and the forecast beside them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.gpu import figures
from tests.bench.jobs import Job, checkout_problem, run_job
from tests.bench.lease.setting import Report, Setting, Skip


def d12(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(), report, trace="trace-d12.json.gz")


def d12_full_windows(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(window_pattern="L"), report)


def d10(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(depth=10, window_pattern="L", device_batch_size=16), report)


def d20(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(depth=20, steps=3), report)


def d12_fp8(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(fp8=True), report)


def d20_fp8(setting: Setting, report: Report) -> None:
    ours(setting, setting.job(depth=20, steps=3, fp8=True), report)


def upstream_d12(setting: Setting, report: Report) -> None:
    upstream(setting, setting.job(), report)


def upstream_d12_full_windows(setting: Setting, report: Report) -> None:
    upstream(setting, setting.job(window_pattern="L"), report)


def ours(setting: Setting, job: Job, report: Report, trace: str | None = None) -> None:
    """The trainer's real loop in this process; what is known is reported before the next thing begins."""
    started = time.perf_counter()
    report(job=describe(job), forecast=forecast(job))

    from tests.bench.lease.profiling import profile_step
    from tests.bench.sides import run_ours

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        loop, result = run_ours(job, Path(folder), started, extra_steps=1)
        report(attention={block.attention.window: block.attention.kernel for block in loop.model.typed_blocks})
        report(**figures(result), start_s=result["start_s"], step_s_all=result["step_s_all"], device=result["device"])
        if trace:
            report(profile=profile_step(loop, setting.out / trace))


def upstream(setting: Setting, job: Job, report: Report) -> None:
    problem = checkout_problem(setting.vs)
    if problem:
        raise Skip(problem)
    report(job=describe(job))
    report(**figures(run_job(replace(job, side="upstream", checkout=str(setting.vs)))))


def describe(job: Job) -> dict[str, Any]:
    named = ("depth", "sequence_len", "window_pattern", "device_batch_size", "batch_tokens", "dtype", "compile", "fp8")
    return {name: getattr(job, name) for name in named}


def forecast(job: Job) -> dict[str, Any]:
    """What Patron would have said of it before: by the table of GPUs, or by the CPU's peak measured now."""
    import torch

    from patron_core.estimate import estimate
    from patron_core.prices import fallback_price
    from tests.bench.sides import make_spec
    from trainer.contract.devices import cpu_device, find_device

    card = find_device(torch.cuda.get_device_name(0)) if job.device == "cuda" else None
    device = card or cpu_device()
    price = fallback_price(card.name if card else "H100", spot=False)
    row = estimate(make_spec(job), device, price=price).to_dict()
    return {
        "device": row["device"],
        "step_s": row["step_s"],
        "mfu": row["mfu_expected"],
        "tokens_per_s": row["tokens_per_s"],
        "peak_memory_bytes": row["memory"]["peak_bytes"],
        "compile_s": row["phases_s"].get("process_and_compile"),
    }
