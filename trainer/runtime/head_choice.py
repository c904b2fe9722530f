"""The head's kernel on this card: Triton's or the formula as torch compiles it, whichever was quicker and right."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.contract.exits import first_line
from trainer.model.head import HeadKernel, softcap_cross_entropy_
from trainer.runtime.choosing import WrongAnswer, card_name, choose

SHAPE = (8192, 32768)  # rows and logits: half a gigabyte, far more than any cache holds
CHECKED_ROWS = 16
REPEAT = 5
SOFTCAP = 15.0
WRONG_BY = {torch.bfloat16: 0.01, torch.float32: 1e-4}  # of the norm of the gradients, and of the losses


def load_cuda_kernel(
    device: torch.device,
    dtype: torch.dtype,
    compile: bool,
    warn: Callable[[str, str], None],
    *,
    shape: tuple[int, int] = SHAPE,
) -> HeadKernel:
    """`warn` is told why Triton's kernel cannot be had, where it cannot."""
    formula = torch.compile(softcap_cross_entropy_, dynamic=False) if compile else softcap_cross_entropy_
    kernels: dict[str, HeadKernel] = {"compiled formula" if compile else "formula": formula}
    failed: dict[str, str] = {}
    try:
        from trainer.model.head_triton import triton_kernel

        kernels["triton"] = triton_kernel
    except Exception as error:  # no triton, or one that does not start here
        failed["triton"] = first_line(error)
    measures = {name: functools.partial(measure, kernel, device, dtype, shape) for name, kernel in kernels.items()}
    choice = choose(f"head, {shape[1]} logits, {dtype}", measures, platform=card_name(device))
    failed |= choice.failed
    if "triton" in failed:
        warn("no_triton_kernel", f"the head's Triton kernel does not work here ({failed['triton']}): steps take longer")
    chosen = formula if choice.name is None else kernels[choice.name]

    def kernel(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None) -> Tensor:
        return (formula if softcap is None else chosen)(logits_CV, targets_C, softcap, factor)

    return kernel


def measure(kernel: HeadKernel, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> float:
    """Seconds for the losses and gradients of so many rows, the best of some. Raises WrongAnswer for other ones."""
    rows, num_logits = shape
    rng = torch.Generator(device).manual_seed(0)
    logits_CV = torch.randn(rows, num_logits, generator=rng, device=device, dtype=dtype) * 8
    targets_C = torch.randint(0, num_logits, (rows,), generator=rng, device=device)
    exact_CV = logits_CV[:CHECKED_ROWS].double()
    exact_C = softcap_cross_entropy_(exact_CV, targets_C[:CHECKED_ROWS], SOFTCAP, 1.0)
    losses_C = kernel(logits_CV, targets_C, SOFTCAP, 1.0)
    for name, ours, exact in (("loss", losses_C, exact_C), ("gradient", logits_CV, exact_CV)):
        error = float((ours[:CHECKED_ROWS].double() - exact).norm() / exact.norm())
        if not error < WRONG_BY[dtype]:  # NaN is wrong too
            raise WrongAnswer(f"{name} is off by {error:.3g} of its norm")
    seconds = []
    for _ in range(REPEAT):
        _wait(device)
        start = time.perf_counter()
        kernel(logits_CV, targets_C, SOFTCAP, 1.0)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
