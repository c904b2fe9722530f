"""The model family: a decoder whose every feature has a switch, from today's nanochat down to a plain GPT-2-like one.

Built from a `Recipe` and nothing else. Matrices and lm_head are kept in float32 and cast where they are used;
embeddings are kept in the compute dtype. `forward` returns hidden states; lm_head, softcap and loss are in `head`.

Shapes: B batch, T sequence, D model width, H heads, K head channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.contract.recipe import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, Recipe
from trainer.model.attention import window_block_mask, windowed_attention
from trainer.model.attention_kernels import needs_mask
from trainer.model.fp8 import fp8_linear

if TYPE_CHECKING:
    from trainer.model.cache import Cache, LayerCache

ROPE_BASE = 100_000
SOFTCAP = 15.0
QK_SCALE = 1.2  # sharper attention, on queries and on keys


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


# Both hold bare weights; torch.nn's own fill them with something first, only for init_weights to do it again.


class Embedding(nn.Module):
    def __init__(self, vocab_size: int, dim: int, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim, dtype=dtype))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.weight)


class Linear(nn.Module):
    """No bias; the float32 weight is cast to the dtype of what it multiplies, or both to fp8 where one trains so."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs))
        self.fp8 = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fp8 and torch.is_grad_enabled():
            return fp8_linear(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    def __init__(self, recipe: Recipe, layer: int):
        super().__init__()
        self.num_heads, self.head_dim = recipe.num_heads, recipe.head_dim
        self.window = recipe.windows[layer]
        self.features = recipe.features
        self.kernel: str | None = None  # of trainer.model.attention_kernels, set where one was chosen
        self.block_mask: Any = None  # what flex attention needs
        self.query = Linear(recipe.dim, recipe.dim)
        self.key = Linear(recipe.dim, recipe.dim)
        self.value = Linear(recipe.dim, recipe.dim)
        self.out = Linear(recipe.dim, recipe.dim)
        has_gate = layer in recipe.value_embed_layers
        self.value_gate = Linear(VALUE_GATE_CHANNELS, recipe.num_heads) if has_gate else None

    def forward(
        self,
        x_BTD: Tensor,
        value_embed_BTD: Tensor | None,
        cos_TK: Tensor,
        sin_TK: Tensor,
        cache: LayerCache | None = None,
    ) -> Tensor:
        q_BTHK, k_BTHK, v_BTHK = (
            project(x_BTD).unflatten(-1, (self.num_heads, self.head_dim))
            for project in (self.query, self.key, self.value)
        )
        if self.value_gate is not None and value_embed_BTD is not None:
            gate_BTH = 3 * torch.sigmoid(self.value_gate(x_BTD[..., :VALUE_GATE_CHANNELS]))
            v_BTHK = v_BTHK + gate_BTH.unsqueeze(-1) * value_embed_BTD.unflatten(-1, (self.num_heads, self.head_dim))
        if self.features.rope:
            q_BTHK, k_BTHK = rotate(q_BTHK, cos_TK, sin_TK), rotate(k_BTHK, cos_TK, sin_TK)
        if self.features.qk_norm:
            q_BTHK, k_BTHK = rms_norm(q_BTHK) * QK_SCALE, rms_norm(k_BTHK) * QK_SCALE
        q_BHTK, k_BHTK, v_BHTK = q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2)
        if cache is None:
            y_BHTK = windowed_attention(q_BHTK, k_BHTK, v_BHTK, self.window, self.kernel, self.block_mask)
        else:
            y_BHTK = cache.attend(q_BHTK, k_BHTK, v_BHTK)
        out_BTD: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return out_BTD


