"""One number, depth, into everything else: shape, parameters, FLOPs, horizon, batch, learning rates, schedules.

Pure arithmetic on the standard library. The model is built from a `Recipe` and the estimator reads one, so they cannot
disagree; tests count the real model's parameters on the meta device and compare.

Formulas: karpathy/nanochat (July 2026) unless a line names another source. Where ours differs, the line says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

HEAD_DIM = 128
ASPECT_RATIO = 64  # dim per layer
REFERENCE_DEPTH = 12  # the depth at which batch, learning rates and weight decay were tuned
REFERENCE_BATCH_TOKENS = 2**19
SHORT_WINDOW_TILE = 128
VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


@dataclass(frozen=True, kw_only=True)
class Features:
    """The family's switches. All on is today's nanochat; all off is a plain GPT-2-like decoder."""

    rope: bool = True  # else learned position embeddings
    qk_norm: bool = True
    relu2: bool = True  # else GELU
    value_embeds: bool = True
    residual_scalars: bool = True
    smear: bool = True
    backout: bool = True
    softcap: bool = True
    muon: bool = True  # else AdamW for the matrices too

    @classmethod
    def plain(cls) -> Features:
        return cls(**{f.name: False for f in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class ParamCounts:
    """Parameters by group. People mix up three totals, so all three are here."""

    wte: int
    lm_head: int
    value_embeds: int
    matrices: int  # attention, MLP and value gates
    scalars: int  # residual scalars, smear, backout
    positions: int  # learned positions; 0 with RoPE

    @property
    def total(self) -> int:
        """Everything that is trained and saved."""
        return self.wte + self.lm_head + self.value_embeds + self.matrices + self.scalars + self.positions

    @property
    def without_value_embeds(self) -> int:
        """The older convention, 12 L dim^2 + 2 V dim, which most published sizes use."""
        return self.total - self.value_embeds

    @property
    def scaling(self) -> int:
        """Matrices + lm_head: drives the token horizon and the scaling law."""
        return self.matrices + self.lm_head


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rates, batch and width scaling already applied."""

    matrices: float
    wte: float
    value_embeds: float
    lm_head: float
    residual: float
    x0: float
    smear: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate, Muon momentum and weight decay as functions of the step.

    Ours differs in one point: warm-up is at most a tenth of the run, so that very short runs reach the peak.
    """

    num_steps: int
    warmup_steps: int
    warmdown_ratio: float
    final_lr_frac: float
    weight_decay: float

    @property
    def warmdown_steps(self) -> int:
        return round(self.warmdown_ratio * self.num_steps)

    def lr_multiplier(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step <= self.num_steps - self.warmdown_steps:
            return 1.0
        progress = (self.num_steps - step) / self.warmdown_steps
        return progress + (1.0 - progress) * self.final_lr_frac

    def muon_momentum(self, step: int) -> float:
        start = self.num_steps - self.warmdown_steps
        if step < 400:
            return 0.85 + (0.97 - 0.85) * step / 400
        if step >= start:
            return 0.97 + (0.90 - 0.97) * (step - start) / max(1, self.warmdown_steps)
        return 0.97

    def muon_weight_decay(self, step: int) -> float:
        return self.weight_decay * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that follows from a depth and its overrides. Build one with `make_recipe`."""

    depth: int
    dim: int
    num_heads: int
    head_dim: int
    sequence_len: int
    vocab_size: int
    windows: tuple[int, ...]  # tokens before it that a token sees in each layer
    value_embed_layers: tuple[int, ...]
    features: Features = field(default_factory=Features)
    num_params: ParamCounts
    flops_per_token: int  # forward + backward
    horizon_tokens: int
    batch_tokens: int
    num_steps: int
    learning_rates: LearningRates
    schedule: Schedule

    @property
    def train_tokens(self) -> int:
        """Tokens really trained on: whole steps, so at most `horizon_tokens`."""
        return self.num_steps * self.batch_tokens

    @property
    def train_flops(self) -> int:
        return self.flops_per_token * self.train_tokens


def short_window(sequence_len: int) -> int:
    """A quarter of the context, rounded up to a whole attention tile (2048 -> 512)."""
    return math.ceil(math.ceil(sequence_len / 4) / SHORT_WINDOW_TILE) * SHORT_WINDOW_TILE


def layer_windows(depth: int, sequence_len: int, pattern: str) -> tuple[int, ...]:
    """Window per layer: the pattern (S short, L long) tiled over depth; the last layer is always long."""
    if not pattern or set(pattern) - {"S", "L"}:
        raise ValueError(f"window_pattern {pattern!r} must be made of S and L, for instance SSSL or L")
    size = {"S": min(short_window(sequence_len), sequence_len), "L": sequence_len}
    windows = [size[pattern[i % len(pattern)]] for i in range(depth)]
    windows[-1] = sequence_len
    return tuple(windows)


def count_params(
    depth: int, dim: int, num_heads: int, vocab_size: int, sequence_len: int, features: Features
) -> ParamCounts:
    value_layers = len(value_layer_indices(depth, features))
    return ParamCounts(
        wte=vocab_size * dim,
        lm_head=vocab_size * dim,
        value_embeds=value_layers * vocab_size * dim,
        matrices=12 * depth * dim * dim + value_layers * VALUE_GATE_CHANNELS * num_heads,
        scalars=(2 * depth if features.residual_scalars else 0)
        + (SMEAR_GATE_CHANNELS + 1 if features.smear else 0)
        + (1 if features.backout else 0),
        positions=0 if features.rope else sequence_len * dim,
    )


