"""What saves and events cost training on this machine, on random tokens. Prints one JSON object.

python -m tests.bench.checkpoint --depth 4 --sequence-len 512 --vocab-size 32768 [--compile] [--saves 4]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.checkpoint import Checkpointer, Snapshot
from trainer.checkpoint.saving import BackgroundSaver
from trainer.contract.events import EventWriter
from trainer.contract.recipe import make_recipe
from trainer.contract.spec import TrainSpec
from trainer.model.gpt import build_model
from trainer.model.head import head_loss
from trainer.optim.optimizer import Optimizer
from trainer.runtime.attention_choice import choose_attention
from trainer.runtime.machine import find_machine

PERIOD_S = 60.0  # one checkpoint a minute
METRICS = ("loss", "tokens_per_s", "step_s", "mfu", "lr_multiplier", "peak_memory_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--window-pattern", default="L")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences in a step")
    parser.add_argument("--steps", type=int, default=8, help="measured without a save, before and after those with")
    parser.add_argument("--saves", type=int, default=4, help="after one that makes the buffers")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", type=Path, help="where checkpoints go (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(measure(args, Path(folder))))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    batch_tokens = args.batch_size * args.sequence_len
    spec = TrainSpec(depth=args.depth, dtype=args.dtype, device=args.device, compile=args.compile)
    machine = find_machine(spec, lambda _code, message: print(message), with_peak=False)
    recipe = make_recipe(
        args.depth,
        sequence_len=args.sequence_len,
        vocab_size=args.vocab_size,
        window_pattern=args.window_pattern,
        batch_tokens=batch_tokens,
        num_steps=1000,
    )
    attention = None
    if machine.compile and machine.is_cuda:
        found = choose_attention(recipe, machine.device, machine.dtype, args.batch_size)
        attention = {window: choice.name for window, choice in found.items()}
    model = build_model(recipe, device=machine.device, compute_dtype=machine.dtype, seed=0, attention=attention)
    optimizer = Optimizer(model, recipe, compile=machine.compile)
    forward = torch.compile(model, dynamic=False) if machine.compile else model
    tokens_BT = torch.randint(0, args.vocab_size, (args.batch_size, args.sequence_len + 1), device=machine.device)
    kernel = machine.head_kernel
    saver = BackgroundSaver(Checkpointer(folder, keep=1))

    def step() -> float:
        """Seconds, with the wait for a copy that is still being read."""
        machine.synchronize()
        start = time.perf_counter()
        x_ND = forward(tokens_BT[:, :-1]).flatten(0, 1)
        loss = head_loss(x_ND, model.lm_head.weight, tokens_BT[:, 1:].flatten(), softcap=model.softcap, kernel=kernel)
        loss.backward()
        saver.wait_until_copied()
        optimizer.step(100)
        optimizer.zero_grad()
        machine.synchronize()
        return time.perf_counter() - start

    def snapshot(number: int) -> Snapshot:
        files = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return Snapshot(step=number, files=files, state={"val_bpb_here": None})

    for _ in range(3):
        step()
    before = [step() for _ in range(args.steps)]
    saves = [save_while_training(saver, snapshot(number), step) for number in range(1, args.saves + 2)]
    after = [step() for _ in range(args.steps)]
    saver.save(snapshot(args.saves + 2))
    assert saver.last is not None
    first, *usual = saves
    step_s = statistics.median(before + after)
    beside = [seconds for save in usual for seconds in save["steps"]]
    stall_s = statistics.median(save["stall_s"] for save in usual)
    extra_s = statistics.median(sum(save["steps"]) - len(save["steps"]) * step_s for save in usual)
    event_s = seconds_of_an_event(folder)
    return {
        "device": machine.device_name,
        "threads": torch.get_num_threads(),
        "dtype": machine.dtype_name,
        "compiled": machine.compile,
        "checkpoint_bytes": saver.last.num_bytes,
        "step_s": step_s,
        "step_s_before_and_after": [statistics.median(before), statistics.median(after)],
        "stall_s": stall_s,
        "stall_s_first": first["stall_s"],  # makes the buffers
        "write_s": statistics.median(save["seconds"] for save in usual),
        "write_s_when_waited_for": saver.last.seconds,
        "step_s_beside_a_write": statistics.median(beside),
        "steps_beside_a_write": len(beside),
        "slowdown_beside_a_write": sum(beside) / (len(beside) * step_s) - 1,
        "extra_s_per_save": extra_s,  # of the steps beside it, without the stall
        "stall_share_at_one_a_minute": stall_s / PERIOD_S,
        "whole_share_at_one_a_minute": (stall_s + max(0.0, extra_s)) / PERIOD_S,
        "event_s": event_s,
        "event_share_of_a_step": event_s / step_s,
    }


def save_while_training(saver: BackgroundSaver, snapshot: Snapshot, step: Callable[[], float]) -> dict[str, Any]:
    """Start a save and step until it is safe."""
    saver.start(snapshot)
    steps = []
    while saver.is_writing:
        steps.append(step())
    assert saver.last is not None
    assert saver.last.path.name == f"step-{snapshot.step:06d}"
    return {"steps": steps, "stall_s": saver.last.stall_s, "seconds": saver.last.seconds}


def seconds_of_an_event(folder: Path, repeat: int = 2000) -> float:
    """Of the calling thread, while the writing thread writes."""
    events = EventWriter(folder, "bench")
    metrics = {f"train/{name}": 0.123456789 * number for number, name in enumerate(METRICS, start=1)}
    start = time.perf_counter()
    for number in range(repeat):
        events.emit("metrics", step=number, metrics=metrics)
    seconds = time.perf_counter() - start
    events.close()
    return seconds / repeat


if __name__ == "__main__":
    main()
