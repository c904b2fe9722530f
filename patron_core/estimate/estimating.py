"""One estimate: size, memory, time, money and predicted loss of a spec on a device, each with its interval. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from patron_core.estimate import wall
from patron_core.estimate.assumptions import assumptions_of
from patron_core.estimate.calibration import Calibration
from patron_core.estimate.lateness import AROUND, ON_TIME, Lateness
from patron_core.estimate.memory import Memory, estimate_memory
from patron_core.estimate.on_device import check_fp8, compute_dtype, micro_batch_size
from patron_core.estimate.verdict import Budget, Verdict, check_budget, explain, judge
from patron_core.interval import Interval, total
from patron_core.money import cost_usd_micros
from patron_core.prices import Price, checked_price
from patron_core.scaling import Fit, corpus_fit, predict, regime
from trainer.contract.devices import Device
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.recipe import Recipe, make_recipe
from trainer.contract.spec import TrainSpec
from trainer.contract.storage import checkpoint_bytes, disk_bytes

GB = 1e9


class Money(NamedTuple):
    """Micro-dollars; `high` is what funding holds."""

    low: int
    mid: int
    high: int

    def to_dict(self) -> dict[str, int]:
        return {"low": self.low, "mid": self.mid, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """All a person needs to decide. Nothing here is rounded."""

    spec: TrainSpec
    recipe: Recipe
    device: Device
    price: Price
    calibration: Calibration | None
    fit: Fit
    dtype: str
    compiled: bool
    local: bool
    micro_batch_size: int  # of one rank
    world: WorldSize
    step_s: Interval
    eval_s: Interval
    num_evals: int
    phases_s: dict[str, Interval]  # in order; they add up to wall_s
    said_s: dict[str, float]  # before what finished runs were late by; `upload` of a GB, `recovery` of one reclaim
    stretch: Mapping[str, float]  # of intervals, by quantity: see estimate.accuracy
    checkpoint_bytes: float
    checkpoint_interval_s: float
    egress_usd_micros_per_gb: int  # a checkpoint's way to its bucket
    wall_s: Interval
    cost_usd_micros: Money
    memory: Memory
    val_bpb: Interval
    budget: Budget
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        return explain(self.memory, self.wall_s, self.cost_usd_micros, self.budget, self.micro_batch_size)

    @property
    def num_steps(self) -> int:
        return self.recipe.num_steps

    @property
    def hold_usd_micros(self) -> int:
        """The upper bound of the cost. Funding adds one more start and the time to stop (lifecycle.holds)."""
        return self.cost_usd_micros.high

    @property
    def num_params(self) -> dict[str, int]:
        """The three conventions that people mix up."""
        params = self.recipe.num_params
        return {
            "total": params.total,
            "without_value_embeds": params.without_value_embeds,
            "scaling": params.scaling,
        }

    @property
    def tokens_per_s(self) -> float:
        return self.recipe.batch_tokens / self.step_s.mid

    @property
    def mfu(self) -> float:
        peak = self.device.bf16_flops if self.dtype == "bfloat16" else self.device.f32_flops
        peak *= self.world.nodes * (1 if self.device.is_cpu else self.world.per_node)
        return self.recipe.flops_per_token * self.tokens_per_s / peak

    @property
    def disk_bytes(self) -> float:
        """Of each machine, without its image."""
        spec, item_bytes = self.spec, 2 if self.dtype == "bfloat16" else 4
        keep, tokens = spec.checkpoint_keep, spec.eval_tokens
        return disk_bytes(self.recipe, item_bytes=item_bytes, checkpoint_keep=keep, eval_tokens=tokens)

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(assumptions_of(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: seconds, bytes, integer micro-dollars."""
        recipe = self.recipe
        return {
            "depth": recipe.depth,
            "device": self.device.name,
            "data": self.spec.data,
            "dtype": self.dtype,
            "compiled": self.compiled,
            "num_params": self.num_params,
            "flops_per_token": recipe.flops_per_token,
            "train_flops": recipe.train_flops,
            "train_tokens": recipe.train_tokens,
            "num_steps": recipe.num_steps,
            "batch_tokens": recipe.batch_tokens,
            "device_batch_size": self.micro_batch_size,
            "num_gpus": self.world.per_node,
            "num_nodes": self.world.nodes,
            "num_evals": self.num_evals,
            "step_s": self.step_s.to_dict(),
            "eval_s": self.eval_s.to_dict(),
            "tokens_per_s": self.tokens_per_s,
            "mfu_expected": self.mfu,
            "phases_s": {name: phase.to_dict() for name, phase in self.phases_s.items()},
            "said_s": dict(self.said_s),
            "stretch": dict(self.stretch),
            "egress_usd_micros_per_gb": self.egress_usd_micros_per_gb,
            "checkpoint_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "checkpoint_interval_s": self.checkpoint_interval_s if math.isfinite(self.checkpoint_interval_s) else None,
            "wall_s": self.wall_s.to_dict(),
            "cost_usd_micros": self.cost_usd_micros.to_dict(),
            "hold_usd_micros": self.hold_usd_micros,
            "price": self.price.to_dict(),
            "memory": self.memory.to_dict(),
            "val_bpb": self.val_bpb.to_dict(),
            "bpb_stretch": self.fit.stretch,
            "loss_law_of_this_corpus": self.fit.measured,
            "calibration": self.calibration.source if self.calibration else None,
            "budget_s": self.budget.s,
            "budget_usd_micros": self.budget.usd_micros,
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "assumptions": list(self.assumptions),
        }


