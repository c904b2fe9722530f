"""The loss law among noise, outliers, other regimes and smoke runs: it covers what it promises, and doubts by name."""

import math
import random

import pytest

from patron_core.scaling import Candidate, Observation, corpus_fit, gain, predict, refit, regime
from patron_core.scaling.anchors import _WEB_PRIOR, CLIMBMIX, FINEWEB_EDU, WEB_REGIME, _fitted
from patron_core.scaling.law import expected

HOME, OTHER = regime(4096, 256), regime(32768, 1024)


class World:
    """A corpus with a law, an offset for each regime and a noise, all drawn from a seed."""

    def __init__(self, seed: int, noise: float):
        self.rng, self.noise = random.Random(seed), noise
        r = self.rng.uniform
        self.law = (r(0.45, 0.8), 12 * r(0.7, 1.4), 0.22 * r(0.9, 1.1), 900 * r(0.7, 1.4), 0.4 * r(0.92, 1.08))
        self.offsets = {HOME: 0.0, OTHER: self.rng.gauss(0, 0.04)}

    def draw(self, low: float, high: float) -> float:
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))

    def run(self, num_params: float, num_tokens: float, of: str = HOME) -> Observation:
        e, a, alpha, b, beta = self.law
        bpb = (e + a / num_params**alpha + b / num_tokens**beta) * math.exp(self.offsets[of])
        bpb *= math.exp(self.rng.gauss(0, self.noise))
        return Observation(num_params=num_params, num_tokens=num_tokens, val_bpb=bpb, regime=of)

    def runs(self, count: int, *, of: tuple[str, ...] = (HOME,), outliers: int = 0) -> list[Observation]:
        """The outliers first: runs that went wrong by 15 to 80 %."""
        made = []
        for number in range(count):
            run = self.run(self.draw(1e6, 1e8), self.draw(1e7, 2e9), of[number % len(of)])
            wrong = math.exp(self.rng.uniform(0.15, 0.6)) if number < outliers else 1.0
            made.append(Observation(**(vars(run) | {"val_bpb": run.val_bpb * wrong})))
        return made


@pytest.mark.parametrize(
    ("count", "noise", "of", "outliers", "widest"),
    [
        (12, 0.02, (HOME,), 0, 0.06),
        (12, 0.02, (HOME,), 2, 0.08),
        (30, 0.01, (HOME, OTHER), 3, 0.03),
    ],
    ids=["noise", "outliers", "outliers and two regimes"],
)
def test_nine_in_ten_new_runs_fall_into_the_interval(count, noise, of, outliers, widest):
    """In 60 worlds, each with a new run of each regime."""
    inside, asked, halves = 0, 0, []
    for seed in range(60):
        world = World(seed, noise)
        fit = refit("path:/x", world.runs(count, of=of, outliers=outliers))
        for name in of:
            new = world.run(world.draw(2e6, 5e7), world.draw(2e7, 1e9), name)
            predicted = predict(fit, new.num_params, new.num_tokens, name)
            inside += predicted.low <= new.val_bpb <= predicted.high
            asked += 1
            halves.append(math.log(predicted.high / predicted.low) / 2)
    assert 0.83 <= inside / asked <= 0.99
    assert sum(halves) / len(halves) < widest


def test_intervals_narrow_as_runs_come_in():
    for corpus in ("path:/x", "climbmix"):
        world = World(3, 0.01)
        runs = world.runs(40)
        widths = []
        for count in (3, 8, 20, 40):
            predicted = predict(refit(corpus, runs[:count]), 2e7, 2e8, HOME)
            widths.append(math.log(predicted.high / predicted.low))
        assert widths == sorted(widths, reverse=True)


