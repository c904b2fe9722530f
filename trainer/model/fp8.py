"""The blocks' matrix products in fp8, each tensor with one scale of its own (its largest magnitude), as a switch.

The three products of a linear layer multiply 8-bit numbers and add in more: activations and weights are e4m3 (448 at
most, 3 bits of mantissa), what comes back through the layer is e5m2 (57,344 at most, 2 bits), since gradients spread
further. `torch._scaled_mm` wants its first factor in rows and its second in columns, sizes that 16 divides, and gives
bfloat16 back. Weights stay float32 where they live; evaluations and sampling, which need no gradient, stay bfloat16.

Shapes: N rows (tokens), I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
LEAST_MAGNITUDE = 1e-12  # of a tensor that is all zeros, as the first gradients of some layers are


def fp8_linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight_OI.T` with its gradients, for x of any number of dimensions [..., I] in bfloat16."""
    x_NI = x.flatten(0, -2)
    y_NO: Tensor = _Linear.apply(x_NI, weight_OI)  # type: ignore[no-untyped-call]
    return y_NO.reshape(*x.shape[:-1], -1)


def quantized(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """In fp8, and the factor (float32) that it has to be multiplied by."""
    largest = torch.finfo(dtype).max
    scale = tensor.abs().amax().float().clamp(min=LEAST_MAGNITUDE) / largest
    # what rounding puts above the largest would become NaN
    return (tensor.float() / scale).clamp(-largest, largest).to(dtype), scale


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x8_NI, x_scale = quantized(x_NI, FORWARD)
        w8_OI, w_scale = quantized(weight_OI, FORWARD)
        ctx.save_for_backward(x8_NI, x_scale, w8_OI, w_scale)
        # adding in less than float32 is quicker, and good enough where errors don't add up over the steps
        return _product(x8_NI, w8_OI.t(), x_scale, w_scale, x_NI.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        (grad_NO,) = grads
        x8_NI, x_scale, w8_OI, w_scale = ctx.saved_tensors
        g8_NO, g_scale = quantized(grad_NO, BACKWARD)
        grad_x_NI = _product(g8_NO, _in_columns(w8_OI), g_scale, w_scale, grad_NO.dtype)
        grad_weight_OI = _product(g8_NO.t().contiguous(), _in_columns(x8_NI), g_scale, x_scale, grad_NO.dtype)
        return grad_x_NI, grad_weight_OI.float()


def _in_columns(matrix: Tensor) -> Tensor:
    return matrix.t().contiguous().t()


def _product(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, *, fast: bool = False
) -> Tensor:
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast)
