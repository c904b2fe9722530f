"""Is a run still worth its money? What its curve so far says of its end, beside runs that came to theirs. Pure.

Runs of one corpus and schedule fall alike: the loss at a share f of the steps, times what earlier runs gained from
there on, is where this one will end. How alike is measured between the earlier runs; one alone says little, and less
early.
(The median-stopping rule of Golovin et al. 2017, "Google Vizier", with the curves' own spread in the place of a rank.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from patron_core.interval import Interval

EARLIEST = 0.3  # of the steps; before that curves say nothing
WINDOW = 0.05  # of the steps that a loss is the mean of
Z95 = 1.645  # one-sided
FLOOR_SPREAD, SPREAD_LEFT = 0.01, 0.06  # of a ratio at the end, and what is added at its beginning, with no run to ask


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training: (step, train loss) in order, of `num_steps`. `val_bpb`: where it ended; None while it runs."""

    points: Sequence[tuple[int, float]]
    num_steps: int
    val_bpb: float | None = None

    def loss_at(self, share: float) -> float | None:
        """The mean loss of the last twentieth of the steps before `share` of them; None where nothing is known."""
        end = share * self.num_steps
        near = [loss for step, loss in self.points if end - WINDOW * self.num_steps < step <= end]
        return math.fsum(near) / len(near) if near and all(map(math.isfinite, near)) else None

    @property
    def share(self) -> float:
        return self.points[-1][0] / self.num_steps if self.points else 0.0


def expected_end(curve: Curve, others: Sequence[Curve]) -> Interval | None:
    """The val_bpb that the run is heading for, with its one-sided 95 % bounds. None where that cannot be said yet."""
    share = curve.share
    now = curve.loss_at(share)
    if share < EARLIEST or now is None or now <= 0:
        return None
    ratios = [
        math.log(other.val_bpb / loss)
        for other in others
        if other.val_bpb and (loss := other.loss_at(share)) is not None and loss > 0
    ]
    if not ratios:
        return None
    mean = math.fsum(ratios) / len(ratios)
    seen = math.sqrt(math.fsum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)) if len(ratios) > 1 else 0.0
    spread = max(seen, FLOOR_SPREAD + SPREAD_LEFT * (1 - share)) * math.sqrt(1 + 1 / len(ratios))
    middle = now * math.exp(mean)
    return Interval(middle * math.exp(-Z95 * spread), middle, middle * math.exp(Z95 * spread))


def is_hopeless(curve: Curve, others: Sequence[Curve], best_bpb: float) -> Interval | None:
    """Where it is heading, if with 95 % that is no better than the best there is; else None."""
    end = expected_end(curve, others)
    return end if end is not None and end.low > best_bpb else None
