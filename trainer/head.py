"""lm_head, softcap and cross entropy in one, chunk by chunk, so that the logits of a batch never exist at once.

At depth 4 this is three quarters of the arithmetic, and the plain formula keeps several N x V tensors alive. Here the
forward pass makes the gradients of a chunk while its logits are at hand; the backward pass only scales them.

Shapes: N tokens, D model width, V vocabulary, C tokens in a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}  # float32 logits of one chunk

LOG2_E = math.log2(math.e)

ChunkFunction = Callable[[Tensor, Tensor, float | None], tuple[Tensor, Tensor]]
LossFunction = Callable[[Tensor, Tensor, float | None], Tensor]


def chunk_loss_and_grad(logits_CV: Tensor, targets_C: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Loss of each token, and its gradient by the raw logits in the logits' own dtype.

    Works in place on what it made itself: uncompiled, each pass over C x V values costs as much as the arithmetic.
    """
    z_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    index_C1 = targets_C.unsqueeze(-1)
    if softcap is None:
        target_z_C = z_CV.gather(-1, index_C1).squeeze(-1)
        log_total_C = z_CV.logsumexp(dim=-1)
        grad_CV = (z_CV - log_total_C.unsqueeze(-1)).exp_()
        slope_CV = None
    else:
        t_CV = (z_CV / softcap).tanh_()
        target_z_C = softcap * t_CV.gather(-1, index_C1).squeeze(-1)
        grad_CV = (softcap * t_CV).exp_()  # at most e^15: no maximum to subtract
        total_C = grad_CV.sum(dim=-1)
        log_total_C = total_C.log()
        grad_CV.div_(total_C.unsqueeze(-1))
        slope_CV = t_CV.square_().neg_().add_(1)  # of the softcap: 1 - tanh^2
    grad_CV.scatter_add_(-1, index_C1, torch.full_like(index_C1, -1, dtype=grad_CV.dtype))
    if slope_CV is not None:
        grad_CV.mul_(slope_CV)
    return log_total_C - target_z_C, grad_CV.to(logits_CV.dtype)


def chunk_size(num_tokens: int, vocab_size: int, device_type: str) -> int:
    """Tokens in a chunk: a power of two, so that full batches make equal chunks and one compilation serves all."""
    limit = max(16, CHUNK_BYTES.get(device_type, CHUNK_BYTES["cuda"]) // (4 * vocab_size))
    return min(num_tokens, 1 << (limit.bit_length() - 1))


class _HeadLoss(torch.autograd.Function):
    """Mean loss over N tokens; the gradients are made here and wait for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None, function: ChunkFunction
    ) -> Tensor:
        weight_cast_VD = weight_VD.to(x_ND.dtype)
        num_tokens = x_ND.size(0)
        grad_x_ND, grad_weight_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        total = torch.zeros((), dtype=torch.promote_types(x_ND.dtype, torch.float32), device=x_ND.device)
        size = chunk_size(num_tokens, weight_VD.size(0), x_ND.device.type)
        for x_CD, targets_C, grad_x_CD in zip(
            x_ND.split(size), targets_N.split(size), grad_x_ND.split(size), strict=True
        ):
            loss_C, grad_CV = function(x_CD @ weight_cast_VD.T, targets_C, softcap)
            total += loss_C.sum()
            torch.mm(grad_CV, weight_cast_VD, out=grad_x_CD)
            if grad_weight_VD.dtype == x_ND.dtype:
                grad_weight_VD.addmm_(grad_CV.T, x_CD)
            else:
                grad_weight_VD += grad_CV.T @ x_CD
        ctx.save_for_backward(grad_x_ND, grad_weight_VD)
        ctx.num_tokens = num_tokens
        return total / num_tokens

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_ND, grad_weight_VD = ctx.saved_tensors
        scale = grad_outputs[0] / ctx.num_tokens
        return grad_x_ND * scale.to(grad_x_ND.dtype), grad_weight_VD * scale, None, None, None


def head_loss(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float | None,
    function: ChunkFunction = chunk_loss_and_grad,
) -> Tensor:
    """Mean cross entropy in nats, differentiable once by hidden states and weight."""
    loss: Tensor = _HeadLoss.apply(x_ND, weight_VD, targets_N, softcap, function)
    return loss


def chunk_losses(logits_CV: Tensor, targets_C: Tensor, softcap: float | None) -> Tensor:
    """Loss of each token, without gradients.

    tanh(u) as 2 sigmoid(2u) - 1 and exp as exp2: the same to rounding, and a third of the time that torch's tanh and
    exp take on a CPU. The -1 of each cancels in the difference.
    """
    z_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    index_C1 = targets_C.unsqueeze(-1)
    if softcap is None:
        return z_CV.logsumexp(dim=-1) - z_CV.gather(-1, index_C1).squeeze(-1)
    sigmoid_CV = (z_CV * (2 / softcap)).sigmoid_()
    target_z_C = 2 * softcap * sigmoid_CV.gather(-1, index_C1).squeeze(-1)
    total_C = sigmoid_CV.mul_(2 * softcap * LOG2_E).exp2_().sum(dim=-1)  # at most V e^30: no maximum to subtract
    return total_C.log() - target_z_C


@torch.no_grad()
def token_losses(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float | None,
    function: LossFunction = chunk_losses,
) -> Tensor:
    """Loss of each token in nats, without gradients: for evaluation. A weight in x's dtype is not cast each time."""
    weight_cast_VD = weight_VD.to(x_ND.dtype)
    size = chunk_size(x_ND.size(0), weight_VD.size(0), x_ND.device.type)
    return torch.cat(
        [
            function(x_CD @ weight_cast_VD.T, targets_C, softcap)
            for x_CD, targets_C in zip(x_ND.split(size), targets_N.split(size), strict=True)
        ]
    )


def head_logits(x_ND: Tensor, weight_VD: Tensor, *, softcap: float | None) -> Tensor:
    """Logits N x V as probabilities are made of them: in float32 at least, capped."""
    logits_NV = x_ND @ weight_VD.to(x_ND.dtype).T
    z_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return z_NV if softcap is None else softcap * torch.tanh(z_NV / softcap)
