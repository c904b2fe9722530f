"""Where the head's time goes on a CPU: its products and its kernel, beside the plain formula. Prints one JSON object.

python -m tests.bench.head --depth 4 --tokens 8192 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch

from trainer.contract.devices import describe_cpu
from trainer.contract.recipe import make_recipe
from trainer.model.head import chunk_size, head_loss, softcap_cross_entropy_
from trainer.model.head_cpu import load_cpu_kernel
from trainer.runtime.machine import keep_freed_memory

SOFTCAP = 15.0


def best_s(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    kernel = load_cpu_kernel(lambda _code, message: print(message, file=sys.stderr))
    dtype, V, N = getattr(torch, args.dtype), args.vocab_size, args.tokens
    D = make_recipe(args.depth, vocab_size=V).dim
    C = chunk_size(N, V, dtype, "cpu")
    x_ND, weight_VD = torch.randn(N, D).to(dtype).requires_grad_(), torch.randn(V, D, requires_grad=True)
    targets_N, cast_VD = torch.randint(0, V, (N,)), weight_VD.detach().to(dtype)
    x_CD, targets_C, buffer_CV = x_ND.detach()[:C], targets_N[:C], torch.empty(C, V, dtype=dtype)

    def whole() -> None:
        head_loss(x_ND, weight_VD, targets_N, softcap=SOFTCAP, kernel=kernel).backward()
        x_ND.grad = weight_VD.grad = None

    parts = {
        "logits_s": lambda: torch.mm(x_CD, cast_VD.T, out=buffer_CV),
        "kernel_s": lambda: kernel(buffer_CV.zero_(), targets_C, SOFTCAP, 1 / N),
        "formula_s": lambda: softcap_cross_entropy_(buffer_CV.zero_(), targets_C, SOFTCAP, 1 / N),
        "grad_x_s": lambda: buffer_CV @ cast_VD,
        "grad_weight_s": lambda: buffer_CV.T @ x_CD,
    }
    result = {name: best_s(part, args.repeat) * N / C for name, part in parts.items()}
    result |= {"head_s": best_s(whole, args.repeat), "chunk_tokens": C, "threads": torch.get_num_threads()}
    print(json.dumps(vars(args) | result | {"device": describe_cpu()["model"]}))


if __name__ == "__main__":
    main()
