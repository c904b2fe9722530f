"""Speed of generating text on this machine, with the cache and without, on an untrained model. Prints one JSON object.

python -m tests.bench.sample --depth 4 --context 256
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from trainer.contract.recipe import make_recipe
from trainer.contract.spec import TrainSpec
from trainer.model.cache import Cache
from trainer.model.gpt import build_model
from trainer.runtime.machine import Machine, find_machine
from trainer.sampling.generate import cast_matrices, next_logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--context", type=int, default=256, help="tokens before the one that is made")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="texts made at once")
    parser.add_argument("--tokens", type=int, default=24, help="measured, after two that warm up")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    print(json.dumps(measure(parser.parse_args())))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    spec = TrainSpec(depth=args.depth, dtype=args.dtype, device=args.device, compile=False)
    machine = find_machine(spec, lambda _code, _message: None, with_peak=False)
    sequence_len = args.context + args.tokens + 4
    recipe = make_recipe(
        args.depth, sequence_len=sequence_len, vocab_size=args.vocab_size, batch_tokens=sequence_len, num_steps=1
    )
    model = build_model(recipe, device=machine.device, compute_dtype=machine.dtype, seed=0)
    uncast_s = _median_s(machine, args.tokens, _with_cache(model, args.context, 1))
    cast_matrices(model)
    rows = {}
    for num_rows in args.rows:
        cached_s = _median_s(machine, args.tokens, _with_cache(model, args.context, num_rows))
        full_s = _median_s(machine, max(3, args.tokens // 8), _without_cache(model, args.context, num_rows))
        rows[num_rows] = {
            "tokens_per_s": num_rows / cached_s,
            "tokens_per_s_without_cache": num_rows / full_s,
            "ratio": full_s / cached_s,
        }
    return {
        "device": machine.device_name,
        "dtype": machine.dtype_name,
        "threads": torch.get_num_threads(),
        "depth": args.depth,
        "num_params": recipe.num_params.total,
        "context": args.context,
        "rows": rows,
        "tokens_per_s_amid_training": 1 / uncast_s,  # one row, matrices kept in float32
    }


def _with_cache(model: Any, context: int, num_rows: int) -> Callable[[], None]:
    """Make one token more, reading the one before."""
    cache = Cache(model.recipe, model.recipe.sequence_len)
    device = model.lm_head.weight.device
    next_logits(model, torch.zeros(1, context - 1, dtype=torch.int64, device=device), cache)
    cache.expand(num_rows)
    token_B1 = torch.zeros(num_rows, 1, dtype=torch.int64, device=device)

    def step() -> None:
        next_logits(model, token_B1, cache).argmax(dim=-1).tolist()

    return step


def _without_cache(model: Any, context: int, num_rows: int) -> Callable[[], None]:
    """The same, reading the whole context again."""
    tokens_BT = torch.zeros(num_rows, context, dtype=torch.int64, device=model.lm_head.weight.device)

    def step() -> None:
        next_logits(model, tokens_BT).argmax(dim=-1).tolist()

    return step


def _median_s(machine: Machine, count: int, step: Callable[[], None]) -> float:
    times = []
    for _ in range(count + 2):
        machine.synchronize()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
