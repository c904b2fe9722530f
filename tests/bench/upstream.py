"""nanochat from a checkout, driven as its base_train.py drives it: its model, optimizer, compilation and evaluation.

Nothing of it is kept here, and nothing of it is changed. What its script works out between those parts is restated
below as arithmetic (`UpstreamRecipe`), since that script cannot be imported.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REFERENCE_BATCH_TOKENS = 2**19
REFERENCE_DEPTH = 12
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class UpstreamRecipe:
    """What base_train.py makes of its options: base rates, and rate, momentum and decay of each step."""

    num_steps: int
    batch_scale: float  # of all learning rates
    weight_decay: float  # of Muon at the first step
    warmup_steps: int = 40
    warmdown_ratio: float = 0.65
    final_lr_frac: float = 0.05

    @classmethod
    def shipped(
        cls, *, scaling_params: int, reference_scaling_params: int, batch_tokens: int, num_steps: int
    ) -> UpstreamRecipe:
        """Its defaults. Tokens per scaling parameter cancel out: the horizon counts relative to depth 12's."""
        batch_scale = math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)
        weight_decay = 0.28 * batch_scale * reference_scaling_params / scaling_params
        return cls(num_steps=num_steps, batch_scale=batch_scale, weight_decay=weight_decay)

    def peak_rates(self) -> dict[str, float]:
        """The arguments of its `setup_optimizer`."""
        rates = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "scalar_lr": 0.5, "matrix_lr": 0.02}
        return {name: rate * self.batch_scale for name, rate in rates.items()} | {"weight_decay": self.weight_decay}

    @property
    def warmdown_steps(self) -> int:
        return round(self.warmdown_ratio * self.num_steps)

    def lr_multiplier(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        left = self.num_steps - step
        if left >= self.warmdown_steps:
            return 1.0
        return self.final_lr_frac + (1 - self.final_lr_frac) * left / self.warmdown_steps

    def momentum(self, step: int) -> float:
        if step < 400:
            return 0.85 + 0.12 * step / 400
        after = step - (self.num_steps - self.warmdown_steps)
        return 0.97 - 0.07 * after / self.warmdown_steps if after >= 0 else 0.97

    def decay(self, step: int) -> float:
        return self.weight_decay * (1 + math.cos(math.pi * step / self.num_steps)) / 2


class Upstream:
    """Its trainer for one process. Importing it fixes the dtype, so there is one to a process."""

    def __init__(
        self,
        checkout: Path,
        *,
        depth: int,
        sequence_len: int,
        vocab_size: int,
        window_pattern: str,
        batch_tokens: int,
        num_steps: int,
        device: str,
        dtype: str,
        seed: int,
    ):
        os.environ["NANOCHAT_DTYPE"] = dtype
        sys.modules["kernels"] = None  # type: ignore[assignment]  # FlashAttention-3 would be fetched through it
        sys.path.append(str(checkout))
        from nanochat import common, gpt, loss_eval

        self._gpt, self._evaluate_bpb = gpt, loss_eval.evaluate_bpb
        *_, self.device = common.compute_init(device)
        self._shape = {"sequence_len": sequence_len, "vocab_size": vocab_size, "window_pattern": window_pattern}
        self.plain_model = self._meta_model(depth).to_empty(device=self.device)
        torch.manual_seed(seed)
        self.plain_model.init_weights()
        self.model = torch.compile(self.plain_model, dynamic=False)
        self.flops_per_token = int(self.plain_model.estimate_flops())
        self.recipe = UpstreamRecipe.shipped(
            scaling_params=_scaling_params(self.plain_model),
            reference_scaling_params=_scaling_params(self._meta_model(REFERENCE_DEPTH)),
            batch_tokens=batch_tokens,
            num_steps=num_steps,
        )
        self._optimizer: Any = None

    def _meta_model(self, depth: int) -> Any:
        dim = math.ceil(depth * 64 / 128) * 128
        heads = dim // 128
        with torch.device("meta"):
            return self._gpt.GPT(
                self._gpt.GPTConfig(n_layer=depth, n_head=heads, n_kv_head=heads, n_embd=dim, **self._shape)
            )

    def step(self, number: int, micro_batches: Sequence[Batch]) -> float:
        """One step; returns the loss of the last micro-batch, which is what it reports."""
        for x_BT, y_BT in micro_batches:
            loss = self.model(x_BT.to(self.device), y_BT.to(self.device))
            (loss / len(micro_batches)).backward()
        if self._optimizer is None:
            self._optimizer = self.plain_model.setup_optimizer(**self.recipe.peak_rates())
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.recipe.lr_multiplier(number)
            if group["kind"] == "muon":
                group["momentum"] = self.recipe.momentum(number)
                group["weight_decay"] = self.recipe.decay(number)
        self._optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return float(loss.item())

    def settle(self) -> None:
        """After the first step it keeps the garbage collector out of the way."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def val_bpb(self, batches: Sequence[Batch], token_bytes_V: Tensor) -> float:
        self.model.eval()
        here = [(x_BT.to(self.device), y_BT.to(self.device)) for x_BT, y_BT in batches]
        bpb = self._evaluate_bpb(self.model, here, len(here), token_bytes_V.to(self.device))
        self.model.train()
        return float(bpb)

    @torch.no_grad()
    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the weights of one of our models. Raises ValueError unless all of them find a place, once."""
        places = dict(self.plain_model.named_parameters())
        named = {upstream_name(name): value for name, value in weights.items()}
        if places.keys() != named.keys():
            raise ValueError(f"the models differ in {', '.join(sorted(places.keys() ^ named.keys()))}")
        for name, value in named.items():
            places[name].copy_(value)


_RENAMED: tuple[tuple[str, str], ...] = (
    ("blocks.", "transformer.h."),
    (".attention.query.", ".attn.c_q."),
    (".attention.key.", ".attn.c_k."),
    (".attention.value.", ".attn.c_v."),
    (".attention.out.", ".attn.c_proj."),
    (".attention.value_gate.", ".attn.ve_gate."),
    (".mlp_in.", ".mlp.c_fc."),
    (".mlp_out.", ".mlp.c_proj."),
    ("residual_scale", "resid_lambdas"),
    ("x0_scale", "x0_lambdas"),
    ("smear_scale", "smear_lambda"),
    ("backout_scale", "backout_lambda"),
)


def upstream_name(name: str) -> str:
    """Its name for one of our parameters."""
    if name.startswith("wte."):
        return "transformer." + name
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return name


def _scaling_params(model: Any) -> int:
    counts = model.num_scaling_params()
    return int(counts["transformer_matrices"] + counts["lm_head"])
