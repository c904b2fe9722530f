"""Is a run still worth its money? Where its curve is heading, beside runs that came to their end. Pure.

The curve is continued to its end (projection.py); what a train loss there means in val_bpb is learned from earlier runs
of the corpus, each continued from the same share of its steps. So what the projection misses at that share, it misses
in all of them alike, and how alike is measured between them; one alone says little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from patron_core.interval import Interval
from patron_core.scaling.law import Z90, t90
from patron_core.scaling.projection import project

EARLIEST = 0.3  # of the steps; before that curves say nothing
FLOOR_SPREAD = 0.01  # relative: a validation is another sample than the last batches
OWN_RUNS = 3.0  # how many earlier runs the projection's own width counts for


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training: (step, train loss) in order, of `num_steps`. `val_bpb`: where it ended; None while it runs.

    `warmdown_start_step`: where its learning rate begins to fall; None: it never does."""

    points: Sequence[tuple[int, float]]
    num_steps: int
    warmdown_start_step: int | None = None
    val_bpb: float | None = None

    @property
    def share(self) -> float:
        return self.points[-1][0] / self.num_steps if self.points else 0.0

    def end_seen_at(self, share: float) -> Interval | None:
        """The train loss at the end, as it looks after a share of the steps. None where the curve says nothing."""
        so_far = [p for p in takewhile(lambda point: point[0] <= share * self.num_steps, self.points) if p[0] > 0]
        if not so_far or not all(math.isfinite(loss) and loss > 0 for _, loss in so_far):
            return None
        start = self.num_steps if self.warmdown_start_step is None else self.warmdown_start_step
        return project(so_far, num_steps=self.num_steps, warmdown_start_step=start).final


def expected_end(curve: Curve, others: Sequence[Curve]) -> Interval | None:
    """The val_bpb that the run is heading for, with its one-sided 95 % bounds. None where that cannot be said yet."""
    share = curve.share
    if share < EARLIEST or (end := curve.end_seen_at(share)) is None:
        return None
    ratios = [
        math.log(other.val_bpb / seen.mid)
        for other in others
        if other.val_bpb and (seen := other.end_seen_at(share)) is not None
    ]
    if not ratios:
        return None
    mean = math.fsum(ratios) / len(ratios)
    own = max(FLOOR_SPREAD, math.log(end.high / end.low) / 2 / Z90)
    degrees = OWN_RUNS + len(ratios) - 1
    variance = (OWN_RUNS * own**2 + math.fsum((ratio - mean) ** 2 for ratio in ratios)) / degrees
    half = t90(degrees) * math.sqrt(variance * (1 + 1 / len(ratios)))
    middle = end.mid * math.exp(mean)
    return Interval(middle * math.exp(-half), middle, middle * math.exp(half))


def is_hopeless(curve: Curve, others: Sequence[Curve], best_bpb: float) -> Interval | None:
    """Where it is heading, if with 95 % that is no better than the best there is; else None."""
    end = expected_end(curve, others)
    return end if end is not None and end.low > best_bpb else None
