"""The ways in which a GPU can do attention with a window, by name. Which one is taken is measured, never believed.

Shapes: B batch, H heads, T sequence, K head channels. A token sees itself and the `window` tokens before it. Each
raises where it is not to be had: another torch, a card that it was not made for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, int, Any], Tensor]  # q, k, v in BHTK, window, block mask


def _flash_attention_3() -> Callable[..., Any] | None:
    """Of the package that a user may have installed."""
    try:
        function: Callable[..., Any] = importlib.import_module("flash_attn_interface").flash_attn_func
    except (ImportError, OSError, AttributeError):
        return None
    return function


FLASH_ATTENTION_3 = _flash_attention_3()


def candidates(window: int, sequence_len: int) -> tuple[str, ...]:
    """Those that can do such a layer, the likeliest first."""
    names = ("sdpa", "cudnn", "flash") if window >= sequence_len else ("flash", "flex", "flex_tma")
    return names if FLASH_ATTENTION_3 is None else (*names, "fa3")


def needs_mask(kernel: str) -> bool:
    return kernel.startswith("flex")


def attend(kernel: str, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int, block_mask: Any) -> Tensor:
    return KERNELS[kernel](q_BHTK, k_BHTK, v_BHTK, window, block_mask)


def _sdpa(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, _window: int, _block_mask: Any) -> Tensor:
    """torch's own order of preference."""
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


def _cudnn(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, _window: int, _block_mask: Any) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


def _flash(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int, _block_mask: Any) -> Tensor:
    """FlashAttention-2 as torch ships it; its window is in no public function of all versions that we support."""
    T = q_BHTK.size(2)
    q_BTHK, k_BTHK, v_BTHK = (x.transpose(1, 2) for x in (q_BHTK, k_BHTK, v_BHTK))
    left, right = (None, None) if window >= T else (window, 0)
    y_BTHK: Tensor = torch.ops.aten._flash_attention_forward(
        q_BTHK, k_BTHK, v_BTHK, None, None, T, T, 0.0, True, False, window_size_left=left, window_size_right=right
    )[0]
    return y_BTHK.transpose(1, 2)


def _flex(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, _window: int, block_mask: Any) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    y_BHTK: Tensor = flex_attention(q_BHTK, k_BHTK, v_BHTK, block_mask=block_mask)
    return y_BHTK


def _flex_tma(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, _window: int, block_mask: Any) -> Tensor:
    """With Hopper's copy engine."""
    from torch.nn.attention.flex_attention import flex_attention

    options: Any = {"USE_TMA": True}
    y_BHTK: Tensor = flex_attention(q_BHTK, k_BHTK, v_BHTK, block_mask=block_mask, kernel_options=options)
    return y_BHTK


def _fa3(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, window: int, _block_mask: Any) -> Tensor:
    assert FLASH_ATTENTION_3 is not None
    q_BTHK, k_BTHK, v_BTHK = (x.transpose(1, 2) for x in (q_BHTK, k_BHTK, v_BHTK))
    sees = (-1, -1) if window >= q_BHTK.size(2) else (window, 0)
    found = FLASH_ATTENTION_3(q_BTHK, k_BTHK, v_BTHK, causal=True, window_size=sees)
    y_BTHK: Tensor = found[0] if isinstance(found, tuple) else found
    return y_BTHK.transpose(1, 2)


KERNELS: dict[str, Kernel] = {
    "sdpa": _sdpa,
    "cudnn": _cudnn,
    "flash": _flash,
    "flex": _flex,
    "flex_tma": _flex_tma,
    "fa3": _fa3,
}
