"""The trainer on one CUDA GPU: MFU, tokens/s, peak memory, compilation and evaluation, as one JSON table.

    python -m tests.bench.gpu --out table.json                       # ours
    python -m tests.bench.gpu --vs PATH_TO_NANOCHAT --out table.json # and upstream without FlashAttention-3
    python -m tests.bench.gpu --smoke                                # toy sizes on the CPU: that all of it works

Depth 12 with sliding windows and depth 10 with full ones, 2048 tokens, bf16, compiled, at device batch 32 and 16, steps
of 2^19 tokens. It stops within --budget-s; rows that did not fit are "not measured" and say so, as are all of them
where there is no GPU. Never a guess.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.jobs import Job, JobError, checkout_problem, run_job
from tests.bench.training import describe_machine, fresh_caches, versions

EXPECTED_JOB_S = 75.0  # until one was timed: imports, compilation and a few steps on a datacentre GPU
FULL = Job(
    side="ours",
    depth=12,
    sequence_len=2048,
    window_pattern="SSSL",
    batch_tokens=2**19,
    device="cuda",
    steps=4,
    eval_batches=4,
)
TOY = Job(
    side="ours",
    depth=1,
    sequence_len=256,
    vocab_size=512,
    window_pattern="SSSL",
    batch_tokens=1024,
    device_batch_size=2,
    dtype="float32",
    compile=False,
    steps=1,
    eval_batches=1,
)

Run = Callable[[Job, float], dict[str, Any]]


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    started = time.monotonic()
    problems = {"ours": None if args.smoke else no_gpu(), "upstream": checkout_problem(args.vs)}
    machine = {"device": None} if problems["ours"] else describe_machine([])
    with tempfile.TemporaryDirectory() as caches:

        def run(job: Job, timeout_s: float) -> dict[str, Any]:
            return run_job(job, env=fresh_caches(Path(caches) / job.side), timeout_s=timeout_s)

        rows = measure_rows(jobs(args), run, end=started + args.budget_s, problems=problems)
    table = {
        "device": machine["device"],
        "smoke": args.smoke,
        "rows": rows,
        "comparison": compare(rows),
        "seconds": time.monotonic() - started,
        "budget_s": args.budget_s,
        "machine": machine,
        "versions": versions(args.vs),
        "command": shlex.join(["python", "-m", "tests.bench.gpu", *(sys.argv[1:] if argv is None else argv)]),
    }
    text = json.dumps(table, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", type=Path, metavar="PATH", help="a checkout of github.com/karpathy/nanochat")
    parser.add_argument("--budget-s", type=float, default=460.0, help="for the whole table (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--smoke", action="store_true", help="toy sizes on the CPU; its figures mean nothing")
    return parser.parse_args(argv)


def no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device on this machine"


def jobs(args: argparse.Namespace) -> list[Job]:
    """The most wanted first, since the budget may end before the list does."""
    if args.smoke:
        shapes = [TOY]
    else:
        d12, d10 = FULL, replace(FULL, depth=10, window_pattern="L")
        shapes = [replace(shape, device_batch_size=rows) for rows in (32, 16) for shape in (d12, d10)]
    checkout = str(args.vs.resolve()) if args.vs else None
    theirs = {"side": "upstream", "checkout": checkout, "eval_batches": 0}
    return [job for shape in shapes for job in (shape, replace(shape, **theirs))]


def measure_rows(
    jobs: list[Job],
    run: Run,
    *,
    end: float,
    problems: dict[str, str | None],
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """A row for every job, measured or with the reason why not. `problems`: why a side cannot be measured at all."""
    took_s: dict[str, float] = {}
    rows = []
    for job in jobs:
        start = clock()
        expected_s = took_s.get(job.side, EXPECTED_JOB_S)
        problem = problems["ours"] or problems[job.side]
        if problem is None and end - start < expected_s:
            problem = f"{max(0.0, end - start):.0f} s of the budget were left and such a run takes {expected_s:.0f} s"
        if problem is None:
            try:
                rows.append(describe(job) | {"status": "measured"} | figures(run(job, end - start)))
                took_s[job.side] = clock() - start
                continue
            except JobError as error:
                problem = str(error)
        rows.append(describe(job) | {"status": "not measured", "reason": problem})
    return rows


def describe(job: Job) -> dict[str, Any]:
    named = ("side", "depth", "sequence_len", "window_pattern", "device_batch_size", "batch_tokens", "dtype", "compile")
    return {name: getattr(job, name) for name in named}


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """MFU counts bf16's dense peak of the card, from the trainer's table."""
    flops_per_s = result["flops_per_token"] * result["tokens_per_s"]
    peak = result["peak_flops"]
    return {
        "mfu": flops_per_s / peak if peak else None,
        "tokens_per_s": result["tokens_per_s"],
        "step_s": result["step_s"],
        "compile_s": result["first_step_s"] - result["step_s"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "eval_ratio": result["eval"]["ratio"] if "eval" in result else None,
    }


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against upstream in each configuration where both were measured."""
    shape = ("depth", "window_pattern", "device_batch_size")
    measured = {(row["side"], *(row[key] for key in shape)): row for row in rows if row["status"] == "measured"}
    pairs = [
        (ours, measured[("upstream", *key)])
        for (side, *key), ours in measured.items()
        if side == "ours" and ("upstream", *key) in measured
    ]
    return [
        {
            **{key: ours[key] for key in shape},
            "speed_ratio": ours["tokens_per_s"] / theirs["tokens_per_s"],
            "peak_memory_ratio": ours["peak_memory_bytes"] / theirs["peak_memory_bytes"],
        }
        for ours, theirs in pairs
    ]


if __name__ == "__main__":
    main()