def test_a_smoke_run_bends_nothing_and_is_named():
    law = corpus_fit("stdlib")
    good = [
        Observation(num_params=n, num_tokens=d, val_bpb=expected(law, n, d), label=f"good {n:.0f}")
        for n, d in ((2.6e5, 3e6), (1e6, 5e6))
    ]
    smoke = Observation(num_params=262144, num_tokens=1536, val_bpb=6.02, label="six steps")
    fit = refit("stdlib", [*good, smoke])
    for run in good:
        predicted = predict(fit, run.num_params, run.num_tokens)
        assert predicted.low <= run.val_bpb <= predicted.high
        assert predicted.mid == pytest.approx(run.val_bpb, rel=0.02)
    assert [run.label for run in fit.doubted()] == ["six steps"]
    assert "of which six steps weigh little" in fit.source
    assert fit.to_dict()["doubted"] == ["six steps"]


def test_a_run_with_a_tiny_validation_weighs_little():
    law = corpus_fit("stdlib")

    def moved(eval_tokens: int | None) -> float:
        seen = Observation(
            num_params=1e6, num_tokens=1e6, val_bpb=1.03 * expected(law, 1e6, 1e6), eval_tokens=eval_tokens
        )
        return expected(refit("stdlib", [seen]), 1e6, 1e6) / expected(law, 1e6, 1e6) - 1

    assert moved(None) > 0.01
    assert moved(131_072) > 0.8 * moved(None)
    assert 0 < moved(512) < 0.2 * moved(None)


def test_another_vocabulary_has_an_offset_and_bends_no_law():
    world = World(5, 0.005)
    world.offsets[OTHER] = 0.08
    own = world.runs(20)
    mixed = refit("path:/x", [*own, *world.runs(6, of=(OTHER,))])
    assert mixed.home == HOME
    assert dict(mixed.offsets)[OTHER] == pytest.approx(0.08, abs=0.02)
    alone = refit("path:/x", own)
    assert expected(mixed, 1e7, 1e8, HOME) == pytest.approx(expected(alone, 1e7, 1e8, HOME), rel=0.01)


def test_a_regime_that_nobody_ran_has_a_wider_interval():
    law = corpus_fit("climbmix")
    known, new = predict(law, 1e8, 1e9, WEB_REGIME), predict(law, 1e8, 1e9, regime(4096, 256))
    assert known.mid == new.mid
    assert known.low / new.low > 1.05


@pytest.mark.parametrize(("corpus", "anchors"), [("fineweb-edu", FINEWEB_EDU), ("climbmix", CLIMBMIX)])
def test_published_runs_are_predicted_without_themselves(corpus, anchors):
    """Leave one out: each inside its interval; those within the range of the others by 1 % at most."""
    for number, left_out in enumerate(anchors):
        others = (*anchors[:number], *anchors[number + 1 :])
        fit = _fitted(corpus, _WEB_PRIOR, others, [], "without one", WEB_REGIME)
        predicted = predict(fit, left_out.num_params, left_out.num_tokens)
        assert predicted.low <= left_out.val_bpb <= predicted.high, left_out
        inside = min(o.num_tokens for o in others) <= left_out.num_tokens <= max(o.num_tokens for o in others)
        assert not inside or predicted.mid == pytest.approx(left_out.val_bpb, rel=0.01), left_out


def test_two_seeds_of_one_shape_are_rarely_called_different():
    """The 90 % interval of the gain holds the difference of nine in ten pairs of seeds."""
    alarms, pairs = 0, 0
    for seed in range(40):
        world = World(seed, 0.02)
        seen = [world.run(1e7, 1e8) for _ in range(20)]
        shape = Candidate(label="", num_params=1e7, num_tokens=1e8, regime=HOME)
        allowed = gain(refit("path:/x", seen), shape, shape).bpb
        for _ in range(5):
            difference = world.run(1e7, 1e8).val_bpb - world.run(1e7, 1e8).val_bpb
            alarms += not allowed.low <= difference <= allowed.high
            pairs += 1
    assert 0.04 <= alarms / pairs <= 0.16
