"""Validation in bits per byte: comparable over tokenizers, since bytes of text don't depend on how they were cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.head import HeadKernel, softcap_cross_entropy_, token_losses
from trainer.runtime.transfer import send
from trainer.runtime.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    val_bpb: float
    val_loss: float  # nats a token, special tokens included, like train/loss
    tokens: int
    seconds: float


def evaluate(
    forward: Callable[[Tensor], Tensor],
    head_weight: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes_V: Tensor,
    *,
    softcap: float | None,
    kernel: HeadKernel = softcap_cross_entropy_,
    batch_size: int,
    keep_graph: bool = False,
    world: World = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _tokens: None,
) -> EvalResult | None:
    """Validation loss over all ranks' batches, this rank's given; None when any was stopped between two of them.

    Special tokens, which have no bytes, count for val_loss and not for bits per byte. `keep_graph` runs `forward` in
    the gradient mode of training: a compiled model then reuses its training graph instead of being compiled again.
    Every batch is padded to `batch_size` rows: one shape, one compilation of `forward` and of `kernel`.
    """
    start = time.perf_counter()
    device = head_weight.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    counted_nats = torch.zeros((), dtype=torch.float64, device=device)
    num_bytes = torch.zeros((), dtype=torch.int64, device=device)
    weight_VD = head_weight.detach()
    tokens, stopped = 0, False
    for x_BT, y_BT in batches:
        if should_stop():
            stopped = True
            break
        missing = (0, 0, 0, batch_size - x_BT.size(0))
        x_BT, padded_N = (send(F.pad(part_BT, missing), device) for part_BT in (x_BT, y_BT))
        padded_N = padded_N.flatten()
        with torch.set_grad_enabled(keep_graph):
            x_ND = forward(x_BT).detach().flatten(0, 1)
        weight_VD = weight_VD.to(x_ND.dtype)  # cast once
        targets_N = padded_N[: y_BT.numel()]
        all_losses_N = token_losses(x_ND, weight_VD, padded_N, softcap=softcap, kernel=kernel)
        losses_N = all_losses_N[: len(targets_N)].double()
        bytes_N = token_bytes_V[targets_N]
        nats += losses_N.sum()
        counted_nats += (losses_N * (bytes_N > 0)).sum()
        num_bytes += bytes_N.sum()
        tokens += targets_N.numel()
        progress(tokens * world.size)
    total_nats, total_counted, total_bytes, total_tokens, num_stopped = world.sums(
        [nats.item(), counted_nats.item(), num_bytes.item(), tokens, stopped]
    )
    if num_stopped:
        return None
    if not total_tokens or not total_bytes:
        raise ValueError("the validation split has no batch with text; give more data")
    return EvalResult(
        val_bpb=total_counted / (math.log(2) * total_bytes),
        val_loss=total_nats / total_tokens,
        tokens=round(total_tokens),
        seconds=time.perf_counter() - start,
    )
