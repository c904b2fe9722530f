"""Which attention kernel each kind of layer gets on this card: measured at the first start, forward and backward.

Shapes: B batch, H heads, T sequence, K head channels.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.contract.recipe import Recipe
from trainer.model.attention import blockwise_attention, window_block_mask
from trainer.model.attention_kernels import attend, candidates, needs_mask
from trainer.runtime.choosing import Choice, WrongAnswer, card_name, choose

MEASURED_ROWS = 8  # sequences; enough to fill a card, few enough to be quick
REPEAT = 5
WRONG_BY = 0.03  # of the norm of output and gradients, against float32; bfloat16 products stay below a hundredth

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def choose_attention(recipe: Recipe, device: torch.device, dtype: torch.dtype, rows: int) -> dict[int, Choice]:
    """For each window of the recipe. For a model that is compiled on a GPU."""
    T, K = recipe.sequence_len, recipe.head_dim
    shape = (min(rows, MEASURED_ROWS), recipe.num_heads, T, K)
    found = {}
    for window in sorted(set(recipe.windows)):
        measures = {
            name: functools.partial(_measured, name, shape, window, device, dtype) for name in candidates(window, T)
        }
        found[window] = choose(f"attention {T} x {K}, window {window}, {dtype}", measures, platform=card_name(device))
    return found


def _measured(name: str, shape: tuple[int, ...], window: int, device: torch.device, dtype: torch.dtype) -> float:
    mask = window_block_mask(shape[2], window, device) if needs_mask(name) else None

    def plain(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        return attend(name, q_BHTK, k_BHTK, v_BHTK, window, mask)

    torch.compiler.reset()  # it compiles one function, as it sees them, only so many times
    compiled = torch.compile(plain, dynamic=False, fullgraph=True)
    return measure(compiled, shape, window, device, dtype, torch.cuda.synchronize)


def measure(
    attention: Attend,
    shape: tuple[int, ...],
    window: int,
    device: torch.device,
    dtype: torch.dtype,
    synchronize: Callable[[], None],
) -> float:
    """Seconds of forward and backward, the best of some. Raises WrongAnswer unless both are what the formula says."""
    B, H, T, K = shape
    rng = torch.Generator(device).manual_seed(0)
    q_BHTK, k_BHTK, v_BHTK, weight_BHTK = (
        torch.randn(B, T, H, K, generator=rng, device=device).to(dtype).transpose(1, 2) for _ in range(4)
    )
    inputs = [x.requires_grad_() for x in (q_BHTK, k_BHTK, v_BHTK)]

    def once() -> list[Tensor]:
        y_BHTK = attention(*inputs)
        return [y_BHTK, *torch.autograd.grad(y_BHTK, inputs, weight_BHTK)]

    _check(once(), [x[:1].detach().float() for x in (*inputs, weight_BHTK)], window)
    seconds = []
    for _ in range(REPEAT):
        synchronize()
        start = time.perf_counter()
        once()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _check(found: list[Tensor], first_row: list[Tensor], window: int) -> None:
    """Output and gradients of the first sequence against the plain formula in float32."""
    q_BHTK, k_BHTK, v_BHTK, weight_BHTK = first_row
    inputs = [x.requires_grad_() for x in (q_BHTK, k_BHTK, v_BHTK)]
    y_BHTK = blockwise_attention(q_BHTK, k_BHTK, v_BHTK, min(window, q_BHTK.size(2)))
    right = [y_BHTK, *torch.autograd.grad(y_BHTK, inputs, weight_BHTK)]
    for name, ours, exact in zip(("output", "dq", "dk", "dv"), found, right, strict=True):
        exact = exact.detach()
        error = float((ours[:1].detach().float() - exact).norm() / exact.norm())
        if not error < WRONG_BY:  # NaN is wrong too
            raise WrongAnswer(f"{name} is off by {error:.3g} of its norm")
