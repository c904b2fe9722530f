"""What CORE takes of a finished run's checkpoint, on the device that it trained on: seconds and dollars. Pure.

Its 22 tasks go through the model item by item, a few texts at a time, without gradients: at the pace of an evaluation,
less what small batches cost. How long the texts are in tokens is told by their characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patron_core.estimate import wall
from patron_core.estimate.estimating import Estimate, Money
from patron_core.estimate.verdict import dollars, minutes
from patron_core.interval import Interval
from patron_core.money import cost_usd_micros
from trainer.contract.core_tasks import Task, count_tokens

OVER_EVAL = Interval(0.8, 1.5, 4.0)  # of an evaluation's time for as many tokens, which come in whole batches there


@dataclass(frozen=True, kw_only=True)
class CorePrice:
    tokens: float
    wall_s: Interval
    cost_usd_micros: Money

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": round(self.tokens),
            "wall_s": self.wall_s.to_dict(),
            "cost_usd_micros": self.cost_usd_micros.to_dict(),
        }

    @property
    def sentence(self) -> str:
        """For people."""
        took = f"{minutes(self.wall_s)} and {dollars(self.cost_usd_micros)}"
        return (
            f"CORE of its checkpoint, {self.tokens:,.0f} tokens, takes {took} more; the run's figures are without it."
        )


def core_price(row: Estimate, tasks: Sequence[Task]) -> CorePrice:
    """On one process of the estimate's device, at its price."""
    per_token = wall.bytes_per_token(row.recipe.vocab_size)
    tokens = count_tokens(tasks, lambda text: len(text) / per_token, row.recipe.sequence_len)
    evaluated = wall.evaluated_tokens(row.spec.data, row.spec.eval_tokens)
    shares = (row.world.ranks * tokens / evaluated * over for over in OVER_EVAL)  # an evaluation is shared by all ranks
    wall_s = Interval(*(share * s for share, s in zip(shares, row.eval_s, strict=True)))
    money = Money(*(cost_usd_micros(s, row.price.usd_micros_per_hour) for s in wall_s))
    return CorePrice(tokens=tokens, wall_s=wall_s, cost_usd_micros=money)
