"""What a run still needs: from its own pace, with intervals that hold what came."""

from __future__ import annotations

import math
import random

import pytest

from patron_core.estimate.remaining import Stretch, left_s, pace_s, startup_s, useful_s
from patron_core.interval import Interval


def walk(num: int, *, step_s: float, noise: float = 0.0, first: int = 1, start: float = 0.0, seed: int = 0) -> Stretch:
    """Steps after a start-up of 30 s."""
    chance, at, points = random.Random(seed), start + 30.0, []
    for step in range(first, first + num):
        at += step_s * math.exp(chance.gauss(0, noise))
        points.append((float(step), at))
    return Stretch(points=points, started_at=start)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_is_left_holds_what_came(noise: float) -> None:
    whole = walk(2000, step_s=0.5, noise=noise)
    inside = 0
    for seen in range(100, 1900, 100):
        left = left_s(2000 - seen, [Stretch(points=whole.points[:seen], started_at=0.0)], restarts=False)
        assert left is not None
        inside += left.low <= whole.points[-1][1] - whole.points[seen - 1][1] <= left.high
        assert left.high < 2 * left.low
    assert inside >= 16


def test_too_few_steps_say_nothing_and_a_new_machine_takes_the_pace_of_the_one_before() -> None:
    assert pace_s([walk(5, step_s=1)]) is None
    assert pace_s([]) is None
    slow, young = walk(100, step_s=2), walk(3, step_s=1, first=101, start=500)
    pace = pace_s([slow, young])
    assert pace is not None
    assert pace.mid == pytest.approx(2)


def test_a_restart_takes_what_starts_took() -> None:
    seen = [walk(100, step_s=1)]
    plain, again = left_s(50, seen, restarts=False), left_s(50, seen, restarts=True)
    assert plain is not None
    assert again is not None
    assert startup_s(seen) == Interval(0.8 * 31, 31, 1.5 * 31)
    assert again.mid - plain.mid == pytest.approx(31)
    assert startup_s([Stretch(points=[], started_at=0.0)]) is None


def test_steps_that_were_not_logged_count_too() -> None:
    assert useful_s([10, 20, 25], [0.5, 0.5, 1.0]) == pytest.approx(5 + 5 + 5)
    assert useful_s([], []) == 0
