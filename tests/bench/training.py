"""Our trainer and upstream nanochat in turns on this machine, same configuration. Prints one JSON object.

    python tests/bench/training.py --vs PATH_TO_NANOCHAT              # depth 4, 512 tokens, vocabulary 32768, compiled
    python tests/bench/training.py --vs PATH --depth 6 --dtype bfloat16 --vs-dtype bfloat16 --steps 4

    python tests/bench/training.py --vs PATH --learning --seeds 3     # val_bpb of both after the same tokens

Each round is a process of each side, one after the other. The first round starts with empty compilation caches, the
others with what it left there: `first_start_s` and `second_start_s`, from a process's begin to the end of its first
step. Ours runs its real loop, events and loader included; upstream its model, optimizer and step as it ships them,
without FlashAttention-3. Without a checkout it says why nothing was measured, and exits 0.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder comes first on sys.path, and there this file hides our trainer
    sys.path[0] = str(Path(__file__).parents[2])

from tests.bench.jobs import ROOT, Job, checkout_problem, checkout_version, child_environ, run_job

# vocab_size: a multiple of 64, to which upstream pads
SPEED_SHAPE = {"depth": 4, "sequence_len": 512, "vocab_size": 32768, "batch_tokens": 8192}
LEARNING_SHAPE = {"depth": 2, "sequence_len": 256, "vocab_size": 4096, "batch_tokens": 4096}
WORSE_AT_MOST = 0.003  # bits per byte that our val_bpb may lie above upstream's


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    problem = None if args.only_ours else checkout_problem(args.vs)
    if problem:
        result: dict[str, Any] = {"skipped": problem}
    else:
        result = (compare_learning if args.learning else measure)(args)
    print(json.dumps(result, indent=1))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", type=Path, metavar="PATH", help="a checkout of github.com/karpathy/nanochat")
    parser.add_argument("--only-ours", action="store_true", help="measure our side alone")
    parser.add_argument("--learning", action="store_true", help="compare what both learn, not how fast")
    shape = parser.add_argument_group(f"configuration (default {SPEED_SHAPE}; with --learning {LEARNING_SHAPE})")
    for name in SPEED_SHAPE:
        shape.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--window-pattern", default="L")
    parser.add_argument("--device-batch-size", type=int, default=8, help="sequences in upstream's micro-batch")
    parser.add_argument(
        "--our-device-batch-size", type=int, help="sequences in ours; default: what our trainer takes by itself"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of our side")
    parser.add_argument("--vs-dtype", nargs="+", default=["bfloat16", "float32"], choices=("bfloat16", "float32"))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="both sides")
    parser.add_argument("--steps", type=int, default=6, help="measured in each round, after two that warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--eval-batches", type=int, default=0, help="evaluate as many of our micro-batches, timed too")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs, with --learning")
    parser.add_argument("--learn-steps", type=int, default=150)
    parser.add_argument(
        "--schedule", default="shared", choices=("shared", "own"), help="one recipe for both or each its own"
    )
    parser.add_argument("--launcher", default="", help="a command put before each process, such as 'taskset -c 0-3'")
    args = parser.parse_args(argv)
    for name, default in (LEARNING_SHAPE if args.learning else SPEED_SHAPE).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    return args


def jobs(args: argparse.Namespace) -> dict[str, Job]:
    ours = Job(
        side="ours",
        depth=args.depth,
        sequence_len=args.sequence_len,
        vocab_size=args.vocab_size,
        window_pattern=args.window_pattern,
        batch_tokens=args.batch_tokens,
        device_batch_size=args.our_device_batch_size,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
        steps=args.steps,
        eval_batches=args.eval_batches,
    )
    if args.only_ours:
        return {"ours": ours}
    theirs = replace(ours, side="upstream", checkout=str(args.vs.resolve()), device_batch_size=args.device_batch_size)
    return {"ours": ours} | {f"upstream_{dtype}": replace(theirs, dtype=dtype) for dtype in args.vs_dtype}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    launcher = shlex.split(args.launcher)
    machine = describe_machine(launcher)
    rounds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as caches:
        for number in range(args.rounds):
            for name, job in jobs(args).items():
                result = run_job(job, launcher=launcher, env=fresh_caches(Path(caches) / job.side))
                rounds.setdefault(name, []).append(result)
                print(f"round {number + 1}, {name}: {result['tokens_per_s']:,.0f} tokens/s", file=sys.stderr)
    sides = {name: summary(results, machine) for name, results in rounds.items()}
    median = {name: side["tokens_per_s"] for name, side in sides.items()}
    return {
        "ratio": {name: median["ours"] / median[name] for name in median if name != "ours"},
        **sides,
        "machine": machine,
        "versions": versions(args.vs),
        "command": shlex.join(["python", *sys.argv]),
    }


def compare_learning(args: argparse.Namespace) -> dict[str, Any]:
    """Pairs of runs from the same first weights over the same batches; differences are ours minus upstream's."""
    launcher = shlex.split(args.launcher)
    args.vs_dtype = [args.dtype]
    val_bpb: dict[str, list[float]] = {"ours": [], "upstream": []}
    for seed in range(args.seeds):
        for job in jobs(args).values():
            learning = replace(
                job,
                seed=seed,
                learn_steps=args.learn_steps,
                schedule=args.schedule,
                device_batch_size=args.device_batch_size,
            )
            val_bpb[job.side].append(run_job(learning, launcher=launcher)["val_bpb"])
            print(f"seed {seed}, {job.side}: val_bpb {val_bpb[job.side][-1]:.5f}", file=sys.stderr)
    result: dict[str, Any] = {"val_bpb": val_bpb}
    if not args.only_ours:
        differences = [ours - theirs for ours, theirs in zip(val_bpb["ours"], val_bpb["upstream"], strict=True)]
        result |= {
            "difference": statistics.mean(differences),
            "differences": differences,
            "spread_over_seeds": {side: statistics.pstdev(values) for side, values in val_bpb.items()},
            "no_worse": statistics.mean(differences) <= WORSE_AT_MOST,
        }
    shape = {name: getattr(args, name) for name in (*SPEED_SHAPE, "dtype", "compile", "learn_steps", "schedule")}
    return result | {"run": shape, "versions": versions(args.vs), "command": shlex.join(["python", *sys.argv])}


