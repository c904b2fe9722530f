"""Causal attention with a window: one function, the fastest exact way for the device and the window at hand.

Shapes: B batch, H heads, T sequence, K head channels, W window, N blocks. A token sees itself and the `window` tokens
before it; a window of T or more is full causal attention.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def windowed_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int, block_mask: Any = None) -> Tensor:
    """Attention output, same shape as the queries. A block mask means flex attention: for compiled models on CUDA."""
    if window >= q_BHTK.size(2):
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    if block_mask is not None and block_mask.seq_lengths == (q_BHTK.size(2), k_BHTK.size(2)):
        from torch.nn.attention.flex_attention import flex_attention

        y_BHTK: Tensor = flex_attention(q_BHTK, k_BHTK, v_BHTK, block_mask=block_mask)
        return y_BHTK
    return _blockwise_attention(q_BHTK, k_BHTK, v_BHTK, window)


def _blockwise_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int) -> Tensor:
    """Each block of W queries sees its own and the block before, so the cost is 2 W a token whatever T is.

    A T x T mask costs T a token, since SDPA does not skip what a mask hides.
    """
    B, H, T, K = q_BHTK.shape
    num_blocks = -(-T // window)
    padding = num_blocks * window - T
    if padding:
        q_BHTK, k_BHTK, v_BHTK = (F.pad(t, (0, 0, 0, padding)) for t in (q_BHTK, k_BHTK, v_BHTK))
    q_BNHWK, k_BNHWK, v_BNHWK = (
        t.reshape(B, H, num_blocks, window, K).transpose(1, 2) for t in (q_BHTK, k_BHTK, v_BHTK)
    )
    first = F.scaled_dot_product_attention(q_BNHWK[:, 0], k_BNHWK[:, 0], v_BNHWK[:, 0], is_causal=True)
    keys, values = (torch.cat([t[:, :-1], t[:, 1:]], dim=3).flatten(0, 1) for t in (k_BNHWK, v_BNHWK))
    others = F.scaled_dot_product_attention(
        q_BNHWK[:, 1:].flatten(0, 1), keys, values, attn_mask=_band_mask(window, q_BHTK.device)
    )
    y_BNHWK = torch.cat([first.unsqueeze(1), others.unflatten(0, (B, num_blocks - 1))], dim=1)
    y_BHTK = y_BNHWK.transpose(1, 2).reshape(B, H, num_blocks * window, K)
    return y_BHTK[:, :, :T] if padding else y_BHTK


def _band_mask(window: int, device: torch.device) -> Tensor:
    """Query r of a block sees keys r .. r + W of the 2 W before and in it."""
    offset = torch.arange(2 * window, device=device) - torch.arange(window, device=device).unsqueeze(1)
    return (offset >= 0) & (offset <= window)


def window_block_mask(sequence_len: int, window: int, device: torch.device) -> Any:
    """The same window for flex attention, which skips hidden tiles. Make it once: that takes longer than using it."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(visible, None, None, sequence_len, sequence_len, device=device)
