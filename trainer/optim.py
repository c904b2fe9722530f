"""Muon for the matrices and AdamW for the rest, with the recipe's rates and schedules.

State is a flat dictionary of plain tensors, so that a checkpoint needs no pickled classes. The step number comes from
the loop, which is the only owner of it: bias correction and schedules depend on it and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.model import Model, param_group
from trainer.muon import muon_update
from trainer.recipe import Recipe

MUON_BETA2 = 0.9
ADAM_EPS = 1e-10
MIN_COMPILED_SIZE = 2**16  # below, a compilation for one more shape costs more than it ever gives back


@dataclass(frozen=True, kw_only=True)
class AdamGroup:
    """Parameters that share a rate, betas and a constant weight decay (None: the recipe's schedule)."""

    names: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float | None


def adam_groups(model: Model, recipe: Recipe) -> list[AdamGroup]:
    """AdamW's groups; with Muon off also the matrices."""
    rates = recipe.learning_rates
    names: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        group = param_group(name)
        root = name.split(".")[0]
        key = {"residual_scale": "residual", "x0_scale": "x0"}.get(root, "smear") if group == "scalars" else group
        names.setdefault(key, []).append(name)
    table: dict[str, tuple[float, tuple[float, float], float | None]] = {
        "lm_head": (rates.lm_head, (0.8, 0.96), 0.01),
        "wte": (rates.wte, (0.8, 0.995), 0.001),
        "positions": (rates.wte, (0.8, 0.995), 0.001),
        "value_embeds": (rates.value_embeds, (0.8, 0.995), 0.01),
        "residual": (rates.residual, (0.8, 0.95), 0.05),
        "x0": (rates.x0, (0.96, 0.95), 0.0),
        "smear": (rates.smear, (0.8, 0.95), 0.0),  # backout too
    }
    if not recipe.features.muon:
        table["matrices"] = (rates.matrices, (0.9, 0.95), None)
    return [
        AdamGroup(names=tuple(names[key]), lr=lr, betas=betas, weight_decay=decay)
        for key, (lr, betas, decay) in table.items()
        if key in names
    ]


def adam_update(
    param: Tensor,
    grad: Tensor,
    mean: Tensor,
    mean_square: Tensor,
    step_size: Tensor,
    decay: Tensor,
    correction2: Tensor,
    betas: tuple[float, float],
) -> None:
    """AdamW in float32, whatever the parameter is kept in. `decay` is lr x weight decay; `step_size`, lr corrected."""
    grad = grad.float()
    mean.lerp_(grad, 1 - betas[0])
    mean_square.lerp_(grad.square(), 1 - betas[1])
    update = mean / ((mean_square / correction2).sqrt() + ADAM_EPS)
    param.copy_(param.float() * (1 - decay) - step_size * update)


class Optimizer:
    """Applies one step's gradients. `step` is the number of steps completed before this one."""

    def __init__(self, model: Model, recipe: Recipe, *, compile: bool = False):
        self._params: dict[str, nn.Parameter] = dict(model.named_parameters())
        self._schedule = recipe.schedule
        self._matrix_lr = recipe.learning_rates.matrices
        self._adam_groups = adam_groups(model, recipe)
        self._muon_names = self._stack_names() if recipe.features.muon else []
        self._orthogonal_dtype = model.compute_dtype
        self._compiled: dict[Callable[..., None], Callable[..., None]] = {}
        if compile:
            # on a CPU Muon is matrix products, which compiling does not change, and each shape takes seconds to compile
            on_cpu = model.lm_head.weight.device.type == "cpu"
            for update in (adam_update,) if on_cpu else (adam_update, muon_update):
                self._compiled[update] = torch.compile(update, dynamic=False, fullgraph=True)
        self._state = self._empty_state()

    def _stack_names(self) -> list[tuple[str, ...]]:
        """Matrices grouped by shape, in model order: one batched update for each shape."""
        by_shape: dict[torch.Size, list[str]] = {}
        for name, param in self._params.items():
            if param_group(name) == "matrices":
                by_shape.setdefault(param.shape, []).append(name)
        return [tuple(names) for names in by_shape.values()]

    def _empty_state(self) -> dict[str, Tensor]:
        state = {}
        for group in self._adam_groups:
            for name in group.names:
                for moment in ("mean", "mean_square"):
                    state[f"adam.{name}.{moment}"] = torch.zeros_like(self._params[name], dtype=torch.float32).detach()
        for names in self._muon_names:
            param = self._params[names[0]]
            rows, columns = param.shape
            reduced = (rows, 1) if rows >= columns else (1, columns)
            key = _stack_key(param.shape)
            state[f"{key}.momentum"] = torch.zeros(len(names), rows, columns, device=param.device)
            state[f"{key}.second_moment"] = torch.zeros(len(names), *reduced, device=param.device)
        return state

    @torch.no_grad()
    def step(self, step: int) -> None:
        lr_multiplier = self._schedule.lr_multiplier(step)
        weight_decay = self._schedule.muon_weight_decay(step)
        for group in self._adam_groups:
            decay = weight_decay if group.weight_decay is None else group.weight_decay
            self._adam_step(group, step, group.lr * lr_multiplier, decay)
        for names in self._muon_names:
            self._muon_step(names, self._matrix_lr * lr_multiplier, self._schedule.muon_momentum(step), weight_decay)

    def _fitting(self, update: Callable[..., None], param: Tensor) -> Callable[..., None]:
        """The update, compiled where that pays for a parameter of this size."""
        return self._compiled.get(update, update) if param.numel() >= MIN_COMPILED_SIZE else update

    def _adam_step(self, group: AdamGroup, step: int, lr: float, weight_decay: float) -> None:
        # 0-d tensors: a number that changes each step would make a compiled function compile again
        step_size = torch.tensor(lr / (1 - group.betas[0] ** (step + 1)))
        decay, correction2 = torch.tensor(lr * weight_decay), torch.tensor(1 - group.betas[1] ** (step + 1))
        for name in group.names:
            param = self._params[name]
            if param.grad is not None:
                mean, mean_square = self._state[f"adam.{name}.mean"], self._state[f"adam.{name}.mean_square"]
                update = self._fitting(adam_update, param)
                update(param, param.grad, mean, mean_square, step_size, decay, correction2, group.betas)

    def _muon_step(self, names: tuple[str, ...], lr: float, momentum: float, weight_decay: float) -> None:
        params = [self._params[name] for name in names]
        stacked = torch.stack([param.detach() for param in params])
        grads = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in params])
        key = _stack_key(params[0].shape)
        update = self._fitting(muon_update, stacked)
        update(
            stacked,
            grads,
            self._state[f"{key}.momentum"],
            self._state[f"{key}.second_moment"],
            torch.tensor(lr),
            torch.tensor(momentum),
            torch.tensor(weight_decay),
            MUON_BETA2,
            self._orthogonal_dtype,
        )
        torch._foreach_copy_(params, list(stacked.unbind(0)))

    def zero_grad(self) -> None:
        for param in self._params.values():
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors: copy them before they change."""
        return dict(self._state)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state.keys() != self._state.keys():
            differing = sorted(state.keys() ^ self._state.keys())
            raise ValueError(f"optimizer state has other tensors than this model: {', '.join(differing[:6])}")
        for key, value in state.items():
            self._state[key].copy_(value)


def _stack_key(shape: torch.Size) -> str:
    return f"muon.{shape[0]}x{shape[1]}"
