"""What a run of foreign code will take: nothing is known before its burst, and after it what that measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patron_core.estimate import Money, Verdict
from patron_core.estimate.verdict import Budget, dollars, judge_share, minutes
from patron_core.interval import ZERO, Interval, total
from patron_core.money import cost_usd_micros
from patron_core.prices import Price
from trainer.contract.foreign import ForeignSpec

DRYRUN_S = 900.0  # what a burst is held for: an environment is made, data fetched, then some steps
# Evaluations and saves between the first step and the last are not in a burst: runs of nanochat took 1.33 to 1.40 times
# their stepping. A burst on a machine that others use sees a moment.
_OVER_STEPPING = Interval(1.0, 1.15, 1.5)
_UNPACED = Interval(0.3, 1.0, 2.0)  # a burst that logged no steps: its start is in its pace


@dataclass(frozen=True, kw_only=True)
class ForeignEstimate:
    """As `estimate.Estimate` as far as anybody asks who does not know what is trained; nothing is rounded."""

    spec: ForeignSpec
    device: str
    price: Price
    local: bool
    budget: Budget
    measured: Mapping[str, Any] | None = None  # the burst of its dryrun
    said: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        return self.spec.num_steps or 1

    @property
    def step_s(self) -> Interval | None:
        if self.measured is None:
            return None
        step_s, spread = float(self.measured["step_s"]), min(0.5, float(self.measured.get("step_s_spread") or 0.0))
        return Interval(step_s * (1 - spread), step_s, step_s * (1 + spread))

    @property
    def phases_s(self) -> dict[str, Interval]:
        if self.measured is None or self.step_s is None:
            return {}
        by = _OVER_STEPPING if self.measured.get("paced") else _UNPACED
        start_s, end_s = float(self.measured["start_s"]), float(self.measured["end_s"])
        return {
            "start": Interval(0.5 * start_s, start_s, 2 * start_s),
            "steps": Interval(*(each * factor * self.num_steps for each, factor in zip(self.step_s, by, strict=True))),
            "end": Interval(end_s, end_s, 3 * end_s),
        }

    @property
    def wall_s(self) -> Interval:
        return total(self.phases_s.values()) if self.phases_s else ZERO

    @property
    def cost_usd_micros(self) -> Money:
        return Money(*(cost_usd_micros(seconds, self.price.usd_micros_per_hour) for seconds in self.wall_s))

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return Verdict.NO_BUDGET
        return judge_share(self.budget.share(self.wall_s.mid, self.cost_usd_micros.mid))

    @property
    def sentence(self) -> str:
        if self.measured is None:
            return "What it takes is not known before its dryrun."
        plan = f"Takes {minutes(self.wall_s)} and {dollars(self.cost_usd_micros)}"
        share = self.budget.share(self.wall_s.mid, self.cost_usd_micros.mid)
        if share is None:
            return f"{plan}; give a budget in time or money to judge it."
        return f"{plan}: {share:.0%} of the budget of {self.budget}."

    @property
    def assumptions(self) -> tuple[str, ...]:
        found = [*self.said, self.price.sentence()]
        if self.measured is not None and not self.measured.get("paced"):
            found.append("Its burst logged too few steps to tell its pace from its start: the bounds are wide.")
        if self.measured is not None:
            found.append("Evaluations and saves between its steps are taken as 0 to 50 % of stepping.")
        if self.spec.checkpoints is None:
            found.append("Whether it resumes after a kill is up to its code, which finds its files as it left them.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: seconds, bytes, integer micro-dollars. What is not known is left out."""
        known: dict[str, Any] = {}
        if self.measured is not None and self.step_s is not None:
            known = {
                "step_s": self.step_s.to_dict(),
                "wall_s": self.wall_s.to_dict(),
                "cost_usd_micros": self.cost_usd_micros.to_dict(),
                "hold_usd_micros": self.cost_usd_micros.high,
            }
        return known | {
            "workload": self.spec.name,
            "device": self.device,
            "num_steps": self.num_steps,
            "unit": self.spec.steps_parameter,
            "phases_s": {name: phase.to_dict() for name, phase in self.phases_s.items()},
            "dryrun_s": DRYRUN_S,
            "price": self.price.to_dict(),
            "budget_s": self.budget.s,
            "budget_usd_micros": self.budget.usd_micros,
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "assumptions": list(self.assumptions),
        }
