"""lm_head, softcap and cross entropy in one, chunk by chunk, so that the logits of a batch never exist at once.

At depth 4 this is three quarters of the arithmetic, and the plain formula keeps several N x V tensors alive. Here the
forward pass makes the gradients of a chunk in the place of its logits; the backward pass only scales them.

Shapes: N tokens, D model width, V vocabulary, C tokens in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**30}  # logits of one chunk, in the compute dtype

# (logits_CV, targets_C, softcap, factor) -> loss_C; logits_CV becomes factor times d loss / d logits, or is scratch
# where the factor is None
HeadKernel = Callable[[Tensor, Tensor, float | None, float | None], Tensor]


def softcap_cross_entropy_(
    logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None = None
) -> Tensor:
    """Loss of each token, and in the place of the logits `factor` times its gradient by them, rounded once.

    With r = sigmoid(-2 z / cap) the capped logit cap tanh(z / cap) is cap - 2 cap r and the cap's slope 4 r (1 - r);
    exp(-2 cap r) needs no maximum to subtract.
    """
    z_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    index_C1 = targets_C.unsqueeze(-1)
    if softcap is None:
        loss_C = z_CV.logsumexp(dim=-1) - z_CV.gather(-1, index_C1).squeeze(-1)
        if factor is not None:
            grad_CV = z_CV.softmax(dim=-1)
            grad_CV.scatter_add_(-1, index_C1, torch.full_like(index_C1, -1, dtype=grad_CV.dtype))
            logits_CV.copy_(grad_CV.mul_(factor))
        return loss_C
    r_CV = torch.sigmoid(z_CV * (-2 / softcap))
    p_CV = torch.exp(r_CV * (-2 * softcap))
    total_C1 = p_CV.sum(dim=-1, keepdim=True)
    r_C1 = r_CV.gather(-1, index_C1)
    if factor is not None:
        grad_C1 = 4 * factor * (p_CV.gather(-1, index_C1) / total_C1 - 1) * (r_C1 - r_C1.square())
        logits_CV.copy_((p_CV * (4 * factor / total_C1)) * (r_CV - r_CV.square()))
        logits_CV.scatter_(-1, index_C1, grad_C1.to(logits_CV.dtype))
    return (total_C1.log() + 2 * softcap * r_C1).squeeze(-1)


def chunk_size(num_tokens: int, vocab_size: int, dtype: torch.dtype, device_type: str) -> int:
    """Tokens in a chunk: a power of two, so that full batches make equal chunks and one compilation serves all."""
    limit = max(16, CHUNK_BYTES.get(device_type, CHUNK_BYTES["cuda"]) // (dtype.itemsize * vocab_size))
    return min(num_tokens, 1 << (limit.bit_length() - 1))


class _HeadLoss(torch.autograd.Function):
    """Mean loss over N tokens; the gradients are made here and wait for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None, kernel: HeadKernel
    ) -> Tensor:
        num_tokens, dtype = x_ND.size(0), x_ND.dtype
        weight_cast_VD = weight_VD.to(dtype)
        grad_x_ND, grad_weight_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        losses = []
        size = chunk_size(num_tokens, weight_VD.size(0), dtype, x_ND.device.type)
        buffer_CV = x_ND.new_empty(size, weight_VD.size(0))
        for x_CD, targets_C, grad_x_CD in zip(
            x_ND.split(size), targets_N.split(size), grad_x_ND.split(size), strict=True
        ):
            logits_CV = torch.mm(x_CD, weight_cast_VD.T, out=buffer_CV[: x_CD.size(0)])
            losses.append(kernel(logits_CV, targets_C, softcap, 1 / num_tokens))
            torch.mm(logits_CV, weight_cast_VD, out=grad_x_CD)  # the logits are gradients now
            if grad_weight_VD.dtype == dtype:
                grad_weight_VD.addmm_(logits_CV.T, x_CD)
            else:
                grad_weight_VD += logits_CV.T @ x_CD
        ctx.save_for_backward(grad_x_ND, grad_weight_VD)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_ND, grad_weight_VD = ctx.saved_tensors
        scale = grad_outputs[0]
        return grad_x_ND * scale.to(grad_x_ND.dtype), grad_weight_VD * scale, None, None, None


def head_loss(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float | None,
    kernel: HeadKernel = softcap_cross_entropy_,
) -> Tensor:
    """Mean cross entropy in nats, differentiable once by hidden states and weight."""
    loss: Tensor = _HeadLoss.apply(x_ND, weight_VD, targets_N, softcap, kernel)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float | None,
    kernel: HeadKernel = softcap_cross_entropy_,
) -> Tensor:
    """Loss of each token in nats, for evaluation."""
    weight_cast_VD = weight_VD.to(x_ND.dtype)
    size = chunk_size(x_ND.size(0), weight_VD.size(0), x_ND.dtype, x_ND.device.type)
    buffer_CV = x_ND.new_empty(size, weight_VD.size(0))
    losses = []
    for x_CD, targets_C in zip(x_ND.split(size), targets_N.split(size), strict=True):
        logits_CV = torch.mm(x_CD, weight_cast_VD.T, out=buffer_CV[: x_CD.size(0)])
        losses.append(kernel(logits_CV, targets_C, softcap, None))
    return torch.cat(losses)


def head_logits(x_ND: Tensor, weight_VD: Tensor, *, softcap: float | None) -> Tensor:
    """Logits N x V as probabilities are made of them: in float32 at least, capped."""
    logits_NV = x_ND @ weight_VD.to(x_ND.dtype).T
    z_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return z_NV if softcap is None else softcap * torch.tanh(z_NV / softcap)
