"""Keys and values of the tokens that a model has seen, so that the next token costs one token and not all of them.

The model's own forward pass takes a `Cache` where it is given one: there is no second formula for decoding. A layer
with a window keeps its window and the token itself, in a ring; which slot holds which token does not matter to
attention, since positions are in the keys.

Shapes: B batch, H heads, T new tokens, S slots, K head channels, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contract.recipe import Recipe
from trainer.model.attention import windowed_attention


class LayerCache:
    """One layer's keys and values. Tensors are made at the first use, as large as `num_slots` of what comes."""

    def __init__(self, window: int, capacity: int):
        self.window = window
        self.num_slots = min(window + 1, capacity)
        self._num_seen = 0
        self._keys_BHSK = self._values_BHSK = torch.empty(0)

    def attend(self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """Attention of the new tokens to what they may see, themselves included; they are kept."""
        if self._num_seen == 0:
            self._keys_BHSK, self._values_BHSK = (
                new.new_empty(*new.shape[:2], self.num_slots, new.size(3)) for new in (k_BHTK, v_BHTK)
            )
            self._keep(k_BHTK, v_BHTK)
            return windowed_attention(q_BHTK, k_BHTK, v_BHTK, self.window)
        if q_BHTK.size(2) != 1:
            raise ValueError(f"{q_BHTK.size(2)} tokens after the first {self._num_seen}; only one at a time can follow")
        self._keep(k_BHTK, v_BHTK)
        filled = min(self._num_seen, self.num_slots)
        return F.scaled_dot_product_attention(q_BHTK, self._keys_BHSK[:, :, :filled], self._values_BHSK[:, :, :filled])

    def expand(self, num_rows: int) -> None:
        self._keys_BHSK, self._values_BHSK = (
            kept.expand(num_rows, -1, -1, -1).contiguous() for kept in (self._keys_BHSK, self._values_BHSK)
        )

    def _keep(self, k_BHTK: Tensor, v_BHTK: Tensor) -> None:
        end = self._num_seen + k_BHTK.size(2)
        kept = min(k_BHTK.size(2), self.num_slots)
        slots_T = torch.arange(end - kept, end, device=k_BHTK.device) % self.num_slots
        self._keys_BHSK[:, :, slots_T] = k_BHTK[:, :, -kept:]
        self._values_BHSK[:, :, slots_T] = v_BHTK[:, :, -kept:]
        self._num_seen = end


class Cache:
    """What a model needs of the tokens before: first a whole prompt, then one token at a time, up to `capacity`.

    Raises ValueError for tokens past the capacity, or for one above the length that the model was trained at.
    """

    def __init__(self, recipe: Recipe, capacity: int):
        if not 0 < capacity <= recipe.sequence_len:
            raise ValueError(f"capacity {capacity} must be from 1 to sequence_len {recipe.sequence_len}")
        self.capacity = capacity
        self.num_seen = 0
        self.layers = [LayerCache(window, capacity) for window in recipe.windows]
        self._last_embedding_B1D: Tensor | None = None

    def advance(self, num_tokens: int) -> slice:
        """The positions of the next tokens, which are counted as seen."""
        start, self.num_seen = self.num_seen, self.num_seen + num_tokens
        if self.num_seen > self.capacity:
            raise ValueError(f"token {self.num_seen} does not fit a cache of {self.capacity}")
        return slice(start, self.num_seen)

    def mix_with_last(self, mix: Callable[[Tensor], Tensor], x_BTD: Tensor) -> Tensor:
        """Apply a `mix` in which each token needs the embedding of the one before it."""
        last_B1D, self._last_embedding_B1D = self._last_embedding_B1D, x_BTD[:, -1:]
        return mix(x_BTD) if last_B1D is None else mix(torch.cat([last_B1D, x_BTD], dim=1))[:, 1:]

    def expand(self, num_rows: int) -> None:
        """From one row to several that begin alike: a shared prompt is read once."""
        assert self._last_embedding_B1D is not None
        self._last_embedding_B1D = self._last_embedding_B1D.expand(num_rows, -1, -1)
        for layer in self.layers:
            layer.expand(num_rows)
