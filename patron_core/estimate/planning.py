"""From estimates to plans: a spec cut to a budget. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from patron_core.errors import InvalidInput, Refused
from patron_core.estimate.calibration import Calibration
from patron_core.estimate.estimating import Estimate, estimate
from patron_core.estimate.wall import corpus_train_tokens
from patron_core.money import format_usd
from patron_core.prices import Price
from patron_core.scaling import Fit
from trainer.contract.devices import Device
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.recipe import Recipe
from trainer.contract.spec import TrainSpec

EVAL_SHARE = 0.05  # of the stepping time that evaluations may take
MAX_EVALS = 20
MIN_STEPS = 20  # fewer teach nothing, and leave no schedule
MAX_STEPS = 10_000_000


class TooLittleText(Refused):
    """Not for want of time or money: the data has too few tokens."""


@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """A spec whose upper estimate fits the budget, and the numbers that decided it."""

    spec: TrainSpec
    estimate: Estimate
    full_steps: int  # what the recipe would take
    limit: str  # "time", "money", "horizon", "tokens"
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "estimate": self.estimate.to_dict(),
            "full_steps": self.full_steps,
            "limit": self.limit,
            "sentence": self.sentence,
        }


def fit_to_budget(
    spec: TrainSpec,
    device: Device,
    *,
    price: Price,
    budget_s: float | None,
    budget_usd_micros: int | None,
    calibration: Calibration | None = None,
    fit: Fit | None = None,
    local: bool | None = None,
    prepared: bool = False,
    bound: Literal["mid", "high"] = "high",
    max_train_tokens: int | None = None,
    max_ratio: float | None = None,
    world: WorldSize = ONE,
) -> BudgetFit:
    """The longest run of the spec's model whose UPPER estimate fits; its evaluations cost at most a twentieth of it.

    `bound="mid"` plans by the expectation instead, for comparing what nothing has been measured of yet.
    It may train past the recipe's horizon when the budget allows; `max_ratio` (tokens a scaling parameter) and
    `max_train_tokens` (what the corpus has) cap it. The micro-batch is halved until memory fits. Raises Refused when
    not even 20 steps fit, InvalidInput without a budget.
    """
    if budget_s is None and budget_usd_micros is None:
        raise InvalidInput(["budget: neither time nor money given"], next="give budget_s, budget_usd_micros or both")

    def at(steps: int, every: int = 0, base: TrainSpec = spec) -> Estimate:
        return estimate(
            replace(base, num_steps=steps, eval_every_steps=every),
            device,
            price=price,
            budget_s=budget_s,
            budget_usd_micros=budget_usd_micros,
            calibration=calibration,
            fit=fit,
            local=local,
            prepared=prepared,
            world=world,
        )

    recipe = spec.recipe()
    base = _with_memory(replace(spec, batch_tokens=recipe.batch_tokens), lambda s: at(MIN_STEPS, base=s))

    def planned(steps: int) -> Estimate:
        probe = at(steps, base=base)
        return at(steps, eval_cadence(steps, probe.step_s.mid, probe.eval_s.mid), base)

    def within(row: Estimate) -> bool:
        return (budget_s is None or getattr(row.wall_s, bound) <= budget_s) and (
            budget_usd_micros is None or getattr(row.cost_usd_micros, bound) <= budget_usd_micros
        )

    smallest = planned(MIN_STEPS)
    if not within(smallest):
        raise Refused(
            f"depth {spec.depth} on {device.name} needs {getattr(smallest.wall_s, bound):.0f} s and "
            f"{format_usd(getattr(smallest.cost_usd_micros, bound))} for {MIN_STEPS} steps; the budget is "
            f"{smallest.budget}",
            next="take a smaller depth or batch_tokens, a larger budget, or dryrun first: it narrows the interval",
        )
    if max_train_tokens is None:
        max_train_tokens = corpus_train_tokens(spec.data, spec.vocab_size)
    cap, cap_name = _step_cap(recipe, max_train_tokens, max_ratio)
    steps = _largest(MIN_STEPS, cap, lambda n: within(planned(n)))
    row = planned(steps)
    evals = "1 evaluation" if row.num_evals == 1 else f"{row.num_evals} evaluations"
    limit = cap_name if steps == cap else _limit(row, budget_s, budget_usd_micros)
    return BudgetFit(
        spec=row.spec,
        estimate=row,
        full_steps=recipe.num_steps,
        limit=limit,
        sentence=(
            f"{steps} steps of {recipe.batch_tokens} tokens ({steps / recipe.num_steps:.0%} of the recipe's "
            f"{recipe.num_steps}), {evals}; at most {row.wall_s.high / 60:.1f} min and "
            f"{format_usd(row.cost_usd_micros.high)}, expected {row.wall_s.mid / 60:.1f} min; limited by {limit}."
        ),
    )


def eval_cadence(num_steps: int, step_s: float, eval_s: float) -> int:
    """Steps between evaluations so that all take a twentieth of the stepping at most; 0: only the last one."""
    affordable = int(EVAL_SHARE * num_steps * step_s / eval_s) if eval_s > 0 else MAX_EVALS
    if affordable < 2:
        return 0
    return math.ceil(num_steps / min(MAX_EVALS, affordable - 1))


def _with_memory(spec: TrainSpec, at: Callable[[TrainSpec], Estimate]) -> TrainSpec:
    """The spec with a micro-batch that fits in memory: as asked, else halved."""
    row = at(spec)
    while not row.memory.fits:
        if row.micro_batch_size == 1:
            raise Refused(row.sentence, next="take a smaller depth or sequence_len, or a device with more memory")
        spec = replace(spec, device_batch_size=row.micro_batch_size // 2)
        row = at(spec)
    return spec


def _step_cap(recipe: Recipe, max_train_tokens: int | None, max_ratio: float | None) -> tuple[int, str]:
    cap, name = MAX_STEPS, "horizon"
    if max_ratio is not None:
        cap = min(cap, int(max_ratio * recipe.num_params.scaling) // recipe.batch_tokens)
    if max_train_tokens is not None and max_train_tokens // recipe.batch_tokens < cap:
        cap, name = max_train_tokens // recipe.batch_tokens, "tokens"
    if cap < MIN_STEPS and name == "tokens" and max_train_tokens is not None:
        raise TooLittleText(
            f"the data has {max_train_tokens} tokens to train on, {cap} steps of {recipe.batch_tokens}; a run needs at "
            f"least {MIN_STEPS}",
            next=f"take a batch_tokens of at most {max_train_tokens // MIN_STEPS}, or more text",
        )
    if cap < MIN_STEPS:
        raise Refused(
            f"{name} allows {cap} steps of {recipe.batch_tokens} tokens; a run needs at least {MIN_STEPS}",
            next="take a smaller batch_tokens or more data",
        )
    return cap, name


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, `low` being known to. Doubling first: answers are far below the cap."""
    step = low
    while step < high and fits(min(2 * step, high)):
        step = min(2 * step, high)
    low, high = step, min(2 * step, high)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _limit(row: Estimate, budget_s: float | None, budget_usd_micros: int | None) -> str:
    time_share = row.wall_s.high / budget_s if budget_s else 0.0
    money_share = row.cost_usd_micros.high / budget_usd_micros if budget_usd_micros else 0.0
    return "time" if time_share >= money_share else "money"
