"""Muon for the matrices and AdamW for the rest, with the recipe's rates and schedules.

State is a flat dictionary of plain tensors, so that a checkpoint needs no pickled classes. The step number comes from
the loop, which is the only owner of it: bias correction and schedules depend on it and on nothing else.

Over many ranks the state is sharded: of a stack of matrices each rank keeps and updates some, of a large AdamW tensor
some rows; small tensors are everybody's. A step sums each rank's share of the gradients over the ranks, updates that
share and collects the others', all shares' communication at once. Saved state is whole, and fits any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.contract.recipe import Recipe
from trainer.model.gpt import Model, param_group
from trainer.optim.muon import muon_update
from trainer.runtime.world import ALONE, Pending, World

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
    """AdamW in float32, whatever all of it is kept in. `decay` is lr x weight decay; `step_size`, lr corrected."""
    grad, full_mean, full_square = grad.float(), mean.float(), mean_square.float()
    full_mean.lerp_(grad, 1 - betas[0])
    full_square.lerp_(grad.square(), 1 - betas[1])
    update = full_mean / ((full_square / correction2).sqrt() + ADAM_EPS)
    param.copy_(param.float() * (1 - decay) - step_size * update)
    mean.copy_(full_mean)  # these two do nothing where the moments are in float32
    mean_square.copy_(full_square)


class Optimizer:
    """Applies one step's gradients. `step` is the number of steps completed before this one."""

    def __init__(self, model: Model, recipe: Recipe, *, compile: bool = False, world: World = ALONE):
        self._world = world
        self._params: dict[str, nn.Parameter] = dict(model.named_parameters())
        self._schedule = recipe.schedule
        self._matrix_lr = recipe.learning_rates.matrices
        self._adam_groups = adam_groups(model, recipe)
        self._muon_names = self._stack_names() if recipe.features.muon else []
        self._orthogonal_dtype = model.compute_dtype
        self._compiled: dict[Callable[..., None], Callable[..., None]] = {}
        if compile:
            for update in (adam_update, muon_update):
                self._compiled[update] = torch.compile(update, dynamic=False, fullgraph=True)
        self._state: dict[str, Tensor] = {}
        self._num_rows: dict[str, int | None] = {}  # of the whole tensor; None: every rank keeps all of it
        self._make_empty_state()

    def _stack_names(self) -> list[tuple[str, ...]]:
        """Matrices grouped by shape, in model order: one batched update for each shape."""
        by_shape: dict[torch.Size, list[str]] = {}
        for name, param in self._params.items():
            if param_group(name) == "matrices":
                by_shape.setdefault(param.shape, []).append(name)
        return [tuple(names) for names in by_shape.values()]

    def _is_sharded(self, param: Tensor) -> bool:
        """Whether AdamW's state of it is divided by rows; tensors that are less than a row a rank are not."""
        return param.ndim > 1 and param.size(0) >= self._world.size

    def _make_empty_state(self) -> None:
        for group in self._adam_groups:
            for name in group.names:
                param = self._params[name].detach()
                num_rows = param.size(0) if self._is_sharded(param) else None
                own = param if num_rows is None else param[self._world.rows(num_rows)]
                # In the parameter's dtype, as where the recipe's rates were tuned: with float32 moments for bfloat16
                # embeddings val_bpb ended .004 higher (three seeds, depth 2, 150 steps), and they are the largest state
                for moment in ("mean", "mean_square"):
                    self._state[f"adam.{name}.{moment}"] = torch.zeros_like(own)
                    self._num_rows[f"adam.{name}.{moment}"] = num_rows
        for names in self._muon_names:
            param = self._params[names[0]]
            rows, columns = param.shape
            reduced = (rows, 1) if rows >= columns else (1, columns)
            key, num_own = _stack_key(param.shape), len(names[self._world.rows(len(names))])
            self._state[f"{key}.momentum"] = torch.zeros(num_own, rows, columns, device=param.device)
            self._state[f"{key}.second_moment"] = torch.zeros(num_own, *reduced, device=param.device)
            self._num_rows[f"{key}.momentum"] = self._num_rows[f"{key}.second_moment"] = len(names)

    @torch.no_grad()
    def step(self, step: int) -> None:
        lr_multiplier = self._schedule.lr_multiplier(step)
        weight_decay = self._schedule.muon_weight_decay(step)
        self._sum_small_grads()
        updates: list[Iterator[None]] = []
        for group in self._adam_groups:
            decay = weight_decay if group.weight_decay is None else group.weight_decay
            updates += self._adam_step(group, step, group.lr * lr_multiplier, decay)
        for names in self._muon_names:
            lr, momentum = self._matrix_lr * lr_multiplier, self._schedule.muon_momentum(step)
            updates.append(self._muon_step(names, lr, momentum, weight_decay))
        if self._world.size == 1:  # one after the other: what an update needs is made when it is needed
            for update in updates:
                for _ in update:
                    pass
        else:  # in phases: all sums start, all updates follow, each starting its collection
            for _ in range(3):
                for update in updates:
                    next(update, None)

    def _fitting(self, update: Callable[..., None], param: Tensor) -> Callable[..., None]:
        """The update, compiled where that pays for a parameter of this size."""
        return self._compiled.get(update, update) if param.numel() >= MIN_COMPILED_SIZE else update

    def _sum_small_grads(self) -> None:
        """Those that every rank needs, in one message."""
        if self._world.size == 1:
            return
        names = [name for group in self._adam_groups for name in group.names]
        params = [self._params[name] for name in names if not self._is_sharded(self._params[name])]
        grads = [param.grad for param in params if param.grad is not None]
        if grads:
            message = torch.cat([grad.float().flatten() for grad in grads])
            self._world.sum_(message)
            for grad, summed in zip(grads, message.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(summed.view_as(grad))

    def _adam_step(self, group: AdamGroup, step: int, lr: float, weight_decay: float) -> list[Iterator[None]]:
        # 0-d tensors: a number that changes each step would make a compiled function compile again
        step_size = torch.tensor(lr / (1 - group.betas[0] ** (step + 1)))
        decay, correction2 = torch.tensor(lr * weight_decay), torch.tensor(1 - group.betas[1] ** (step + 1))

        def update(name: str, param: Tensor, grad: Tensor) -> Iterator[None]:
            sharded = self._is_sharded(param)
            summed = self._world.start_sum_rows(grad) if sharded else Pending(grad)
            yield
            own = param[self._world.rows(param.size(0))] if sharded else param
            mean, mean_square = self._state[f"adam.{name}.mean"], self._state[f"adam.{name}.mean_square"]
            apply = self._fitting(adam_update, own)
            apply(own, summed.wait(), mean, mean_square, step_size, decay, correction2, group.betas)
            collected = self._world.start_collect_rows(own, param) if sharded else Pending(param)
            yield
            collected.wait()

        named = [(name, self._params[name]) for name in group.names]
        return [update(name, param.detach(), param.grad) for name, param in named if param.grad is not None]

    def _muon_step(self, names: tuple[str, ...], lr: float, momentum: float, weight_decay: float) -> Iterator[None]:
        params = [self._params[name] for name in names]
        grads = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in params])
        summed = self._world.start_sum_rows(grads)
        yield
        own_rows = self._world.rows(len(names))
        stacked = torch.stack([param.detach() for param in params])
        own = stacked[own_rows]
        key = _stack_key(params[0].shape)
        update = self._fitting(muon_update, own)
        if len(own):
            update(
                own,
                summed.wait(),
                self._state[f"{key}.momentum"],
                self._state[f"{key}.second_moment"],
                torch.tensor(lr),
                torch.tensor(momentum),
                torch.tensor(weight_decay),
                MUON_BETA2,
                self._orthogonal_dtype,
            )
        else:
            summed.wait()
        collected = self._world.start_collect_rows(own, stacked)
        yield
        torch._foreach_copy_(list[Tensor](params), list(collected.wait().unbind(0)))

    def zero_grad(self) -> None:
        for param in self._params.values():
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state. One process: the live tensors, to be copied before they change.

        Over many ranks all have to call it; rank 0 gets copies in main memory, the others nothing.
        """
        whole = {}
        for key, own in self._state.items():
            num_rows = self._num_rows[key]
            tensor = own if num_rows is None else self._world.gather_rows(own, num_rows)
            if tensor is not None and self._world.is_first:
                whole[key] = tensor
        return whole

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Over many ranks all have to call it, and rank 0's state counts."""
        if self._world.is_first and state.keys() != self._state.keys():
            differing = sorted(state.keys() ^ self._state.keys())
            raise ValueError(f"optimizer state has other tensors than this model: {', '.join(differing[:6])}")
        for key, own in self._state.items():
            num_rows = self._num_rows[key]
            if self._world.size == 1:
                own.copy_(state[key])
                continue
            whole = own.new_empty(own.size(0) if num_rows is None else num_rows, *own.shape[1:])
            if self._world.is_first:
                whole.copy_(state[key])
            self._world.spread_(whole)
            own.copy_(whole if num_rows is None else whole[self._world.rows(num_rows)])


def _stack_key(shape: torch.Size) -> str:
    return f"muon.{shape[0]}x{shape[1]}"
