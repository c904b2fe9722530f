"""The head's kernel for GPUs: softcap, cross entropy and gradient of a row of logits, in their place, in one kernel.

The formula is trainer.model.head's. A program owns a row: the first pass sums its exponentials, the second writes the
gradients over the logits, which the caches still hold. Nothing of size C x V is made beside them. Imports triton, so
only trainer.runtime.machine imports it, where there is a GPU.

Shapes: C tokens in a chunk, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.head import softcap_cross_entropy_

LARGEST_BLOCK = 4096  # logits of a row that a program holds at once
NUM_WARPS = 8
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _softcap_cross_entropy(
    logits, targets, losses, stride, num_logits, cap, factor, WITH_GRAD: tl.constexpr, BLOCK: tl.constexpr
):  # no other annotations: triton would look for what they name
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    target = tl.load(targets + row)
    sums = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, num_logits, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_logits
        z = tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)
        r = 1.0 / (1.0 + tl.exp(z * (2.0 / cap)))
        sums += tl.where(inside, tl.exp(r * (-2.0 * cap)), 0.0)
    total = tl.sum(sums, axis=0)
    r_target = 1.0 / (1.0 + tl.exp(tl.load(start + target).to(tl.float32) * (2.0 / cap)))
    tl.store(losses + row, tl.log(total) + 2.0 * cap * r_target)
    if WITH_GRAD:
        scale = 4.0 * factor / total
        for first in range(0, num_logits, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < num_logits
            z = tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)
            r = 1.0 / (1.0 + tl.exp(z * (2.0 / cap)))
            weight = tl.exp(r * (-2.0 * cap)) * scale - tl.where(columns == target, 4.0 * factor, 0.0)
            gradient = weight * (r - r * r)
            tl.store(start + columns, gradient.to(logits.dtype.element_ty), mask=inside)


def triton_kernel(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None) -> Tensor:
    """A `HeadKernel`; other dtypes and logits without a cap are left to the formula."""
    if softcap is None or logits_CV.dtype not in DTYPES:
        return softcap_cross_entropy_(logits_CV, targets_C, softcap, factor)
    assert logits_CV.stride(1) == 1, logits_CV.stride()
    num_rows, num_logits = logits_CV.shape
    loss_C = torch.empty(num_rows, dtype=torch.float32, device=logits_CV.device)
    _softcap_cross_entropy[(num_rows,)](
        logits_CV,
        targets_C.contiguous(),
        loss_C,
        logits_CV.stride(0),
        num_logits,
        softcap,
        factor or 0.0,
        WITH_GRAD=factor is not None,
        BLOCK=min(LARGEST_BLOCK, triton.next_power_of_2(num_logits)),
        num_warps=NUM_WARPS,
    )
    return loss_C
