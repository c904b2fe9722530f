"""Causal attention with a window: one function, the fastest exact way for the device and the window at hand.

Shapes: B batch, H heads, T sequence, K head channels, Q queries of a block, S keys that they see. A token
sees itself and the `window` tokens before it; a window of T or more is full causal attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contract.blocks import MAX_SCORED_WINDOW, query_blocks
from trainer.model.attention_kernels import attend


def windowed_attention(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int, kernel: str | None = None, block_mask: Any = None
) -> Tensor:
    """Attention output, same shape as the queries. `kernel`: one that was chosen for a compiled model on this GPU."""
    T = q_BHTK.size(2)
    is_full = window >= T
    if kernel is not None and (block_mask is None or block_mask.seq_lengths == (T, k_BHTK.size(2))):
        return attend(kernel, q_BHTK, k_BHTK, v_BHTK, window, block_mask)
    if is_full and (q_BHTK.is_cuda or T > MAX_SCORED_WINDOW):
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    return blockwise_attention(q_BHTK, k_BHTK, v_BHTK, min(window, T))


def blockwise_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int) -> Tensor:
    """Block after block of queries against the keys that any of them can see.

    What no query of a block sees is never multiplied, where a T x T mask would only hide it. And on a CPU SDPA's own
    kernel takes more than twice as long as two plain products and a softmax between them.
    """
    T, K = q_BHTK.shape[2:]
    position_T = torch.arange(T, device=q_BHTK.device)
    outputs = []
    for start, end, first_key in query_blocks(T, window):
        queries, keys = slice(start, end), slice(first_key, end)
        scores_BHQS = q_BHTK[:, :, queries] @ k_BHTK[:, :, keys].mT
        scores_BHQS = scores_BHQS.to(torch.promote_types(q_BHTK.dtype, torch.float32)) * K**-0.5
        distance_QS = position_T[queries].unsqueeze(1) - position_T[keys]
        hidden_QS = (distance_QS < 0) | (distance_QS > window)
        weights_BHQS = scores_BHQS.masked_fill(hidden_QS, -math.inf).softmax(dim=-1)
        outputs.append(weights_BHQS.to(v_BHTK.dtype) @ v_BHTK[:, :, keys])
    return torch.cat(outputs, dim=2)


def window_block_mask(sequence_len: int, window: int, device: torch.device) -> Any:
    """The same window for flex attention, which skips hidden tiles. Make it once: that takes longer than using it."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, sequence_len, sequence_len, device=device)