_RECIPE_FIELDS = (
    "sequence_len",
    "vocab_size",
    "window_pattern",
    "dim",
    "head_dim",
    "ratio",
    "horizon_tokens",
    "batch_tokens",
    "num_steps",
    "features",
)
_recipe_key = attrgetter("depth", *_RECIPE_FIELDS)


@lru_cache(maxsize=4096)
def _recipe(depth: int, *values: Any) -> Recipe:
    """Learning rates are left out: nothing here reads them."""
    return make_recipe(depth, **dict(zip(_RECIPE_FIELDS, values, strict=True)))


def _micro_batch_size(spec: TrainSpec, recipe: Recipe, world: WorldSize) -> int:
    """The same for one process without making the recipe again; a test compares."""
    if world.ranks > 1:
        return micro_batch_size(spec, world)
    if spec.device_batch_size:
        return spec.device_batch_size
    rows = recipe.batch_tokens // recipe.sequence_len
    return min(16, rows & -rows)


def estimate(
    spec: TrainSpec,
    device: Device,
    *,
    price: Price,
    budget_s: float | None = None,
    budget_usd_micros: int | None = None,
    calibration: Calibration | None = None,
    fit: Fit | None = None,
    local: bool | None = None,
    prepared: bool = False,
    egress_usd_micros_per_gb: int = 0,
    world: WorldSize = ONE,
) -> Estimate:
    """What a run of `spec` on `device` will take.

    `fit`: the loss law, from `scaling.refit`; None: the corpus's own. `local`: no machine to wait for and a cache that
    stays; None: when the device is this machine's CPU. `prepared`: the tokens are in that cache already. `egress_...`:
    what a checkpoint's way to its bucket costs. `world`: the processes that train together, on a device each; `price`
    is of all their machines. Raises Refused for an implausible price, InvalidInput for a budget that is not above 0,
    for fp8 on a card that has none, and for a batch that cannot be divided over the ranks.
    """
    checked_price(price)
    check_budget(budget_s, budget_usd_micros)
    check_fp8(spec, device)
    recipe = _recipe(*_recipe_key(spec))
    fit = corpus_fit(spec.data) if fit is None else fit
    local = device.is_cpu if local is None else local
    if calibration is not None and (calibration.device, calibration.world) != (device.name, str(world)):
        calibration = None  # another machine's seconds say nothing here
    dtype = compute_dtype(spec, device)
    item_bytes = 2 if dtype == "bfloat16" else 4
    compiled = (not device.is_cpu) if spec.compile is None else spec.compile
    micro_batch_size = _micro_batch_size(spec, recipe, world)

    late = calibration.lateness if calibration is not None else ON_TIME
    tokens = micro_batch_size * recipe.sequence_len
    said_step_s = wall.step_seconds(recipe, device, tokens, item_bytes, calibration, world, spec.fp8)
    said_eval_s = wall.eval_seconds(spec, recipe, device, said_step_s, calibration)
    step_s, eval_s = late.steps.factored(said_step_s), late.evals.factored(said_eval_s)
    num_evals = wall.count_evals(recipe.num_steps, spec.eval_every_steps)
    passes = num_evals + wall.bos_eval_share(spec)
    startup = wall.startup_phases(
        spec, recipe, device, local=local, compiled=compiled, prepared=prepared, calibration=calibration
    )
    phases = late.started(startup)
    save_s = wall.save_seconds(recipe, device, item_bytes, calibration)
    num_bytes = checkpoint_bytes(recipe, item_bytes)
    speed = calibration.upload_bytes_per_s if calibration else None
    said_upload_s = num_bytes / speed if speed else 0.0
    upload_s = late.upload.factored(wall.UPLOAD_SPREAD.scaled(said_upload_s))
    interval_s = wall.checkpoint_interval_s(
        spec,
        save_s,
        step_s.mid,
        upload_s=upload_s.mid,
        costs_s=num_bytes / GB * egress_usd_micros_per_gb * 3600 / price.usd_micros_per_hour,
    )
    phases["steps"], phases["evals"] = step_s.scaled(recipe.num_steps), eval_s.scaled(passes)
    said_saves_s = wall.checkpoint_seconds(phases["steps"], save_s, interval_s, calibration)
    phases["checkpoints"] = late.checkpoints.factored(said_saves_s)
    if speed:
        phases["upload"] = upload_s
    said_work_s = total((said_step_s.scaled(recipe.num_steps), said_eval_s.scaled(passes)))
    said_again_s = wall.again_seconds(total(startup.values()), said_work_s, interval_s)
    again_s = late.recovery.factored(said_again_s)
    phases["recovery"] = wall.recovery_seconds(total(phases.values()), again_s, price.spot)
    paid_s = late.widened("cost_usd_micros", total(phases.values()))
    cost = Money(*(cost_usd_micros(seconds, price.usd_micros_per_hour) for seconds in paid_s))
    phases = _widened(phases, late)
    wall_s = total(phases.values())
    memory = estimate_memory(
        recipe,
        device,
        micro_batch_size=micro_batch_size,
        item_bytes=item_bytes,
        compiled=compiled,
        calibration=calibration,
        world=world,
    )
    if memory.measured:
        memory = replace(memory, peak_bytes=late.widened("peak_memory_bytes", memory.peak_bytes))
    budget = Budget(s=budget_s, usd_micros=budget_usd_micros)
    return Estimate(
        spec=spec,
        recipe=recipe,
        device=device,
        price=price,
        calibration=calibration,
        fit=fit,
        dtype=dtype,
        compiled=compiled,
        local=local,
        micro_batch_size=micro_batch_size,
        world=world,
        step_s=late.widened("step_s", step_s),
        eval_s=eval_s,
        num_evals=num_evals,
        phases_s=phases,
        said_s={
            AROUND: total(startup.values()).mid,
            "steps": said_step_s.mid * recipe.num_steps,
            "evals": said_eval_s.mid * passes,
            "checkpoints": said_saves_s.mid,
            "recovery": said_again_s.mid,
            "upload": GB / speed if speed else 0.0,
        },
        stretch=late.stretch,
        checkpoint_bytes=num_bytes,
        checkpoint_interval_s=interval_s,
        egress_usd_micros_per_gb=egress_usd_micros_per_gb,
        wall_s=wall_s,
        cost_usd_micros=cost,
        memory=memory,
        val_bpb=predict(
            fit, recipe.num_params.scaling, recipe.train_tokens, regime(recipe.vocab_size, recipe.sequence_len)
        ),
        budget=budget,
        verdict=judge(memory, wall_s, cost, budget),
    )


def _widened(phases: dict[str, Interval], late: Lateness) -> dict[str, Interval]:
    """So that they add up to as wide a wall time as runs of this machine showed."""
    said = total(phases.values())
    wide = late.widened("wall_s", said)
    if wide == said or said.high <= said.mid:
        return phases
    lower, higher = wide.low / said.low if said.low else 1.0, (wide.high - said.mid) / (said.high - said.mid)
    return {
        name: Interval(lower * phase.low, phase.mid, phase.mid + higher * (phase.high - phase.mid))
        for name, phase in phases.items()
    }
