"""A curve continued to its end: the interval holds at its rate for curves of a form it does not know."""

import json
import math
import random
from pathlib import Path

import pytest

from patron_core.errors import InvalidInput
from patron_core.interval import Interval
from patron_core.scaling.curve_form import FINAL_LR
from patron_core.scaling.projection import project
from tests.bench.forecasts import curve_ends

RESULTS = Path(__file__).parents[1] / "bench" / "results" / "forecasts.json"


class Truth:
    """A curve drawn from a seed: a power law of steps with an offset, and a hill that lags behind the learning rate."""

    def __init__(self, seed: int, num_steps: int = 1000, noise: float = 0.02):
        rng, self.num_steps = random.Random(seed), num_steps
        r = rng.uniform
        self.start = round(num_steps * r(0.35, 0.8))
        self.floor, self.top, self.alpha, self.offset = r(1.5, 3.0), r(0.3, 1.5), r(0.25, 0.7), r(0.0, 0.02)
        self.hill, self.lag = r(0.02, 0.09), r(0.0, 0.08) * num_steps
        self.noise = [math.exp(rng.gauss(0, noise)) for _ in range(num_steps)]

    def at(self, step: float, num_steps: float | None = None) -> float:
        n = num_steps or self.num_steps
        start = self.start * n / self.num_steps
        into, lag = max(0.0, step - start), max(1e-9, self.lag * n / self.num_steps)
        late = into - lag * (1 - math.exp(-into / lag))
        lr = 1 - (1 - FINAL_LR) * min(1.0, late / (n - start))
        area = min(step, start) + into * (1 + lr) / 2
        fall = self.top * (area / self.num_steps + self.offset) ** -self.alpha
        return (self.floor + fall) * (1 + self.hill * (lr - 1))

    def points(self, share: float) -> list[tuple[int, float]]:
        return [(step, self.at(step) * self.noise[step - 1]) for step in range(1, round(share * self.num_steps) + 1)]

    def project(self, share: float, prior: Interval | None = None, every: int = 1):
        progress = self.points(share)[every - 1 :: every]
        return project(progress, num_steps=self.num_steps, warmdown_start_step=self.start, prior=prior)


def relative(interval: Interval) -> float:
    return math.log(interval.high / interval.low) / 2


@pytest.mark.parametrize(("share", "widest"), [(0.2, 0.11), (0.5, 0.065), (0.8, 0.03)])
@pytest.mark.parametrize(("noise", "every"), [(0.02, 1), (0.002, 50)], ids=["train loss", "evaluations"])
def test_nine_in_ten_ends_fall_into_the_interval(share, widest, noise, every):
    inside, widths = 0, []
    for seed in range(60):
        truth = Truth(seed, noise=noise)
        final = truth.project(share, every=every).final
        inside += final.low <= truth.at(truth.num_steps) <= final.high
        widths.append(relative(final))
    assert inside / 60 >= 0.87
    assert sum(widths) / len(widths) < widest


def test_the_interval_narrows_along_the_run_and_the_past_is_known():
    truth = Truth(7)
    widths = [relative(truth.project(share).final) for share in (0.1, 0.3, 0.6, 0.95)]
    assert widths == sorted(widths, reverse=True)
    seen = truth.project(0.5)
    past, ahead = seen.band([200, 400]), seen.band(range(500, 1001, 100))
    for step, interval in zip((200, 400), past, strict=True):
        assert interval.low <= truth.at(step) <= interval.high
    assert max(map(relative, past)) < min(map(relative, ahead[2:]))
    assert [relative(each) for each in ahead] == sorted(relative(each) for each in ahead)
    assert ahead[-1] == pytest.approx(seen.final)


def test_a_warm_down_ahead_is_counted():
    """The same curve so far: with a warm-down to come it ends lower than with none."""
    progress = Truth(3).points(0.35)
    falls = project(progress, num_steps=420, warmdown_start_step=360).final
    stays = project(progress, num_steps=420, warmdown_start_step=420).final
    assert falls.mid < 0.99 * stays.mid


def test_a_forecast_narrows_an_early_curve_and_gives_way_to_a_late_one():
    truth = Truth(5)
    end = truth.at(1000)
    early, late = truth.project(0.1), truth.project(0.95)
    right = Interval(0.98 * end, end, 1.02 * end)
    assert relative(truth.project(0.1, prior=right).final) < 0.5 * relative(early.final)
    wrong = Interval(1.1 * end, 1.15 * end, 1.2 * end)
    assert truth.project(0.95, prior=wrong).final.mid == pytest.approx(late.final.mid, rel=0.01)


def test_before_the_first_point_the_forecast_is_all_there_is():
    prior = Interval(1.8, 2.0, 2.2)
    final = project([], num_steps=100, warmdown_start_step=35, prior=prior).final
    assert final.mid == pytest.approx(2.0, rel=0.01)
    assert relative(final) == pytest.approx(relative(prior), rel=0.2)
    assert final.high < project([(1, 11.0)], num_steps=100, warmdown_start_step=35).final.high
    with pytest.raises(InvalidInput, match="no prior"):
        project([], num_steps=100, warmdown_start_step=35)
    with pytest.raises(InvalidInput, match="num_steps 100, warmdown_start_step 101"):
        project([(1, 2.0)], num_steps=100, warmdown_start_step=101)


def test_what_more_tokens_would_give():
    """20 % more tokens, the schedule stretched: in nine of ten worlds inside, and far narrower than the end itself."""
    inside = 0
    for seed in range(60):
        truth = Truth(seed)
        more = truth.project(0.7).with_more_tokens(1.2)
        longer = truth.at(1200, 1200)
        inside += more.gain.low <= truth.at(1000) - longer <= more.gain.high
        assert more.final.low <= more.final.mid <= more.final.high
        assert more.gain.high - more.gain.low < more.final.high - more.final.low
    assert inside / 60 >= 0.85
    assert Truth(1).project(0.7).with_more_tokens(1.0).gain.mid == pytest.approx(0)
    with pytest.raises(InvalidInput, match="factor: 0"):
        Truth(1).project(0.7).with_more_tokens(0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("kind", ["train_loss", "val_bpb"])
def test_real_curves_end_inside(kind, share):
    """Small runs of this trainer, as `python -m tests.bench.forecasts` kept them."""
    ends = curve_ends(json.loads(RESULTS.read_text())["runs"], kind, share)
    assert sum(inside for inside, _ in ends) / len(ends) >= 0.8
