"""Speed of the trainer's step on this machine, on random tokens. Prints one JSON object.

python tests/bench/train_step.py --depth 4 --sequence-len 512 --batch-size 8 --micro-batches 2 [--compile]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from trainer import divergence
from trainer.head import chunk_loss_and_grad, head_loss
from trainer.machine import find_machine
from trainer.model import Model, build_model
from trainer.optim import Optimizer
from trainer.recipe import make_recipe
from trainer.spec import TrainSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--window-pattern", default="L")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences in a micro-batch")
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured, after two that warm up")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    print(json.dumps(measure(parser.parse_args())))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    batch_tokens = args.batch_size * args.micro_batches * args.sequence_len
    spec = TrainSpec(depth=args.depth, dtype=args.dtype, device=args.device, compile=args.compile)
    machine = find_machine(spec, lambda _code, message: print(message))
    recipe = make_recipe(
        args.depth,
        sequence_len=args.sequence_len,
        vocab_size=args.vocab_size,
        window_pattern=args.window_pattern,
        batch_tokens=batch_tokens,
        num_steps=1000,
    )
    model = build_model(
        recipe, device=machine.device, compute_dtype=machine.dtype, seed=0, flex=machine.compile and machine.is_cuda
    )
    optimizer = Optimizer(model, recipe, compile=machine.compile)
    forward = torch.compile(model, dynamic=False) if machine.compile else model
    head = torch.compile(chunk_loss_and_grad, dynamic=False) if machine.compile else chunk_loss_and_grad
    tokens_BT = torch.randint(0, args.vocab_size, (args.batch_size, args.sequence_len + 1), device=machine.device)

    def step(number: int) -> dict[str, float]:
        machine.synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        head_s = 0.0
        for _ in range(args.micro_batches):
            x_ND = forward(tokens_BT[:, :-1]).flatten(0, 1)
            before_head = time.perf_counter()
            loss = head_loss(
                x_ND, model.lm_head.weight, tokens_BT[:, 1:].flatten(), softcap=model.softcap, function=head
            )
            machine.synchronize()
            head_s += time.perf_counter() - before_head
            (loss / args.micro_batches).backward()
        machine.synchronize()
        before_optimizer = time.perf_counter()
        optimizer.step(number)
        optimizer.zero_grad()
        machine.synchronize()
        end = time.perf_counter()
        return {
            "step": end - start,
            "cpu": time.process_time() - cpu_start,
            "head": head_s,
            "optimizer": end - before_optimizer,
        }

    warm = [step(number) for number in range(2)]
    times = [step(number) for number in range(2, 2 + args.steps)]
    median = {key: statistics.median(t[key] for t in times) for key in times[0]}
    return {
        "device": machine.device_name,
        "threads": torch.get_num_threads(),
        "dtype": machine.dtype_name,
        "compiled": machine.compile,
        "batch_tokens": batch_tokens,
        "flops_per_token": recipe.flops_per_token,
        "step_s": median["step"],
        "tokens_per_s": batch_tokens / median["step"],
        "share_of_gemm_peak": machine.reached_flops_share(recipe.flops_per_token * batch_tokens, median["step"]),
        "gemm_peak_flops": machine.peak_flops,
        "step_cpu_s": median["cpu"],  # of all threads; with one thread, right on a busy machine too
        "head_s": median["head"],
        "optimizer_s": median["optimizer"],
        "first_step_s": warm[0]["step"],  # with the compilation, where there is one
        "peak_memory_bytes": machine.peak_memory_bytes(),
        **watching(model, optimizer),
    }


def watching(model: Model, optimizer: Optimizer) -> dict[str, float]:
    """Seconds that looking for NaN takes: of each step, of each save, and what reading all gradients would take."""
    params = divergence.probe_params(model)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    files = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    loss = torch.zeros((), device=params[0].device)
    looks: dict[str, Callable[[], object]] = {
        "loss_alone_s": loss.item,
        "loss_and_probe_s": lambda: torch.stack((loss, divergence.probe(params))).tolist(),
        "all_gradients_s": lambda: [divergence.is_finite(p.grad) for p in model.parameters() if p.grad is not None],
        "checkpoint_s": lambda: divergence.find_in_files(files),
    }
    return {name: _median_s(look) for name, look in looks.items()}


def _median_s(look: Callable[[], object], times: int = 9) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
