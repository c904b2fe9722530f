"""Kernels against their formulas in float64: on a GPU as they are compiled, on a CPU in Triton's interpreter.

    python -m tests.bench.lease.kernels                        # on the GPU
    TRITON_INTERPRET=1 python -m tests.bench.lease.kernels     # on the CPU, at smaller sizes
    python -m tests.bench.lease.kernels --compile              # for Hopper, on a machine without a GPU

One JSON object: for each case the largest error of losses (absolute, nats) and gradients (relative), or what the
compiler made.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import torch
from torch import Tensor

from trainer.model.head import HeadKernel, softcap_cross_entropy_

HOPPER = 90
SOFTCAP = 15.0
LOSS_ERROR = 2e-5  # nats; the logits are the same, rounded alike
# of the element: one rounding to bfloat16, which the interpreter cuts off where a GPU rounds to the nearest
GRADIENT_ERROR = {
    ("float32", "cpu"): 1e-5,
    ("float32", "cuda"): 1e-5,
    ("bfloat16", "cpu"): 2**-7 + 1e-5,
    ("bfloat16", "cuda"): 2**-8 + 1e-5,
}
CPU_SIZES = ((5, 7), (3, 97), (4, 4096), (3, 4097), (2, 9001))  # rows, vocabulary: odd ones and whole blocks
GPU_SIZES = (*CPU_SIZES, (512, 32768), (300, 50257))


def head_errors(kernel: HeadKernel, device: str) -> list[dict[str, Any]]:
    sizes = GPU_SIZES if device == "cuda" else CPU_SIZES
    cases = itertools.product(sizes, ("float32", "bfloat16"), (True, False))
    return [head_case(kernel, device, rows, vocab, dtype, grad) for (rows, vocab), dtype, grad in cases]


def head_case(kernel: HeadKernel, device: str, rows: int, vocab: int, dtype: str, grad: bool) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(rows * vocab)
    wide_CV = (8 * torch.randn(rows + 1, vocab, generator=rng)).to(getattr(torch, dtype))
    wide_CV[0, :3] = torch.tensor([1e4, -1e4, 0.0])  # far beyond the cap
    targets_C = torch.randint(0, vocab, (rows,), generator=rng)
    targets_C[-1] = vocab - 1
    exact_CV = wide_CV[:rows].double()
    factor = 1 / rows if grad else None
    exact_C = softcap_cross_entropy_(exact_CV, targets_C, SOFTCAP, factor)
    ours_CV = wide_CV.to(device)
    loss_C = kernel(ours_CV[:rows], targets_C.to(device), SOFTCAP, factor)
    case = {"rows": rows, "vocab_size": vocab, "dtype": dtype, "with_gradient": grad}
    case["loss_error"] = float((loss_C.cpu().double() - exact_C).abs().max())
    case["row_after_kept"] = torch.equal(ours_CV[rows].cpu(), wide_CV[rows])
    if grad:
        case["gradient_error"] = _relative_error(ours_CV[:rows].cpu().double(), exact_CV)
    good = case["loss_error"] < LOSS_ERROR and case["row_after_kept"]
    case["ok"] = good and case.get("gradient_error", 0.0) < GRADIENT_ERROR[dtype, device]
    return case


def _relative_error(ours: Tensor, exact: Tensor) -> float:
    """Of the worst element; one that vanishes counts against a millionth of the largest."""
    return float(((ours - exact).abs() / (exact.abs() + 1e-6 * exact.abs().max())).max())


def compiled_for(capability: int) -> list[dict[str, Any]]:
    """The head's kernel as machine code of a card that need not be here, with what a launch knows of its arguments."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from trainer.model.head_triton import LARGEST_BLOCK, NUM_WARPS, _softcap_cross_entropy

    found = []
    for logits, grad in itertools.product(("*bf16", "*fp32"), (True, False)):
        kinds = (logits, "*i64", "*fp32", "i32", "i32", "fp32", "fp32", "constexpr", "constexpr")
        names = _softcap_cross_entropy.arg_names
        source = ASTSource(
            fn=_softcap_cross_entropy,
            signature=dict(zip(names, kinds, strict=True)),
            constexprs={(7,): grad, (8,): LARGEST_BLOCK},
            attrs={(argument,): [["tt.divisibility", 16]] for argument in range(5)},
        )
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": NUM_WARPS})
        wide = made.asm["ptx"].count("ld.global.v4")
        found.append({"logits": logits, "with_gradient": grad, "bytes": len(made.asm["cubin"]), "16_byte_loads": wide})
    return found


def main() -> None:
    from trainer.model.head_triton import triton_kernel

    if "--compile" in sys.argv[1:]:
        print(json.dumps({"capability": HOPPER, "compiled": compiled_for(HOPPER)}))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(json.dumps({"device": device, "cases": head_errors(triton_kernel, device)}))


if __name__ == "__main__":
    main()