def rotate(x_BTHK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotary positions: channel i turns with channel i + K/2. The tables hold K/2 channels."""
    low, high = x_BTHK.chunk(2, dim=-1)
    cos, sin = cos_TK.unsqueeze(1), sin_TK.unsqueeze(1)
    return torch.cat([low * cos + high * sin, high * cos - low * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, recipe: Recipe, layer: int):
        super().__init__()
        self.attention = Attention(recipe, layer)
        self.mlp_in = Linear(recipe.dim, 4 * recipe.dim)
        self.mlp_out = Linear(4 * recipe.dim, recipe.dim)
        self.relu2 = recipe.features.relu2

    def forward(
        self,
        x_BTD: Tensor,
        value_embed_BTD: Tensor | None,
        cos_TK: Tensor,
        sin_TK: Tensor,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(rms_norm(x_BTD), value_embed_BTD, cos_TK, sin_TK, cache)
        hidden = self.mlp_in(rms_norm(x_BTD))
        hidden = F.relu(hidden).square() if self.relu2 else F.gelu(hidden)
        out_BTD: Tensor = x_BTD + self.mlp_out(hidden)
        return out_BTD


class Model(nn.Module):
    """Token ids to hidden states. Weights are unset until `init_weights`; on the meta device it costs nothing."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, recipe: Recipe, *, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        features, dim, vocab_size = recipe.features, recipe.dim, recipe.vocab_size
        self.recipe, self.compute_dtype = recipe, compute_dtype
        self.wte = Embedding(vocab_size, dim, compute_dtype)
        self.positions = None if features.rope else nn.Parameter(torch.empty(recipe.sequence_len, dim))
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.value_embeds = nn.ModuleDict(
            {str(layer): Embedding(vocab_size, dim, compute_dtype) for layer in recipe.value_embed_layers}
        )
        self.lm_head = Linear(dim, vocab_size)
        residual = features.residual_scalars
        self.residual_scale = nn.Parameter(torch.empty(recipe.depth)) if residual else None
        self.x0_scale = nn.Parameter(torch.empty(recipe.depth)) if residual else None
        self.smear_gate = Linear(SMEAR_GATE_CHANNELS, 1) if features.smear else None
        self.smear_scale = nn.Parameter(torch.empty(1)) if features.smear else None
        self.backout_scale = nn.Parameter(torch.empty(1)) if features.backout else None
        table = torch.empty(recipe.sequence_len, recipe.head_dim // 2, dtype=compute_dtype)
        self.register_buffer("cos_TK", table, persistent=False)
        self.register_buffer("sin_TK", table.clone(), persistent=False)

    @property
    def typed_blocks(self) -> list[Block]:
        """The blocks, for type checkers: a ModuleList has forgotten what it holds."""
        return cast("list[Block]", list(self.blocks))

    @property
    def softcap(self) -> float | None:
        return SOFTCAP if self.recipe.features.softcap else None

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states. With a cache the tokens go on from those that it has seen, and it sees them too."""
        places = slice(tokens_BT.size(1)) if cache is None else cache.advance(tokens_BT.size(1))
        x_BTD = self.wte(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[places].to(x_BTD.dtype)
        x_BTD = rms_norm(x_BTD)
        x_BTD = self._smear(x_BTD) if cache is None else cache.mix_with_last(self._smear, x_BTD)
        cos_TK, sin_TK = self.cos_TK[places], self.sin_TK[places]
        x0_BTD = middle_BTD = x_BTD
        for layer, block in enumerate(self.blocks):
            if self.residual_scale is not None and self.x0_scale is not None:
                x_BTD = self.residual_scale[layer] * x_BTD + self.x0_scale[layer] * x0_BTD
            name = str(layer)
            value_embed_BTD = self.value_embeds[name](tokens_BT) if name in self.value_embeds else None
            layer_cache = None if cache is None else cache.layers[layer]
            x_BTD = block(x_BTD, value_embed_BTD, cos_TK, sin_TK, layer_cache)
            if layer == len(self.blocks) // 2:
                middle_BTD = x_BTD
        if self.backout_scale is not None:
            x_BTD = x_BTD - self.backout_scale.to(x_BTD.dtype) * middle_BTD
        return rms_norm(x_BTD)

    def _smear(self, x_BTD: Tensor) -> Tensor:
        """Mix a little of the token before into each token: bigrams at next to no cost."""
        if self.smear_gate is None or self.smear_scale is None:
            return x_BTD
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTD[:, 1:, :SMEAR_GATE_CHANNELS]))
        mixed = x_BTD[:, 1:] + self.smear_scale.to(x_BTD.dtype) * gate_BT1 * x_BTD[:, :-1]
        return torch.cat([x_BTD[:, :1], mixed], dim=1)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every parameter and table. The same seed gives the same weights on the same kind of device."""
        device = self.lm_head.weight.device
        rng = torch.Generator(device).manual_seed(seed)
        bound = math.sqrt(3 / self.recipe.dim)  # uniform with a standard deviation of 1 / sqrt(D)
        self.wte.weight.normal_(0, 0.8, generator=rng)
        self.lm_head.weight.normal_(0, 0.001, generator=rng)
        for block in self.typed_blocks:
            attention = block.attention
            for projection in (attention.query, attention.key, attention.value):
                projection.weight.uniform_(-bound, bound, generator=rng)
            block.mlp_in.weight.uniform_(-0.4 * bound, 0.4 * bound, generator=rng)
            attention.out.weight.zero_()
            block.mlp_out.weight.zero_()
            if attention.value_gate is not None:  # slightly above neutral
                attention.value_gate.weight.uniform_(0, 0.02, generator=rng)
        for embedding in cast("list[Embedding]", list(self.value_embeds.values())):
            embedding.weight.uniform_(-bound, bound, generator=rng)
        if self.positions is not None:  # half of wte's, as in GPT-2
            self.positions.normal_(0, 0.4, generator=rng)
        if self.residual_scale is not None and self.x0_scale is not None:
            progress = torch.arange(self.recipe.depth, device=device) / max(self.recipe.depth - 1, 1)
            self.residual_scale.copy_(1.15 - 0.10 * progress)
            self.x0_scale.copy_(0.20 - 0.15 * progress)
        if self.smear_gate is not None and self.smear_scale is not None:
            self.smear_gate.weight.uniform_(0, 0.02, generator=rng)
            self.smear_scale.zero_()
        if self.backout_scale is not None:
            self.backout_scale.fill_(0.2)
        self.fill_rope_tables()

    def fill_rope_tables(self) -> None:
        device = self.cos_TK.device
        channels = torch.arange(0, self.recipe.head_dim, 2, dtype=torch.float32, device=device)
        speeds = ROPE_BASE ** -(channels / self.recipe.head_dim)
        angles_TK = torch.outer(torch.arange(self.recipe.sequence_len, dtype=torch.float32, device=device), speeds)
        self.cos_TK.copy_(angles_TK.cos())
        self.sin_TK.copy_(angles_TK.sin())


def build_model(
    recipe: Recipe,
    *,
    device: torch.device,
    compute_dtype: torch.dtype,
    seed: int,
    attention: Mapping[int, str | None] | None = None,
    fp8: bool = False,
) -> Model:
    """An initialised model on the device. `attention`: a kernel for each window; for models to be compiled on a GPU.
    `fp8`: the products of the blocks' large matrices, while it trains."""
    with device:
        model = Model(recipe, compute_dtype=compute_dtype)
    model.init_weights(seed)
    kernels = {window: kernel for window, kernel in (attention or {}).items() if kernel is not None}
    masks = {
        window: window_block_mask(recipe.sequence_len, window, device)
        for window, kernel in kernels.items()
        if needs_mask(kernel)
    }
    for block in model.typed_blocks:
        own = block.attention
        own.kernel, own.block_mask = kernels.get(own.window), masks.get(own.window)
        for linear in (own.query, own.key, own.value, own.out, block.mlp_in, block.mlp_out):
            linear.fp8 = fp8
    return model


def count_model_params(model: Model) -> dict[str, int]:
    """Parameters really present, by the groups of `recipe.ParamCounts`."""
    counts = dict.fromkeys(("wte", "lm_head", "value_embeds", "matrices", "scalars", "positions"), 0)
    for name, parameter in model.named_parameters():
        counts[param_group(name)] += parameter.numel()
    return counts


def param_group(name: str) -> str:
    """The group of `recipe.ParamCounts` that a parameter belongs to."""
    root = name.split(".")[0]
    return {"blocks": "matrices"}.get(
        root, root if root in ("wte", "lm_head", "value_embeds", "positions") else "scalars"
    )