def fresh_caches(folder: Path) -> dict[str, str]:
    """Where a process finds what earlier ones compiled, and nothing else."""
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PATRON_CACHE": str(folder / "patron"),
    }


def summary(results: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, Any]:
    """One side over its rounds. The first round compiled from nothing."""
    first = results[0]
    step_s = statistics.median(second for result in results for second in result["step_s_all"])
    flops = first["flops_per_token"] * first["tokens_per_s"] * first["step_s"]
    peak = machine["gemm_flops"][first["dtype"]]
    later = results[1:]
    return {
        "tokens_per_s": first["tokens_per_s"] * first["step_s"] / step_s,
        "tokens_per_s_rounds": [result["tokens_per_s"] for result in results],
        "best_tokens_per_s": first["tokens_per_s"] * first["step_s"] / min(min(r["step_s_all"]) for r in results),
        "step_s": step_s,
        "share_of_gemm_peak": flops / step_s / peak if peak else None,
        "first_start_s": first["start_s"],
        "second_start_s": statistics.median(r["start_s"] for r in later) if later else None,
        "first_step_s": first["first_step_s"],
        "second_first_step_s": statistics.median(r["first_step_s"] for r in later) if later else None,
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
        **({"eval": results[-1]["eval"]} if "eval" in first else {}),
        **{key: first[key] for key in ("dtype", "compiled", "device_batch_size", "flops_per_token", "threads")},
    }


def describe_machine(launcher: list[str]) -> dict[str, Any]:
    """The processor or card, and the rate of its best matrix product in each dtype, measured now."""
    command = [*launcher, sys.executable, "-m", "trainer.runtime.measure", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=child_environ(), capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    cpu, cuda = measured["cpu"], measured["cuda"]
    if cuda:
        return {"device": cuda[0]["name"], "gemm_flops": {"bfloat16": cuda[0]["bf16_flops"], "float32": None}}
    return {
        "device": cpu["model"],
        "cores": cpu["cores"],
        "memory_bytes": cpu["memory_bytes"],
        "busy": cpu["busy"],
        "gemm_flops": {"bfloat16": cpu["bf16_flops"], "float32": cpu["f32_flops"]},
    }


def versions(checkout: Path | None) -> dict[str, str | None]:
    import importlib.metadata

    return {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "ours": checkout_version(ROOT),
        "upstream": checkout_version(checkout) if checkout else None,
    }


if __name__ == "__main__":
    main()