def value_layer_indices(depth: int, features: Features) -> tuple[int, ...]:
    """Every second layer has value embeddings, counted so that the last layer has them."""
    return tuple(i for i in range(depth) if i % 2 == (depth - 1) % 2) if features.value_embeds else ()


def count_flops_per_token(num_params: ParamCounts, dim: int, windows: tuple[int, ...], features: Features) -> int:
    """Forward + backward: 6 for each matmul weight, 12 dim window for attention (PaLM appendix B; no causal half)."""
    matmul_weights = num_params.matrices + num_params.lm_head + (SMEAR_GATE_CHANNELS if features.smear else 0)
    return 6 * matmul_weights + sum(12 * dim * window for window in windows)


def model_dim(depth: int) -> int:
    """Width: 64 a layer, rounded up to whole heads of 128."""
    return math.ceil(ASPECT_RATIO * depth / HEAD_DIM) * HEAD_DIM


def batch_for_horizon(horizon_tokens: float, reference_tokens: float) -> int:
    """Power-of-two batch in tokens: B = 2^19 (D / D_ref)^0.383 (Power Lines, arXiv 2505.13738)."""
    return int(2 ** round(math.log2(REFERENCE_BATCH_TOKENS * (horizon_tokens / reference_tokens) ** 0.383)))


def make_recipe(
    depth: int,
    *,
    sequence_len: int = 2048,
    vocab_size: int = 32768,
    window_pattern: str = "SSSL",
    dim: int | None = None,
    head_dim: int = HEAD_DIM,
    ratio: float = 12.0,
    horizon_tokens: int | None = None,
    batch_tokens: int | None = None,
    num_steps: int | None = None,
    warmup_steps: int = 40,
    warmdown_ratio: float = 0.65,
    final_lr_frac: float = 0.05,
    weight_decay: float = 0.28,
    lr_scale: float = 1.0,
    learning_rates: Mapping[str, float] | None = None,
    features: Features = Features(),
) -> Recipe:
    """The recipe of a depth; every value can be overridden.

    `num_steps` beats `horizon_tokens`, which beats `ratio` (tokens per scaling parameter). Whichever is used drives
    weight decay too, so that a shortened run decays as much in all as a full one (T_epoch, arXiv 2405.13698).
    `learning_rates` replaces final values by group name. Raises ValueError naming the value that cannot work.
    """
    if depth < 1:
        raise ValueError(f"depth {depth} must be at least 1")
    dim = model_dim(depth) if dim is None else dim
    if dim % head_dim:
        raise ValueError(f"dim {dim} must be a multiple of head_dim {head_dim}")
    if features.smear and dim < SMEAR_GATE_CHANNELS:
        raise ValueError(f"dim {dim} must be at least {SMEAR_GATE_CHANNELS}, or the feature smear off")
    num_heads = dim // head_dim
    windows = layer_windows(depth, sequence_len, window_pattern)
    num_params = count_params(depth, dim, num_heads, vocab_size, sequence_len, features)

    reference_dim = model_dim(REFERENCE_DEPTH)
    reference_params = count_params(
        REFERENCE_DEPTH, reference_dim, reference_dim // HEAD_DIM, vocab_size, sequence_len, features
    )
    reference_tokens = ratio * reference_params.scaling
    target_tokens = ratio * num_params.scaling if horizon_tokens is None else horizon_tokens
    if batch_tokens is None:
        batch_tokens = max(sequence_len, batch_for_horizon(target_tokens, reference_tokens))
    if batch_tokens % sequence_len:
        raise ValueError(f"batch_tokens {batch_tokens} must be a multiple of sequence_len {sequence_len}")
    if num_steps is None:
        num_steps = int(target_tokens) // batch_tokens
    else:
        target_tokens = num_steps * batch_tokens
    if num_steps < 1:
        raise ValueError(f"horizon of {int(target_tokens)} tokens is less than one batch of {batch_tokens}")

    return Recipe(
        depth=depth,
        dim=dim,
        num_heads=num_heads,
        head_dim=head_dim,
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        windows=windows,
        value_embed_layers=value_layer_indices(depth, features),
        features=features,
        num_params=num_params,
        flops_per_token=count_flops_per_token(num_params, dim, windows, features),
        horizon_tokens=int(target_tokens),
        batch_tokens=batch_tokens,
        num_steps=num_steps,
        learning_rates=_learning_rates(dim, batch_tokens, lr_scale, learning_rates or {}, muon=features.muon),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=min(warmup_steps, num_steps // 10),
            warmdown_ratio=warmdown_ratio,
            final_lr_frac=final_lr_frac,
            weight_decay=weight_decay
            * math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)
            * (reference_tokens / target_tokens),
        ),
    )


def _learning_rates(
    dim: int, batch_tokens: int, lr_scale: float, given: Mapping[str, float], *, muon: bool
) -> LearningRates:
    """All groups follow sqrt(B / 2^19); the AdamW groups of matrix shape also (dim / 768)^-0.5.

    Matrices under AdamW: three times GPT-3's rate for 125M parameters, as llm.c's GPT-2 runs settled on.
    """
    batch_scale = lr_scale * math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)
    width_scale = batch_scale * (dim / 768) ** -0.5
    rates = {
        "matrices": 0.02 * batch_scale if muon else 0.0018 * width_scale,
        "wte": 0.3 * width_scale,
        "value_embeds": 0.15 * width_scale,
        "lm_head": 0.008 * width_scale,
        "residual": 0.005 * batch_scale,
        "x0": 0.5 * batch_scale,
        "smear": 0.2,
    }
    unknown = set(given) - set(rates)
    if unknown:
        raise ValueError(f"learning_rates {sorted(unknown)} unknown; groups are {sorted(rates)}")
    return LearningRates(**(rates | dict(given)))
