"""One estimate: size, memory, time, money and predicted loss of a spec on a device, each with its interval. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from patron_core.errors import InvalidInput
from patron_core.estimate import wall
from patron_core.estimate.calibration import STARTUP_PHASES, Calibration
from patron_core.estimate.memory import Memory, estimate_memory
from patron_core.estimate.verdict import Budget, Verdict, explain, judge
from patron_core.interval import Interval, total
from patron_core.money import cost_usd_micros, format_usd
from patron_core.prices import Price, checked_price
from patron_core.scaling import Fit, corpus_fit, outside, predict, regime
from trainer.contract.devices import Device
from trainer.contract.recipe import Recipe, make_recipe
from trainer.contract.spec import TrainSpec
from trainer.contract.storage import checkpoint_bytes

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
    micro_batch_size: int
    step_s: Interval
    eval_s: Interval
    num_evals: int
    phases_s: dict[str, Interval]  # in order; they add up to wall_s
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
        return self.recipe.flops_per_token * self.tokens_per_s / peak

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(_assumptions(self))

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
            "num_evals": self.num_evals,
            "step_s": self.step_s.to_dict(),
            "eval_s": self.eval_s.to_dict(),
            "tokens_per_s": self.tokens_per_s,
            "mfu_expected": self.mfu,
            "phases_s": {name: phase.to_dict() for name, phase in self.phases_s.items()},
            "egress_usd_micros_per_gb": self.egress_usd_micros_per_gb,
            "checkpoint_bytes": self.checkpoint_bytes,
            "checkpoint_interval_s": self.checkpoint_interval_s if math.isfinite(self.checkpoint_interval_s) else None,
            "wall_s": self.wall_s.to_dict(),
            "cost_usd_micros": self.cost_usd_micros.to_dict(),
            "hold_usd_micros": self.hold_usd_micros,
            "price": self.price.to_dict(),
            "memory": self.memory.to_dict(),
            "val_bpb": self.val_bpb.to_dict(),
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


def _micro_batch_size(spec: TrainSpec, recipe: Recipe) -> int:
    """TrainSpec.micro_batch_size, without making the recipe again; a test compares."""
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
) -> Estimate:
    """What a run of `spec` on `device` will take.

    `fit`: the loss law, from `scaling.refit`; None: the corpus's own. `local`: no machine to wait for and a cache that
    stays; None: when the device is this machine's CPU. `prepared`: the tokens are in that cache already. `egress_...`:
    what a checkpoint's way to its bucket costs. Raises Refused for an implausible price, InvalidInput for a budget that
    is not above 0.
    """
    checked_price(price)
    _check_budget(budget_s, budget_usd_micros)
    recipe = _recipe(*_recipe_key(spec))
    fit = corpus_fit(spec.data) if fit is None else fit
    local = device.is_cpu if local is None else local
    if calibration is not None and calibration.device != device.name:
        calibration = None  # another machine's seconds say nothing here
    dtype = compute_dtype(spec, device)
    item_bytes = 2 if dtype == "bfloat16" else 4
    compiled = (not device.is_cpu) if spec.compile is None else spec.compile
    micro_batch_size = _micro_batch_size(spec, recipe)

    step_s = wall.step_seconds(recipe, device, micro_batch_size * recipe.sequence_len, item_bytes, calibration)
    eval_s = wall.eval_seconds(spec, recipe, device, step_s, calibration)
    num_evals = wall.count_evals(recipe.num_steps, spec.eval_every_steps)
    phases = wall.startup_phases(
        spec, recipe, device, local=local, compiled=compiled, prepared=prepared, calibration=calibration
    )
    save_s = wall.save_seconds(recipe, device, item_bytes, calibration)
    num_bytes = checkpoint_bytes(recipe, item_bytes)
    speed = calibration.upload_bytes_per_s if calibration else None
    interval_s = wall.checkpoint_interval_s(
        spec,
        save_s,
        step_s.mid,
        upload_s=num_bytes / speed if speed else 0.0,
        costs_s=num_bytes / GB * egress_usd_micros_per_gb * 3600 / price.usd_micros_per_hour,
    )
    _add_work(phases, recipe, step_s, eval_s.scaled(num_evals), save_s, interval_s, calibration, price.spot)
    wall_s = total(phases.values())
    cost = Money(*(cost_usd_micros(seconds, price.usd_micros_per_hour) for seconds in wall_s))
    memory = estimate_memory(
        recipe,
        device,
        micro_batch_size=micro_batch_size,
        item_bytes=item_bytes,
        compiled=compiled,
        calibration=calibration,
    )
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
        step_s=step_s,
        eval_s=eval_s,
        num_evals=num_evals,
        phases_s=phases,
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


def _add_work(
    phases: dict[str, Interval],
    recipe: Recipe,
    step_s: Interval,
    evals_s: Interval,
    save_s: float,
    interval_s: float,
    calibration: Calibration | None,
    spot: bool,
) -> None:
    """What comes after the start: steps, evals, checkpoints, recovery."""
    startup = total(phases.values())
    phases["steps"] = step_s.scaled(recipe.num_steps)
    phases["evals"] = evals_s
    phases["checkpoints"] = wall.checkpoint_seconds(phases["steps"], save_s, interval_s, calibration)
    phases["recovery"] = wall.recovery_seconds(total(phases.values()), startup, interval_s, spot)


def compute_dtype(spec: TrainSpec, device: Device) -> str:
    """What the trainer takes for `auto`: bfloat16 wherever the hardware has it."""
    if spec.dtype != "auto":
        return spec.dtype
    return "bfloat16" if device.native_bf16 else "float32"


def _check_budget(budget_s: float | None, budget_usd_micros: int | None) -> None:
    problems = []
    if budget_s is not None and not budget_s > 0:
        problems.append(f"budget_s: {budget_s!r}; allowed above 0")
    if budget_usd_micros is not None and budget_usd_micros <= 0:
        problems.append(f"budget_usd_micros: {budget_usd_micros!r}; allowed above 0")
    if problems:
        raise InvalidInput(problems, next="give a budget above 0, for instance one hour and $10")


def _assumptions(e: Estimate) -> list[str]:
    device, calibration = e.device, e.calibration
    sentences = [e.price.sentence()]
    if calibration is not None:
        step = f"{calibration.step_s:.3g} s a step at depth {calibration.depth}"
        sentences.append(f"Step time from {calibration.source}: {step}.")
        if calibration.flops_per_token != e.recipe.flops_per_token:
            sentences.append("It was another model; scaled by FLOPs and by the MFU expected of each depth.")
    else:
        sentences.append(f"{e.mfu:.0%} MFU on {device.name}, from {device.mfu_source}; a dryrun replaces this.")
    if not (calibration and calibration.eval_s):
        low, _, high = wall.EVAL_OVER_FORWARD["cpu" if device.is_cpu else "cuda"]
        sentences.append(f"An evaluation takes {low} to {high} times its arithmetic, a third of training's.")
    if not (calibration and calibration.startup_s):
        start = total(phase for name, phase in e.phases_s.items() if name in STARTUP_PHASES)
        sentences.append(f"{start.low:.0f} to {start.high:.0f} s before the first step are assumed, not measured.")
    sentences.append(
        "Peak memory was measured at this depth and micro-batch."
        if e.memory.measured
        else "Peak memory from a formula fitted to three published runs: 15 % lower to 20 % higher."
    )
    if e.price.spot:
        sentences.append("The upper bound pays for one reclaim of the spot machine every two hours, started anew.")
    if e.egress_usd_micros_per_gb:
        saves = f"a checkpoint of {e.checkpoint_bytes / GB:.1f} GB each {e.checkpoint_interval_s:.0f} s"
        sentences.append(f"Egress is held beside it: {saves}, at {format_usd(e.egress_usd_micros_per_gb)} a GB.")
    sentences.append(f"Loss on {e.spec.data}: {e.fit.source}.")
    if outside(e.fit, e.recipe.num_params.scaling, e.recipe.train_tokens) > 0:
        sentences.append("The run lies outside the range those runs cover, so its loss is an extrapolation.")
    return sentences
