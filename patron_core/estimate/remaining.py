"""What a run that is under way still needs: seconds and money, from its own pace. Pure.

Pace is wall time a step, with evaluations and checkpoints in it: of the training's pieces so far, the middle is
expected, and the slowest and fastest twentieth bound what the mean of the rest may be.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from patron_core.interval import Interval, total
from patron_core.scaling.law import Z90

PIECES = 20
ENOUGH = 10  # points of a machine, to know its pace; before that it compiles and warms up
SETTLED = 2  # its first points, left out where there are more
LEAST_SPREAD = 0.03  # of a pace: it may change


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What one attempt showed: (step, unix seconds) of its points in order, and when its machine was started."""

    points: Sequence[tuple[float, float]]
    started_at: float | None = None


def pace_s(stretches: Sequence[Stretch]) -> Interval | None:
    """Seconds a step, of the newest attempt that is long enough to tell. None where none is."""
    for stretch in reversed(stretches):
        points = stretch.points[SETTLED:]
        if len(points) < ENOUGH or points[-1][0] <= points[0][0]:
            continue
        size = max(1, (len(points) - 1) // PIECES)
        ends = points[::size] if (len(points) - 1) % size == 0 else [*points[::size], points[-1]]
        pieces = sorted(
            (after[1] - before[1]) / (after[0] - before[0])
            for before, after in itertools.pairwise(ends)
            if after[0] > before[0]
        )
        mid = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
        spread = statistics.pstdev(pieces) * Z90 / len(pieces) ** 0.5 if len(pieces) > 1 else 0.25 * mid
        away = max(LEAST_SPREAD * mid, spread)
        return Interval(max(0.5 * mid, mid - away), mid, mid + 1.5 * away)
    return None


def startup_s(stretches: Sequence[Stretch]) -> Interval | None:
    """From a machine's start to its first point, of those that came so far. None where none did."""
    known = [s.points[0][1] - s.started_at for s in stretches if s.points and s.started_at is not None]
    known = [seconds for seconds in known if seconds >= 0]
    if not known:
        return None
    return Interval(0.8 * min(known), statistics.median(known), 1.5 * max(known))


def left_s(steps_left: float, stretches: Sequence[Stretch], *, restarts: bool) -> Interval | None:
    """Until the last step. `restarts`: on a machine that is still to come, or has not got to its first step."""
    pace = pace_s(stretches)
    if pace is None:
        return None
    parts = [pace.scaled(max(0.0, steps_left))]
    if restarts and (again := startup_s(stretches)) is not None:
        parts.append(again)
    return total(parts)


def useful_s(steps: Sequence[float], step_s: Sequence[float]) -> float:
    """Seconds that became training: of each step that counts, its own. Where only every nth step said how long it took,
    each says it for those before it."""
    total_s = earlier = 0.0
    for step, seconds in zip(steps, step_s, strict=True):
        total_s += seconds * max(0.0, step - earlier)
        earlier = step
    return total_s
