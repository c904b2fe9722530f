"""The loss law: anchors are met, it falls with N and D, and it learns from runs."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patron_core.errors import InvalidInput
from patron_core.scaling import Candidate, Observation, corpus_fit, gain, optimal, outside, predict, recommend, refit

CORPORA = ["fineweb-edu", "climbmix", "stdlib", "path:/some/where"]
params = st.floats(1e5, 1e10)
tokens = st.floats(1e5, 1e12)


def width(interval) -> float:
    return (interval.high - interval.low) / interval.mid


@pytest.mark.parametrize(("corpus", "tolerance"), [("fineweb-edu", 0.004), ("climbmix", 0.006), ("stdlib", 0.03)])
def test_anchors_are_met(corpus, tolerance):
    fit = corpus_fit(corpus)
    assert len(fit.anchors) >= 3
    for row in fit.residuals():
        assert abs(row["residual_bpb"]) / row["val_bpb"] < tolerance, row
        predicted = predict(fit, row["num_params"], row["num_tokens"])
        assert predicted.low < row["val_bpb"] < predicted.high


def test_published_power_law_is_met():
    """bpb = .8962 c^-.0498 along the compute-optimal line, c in 1e18 FLOP, well inside the interval."""
    fit = corpus_fit("fineweb-edu")
    for c in (1, 3, 10):
        predicted = predict(fit, 110.8e6 * c**0.536, 1.238e9 * c**0.489)
        assert predicted.mid == pytest.approx(0.8962 * c**-0.0498, rel=0.005)


def test_left_out_anchor_is_predicted_from_the_others():
    """d24 from d10 and d12 alone, six times the tokens away: inside the interval, and within 6 %."""
    from patron_core.scaling.anchors import _WEB_PRIOR, CLIMBMIX, _fitted

    fit = _fitted("climbmix", _WEB_PRIOR, CLIMBMIX[:2], [], "without d24", None)
    d24 = CLIMBMIX[2]
    predicted = predict(fit, d24.num_params, d24.num_tokens)
    assert predicted.low < d24.val_bpb < predicted.high
    assert predicted.mid == pytest.approx(d24.val_bpb, rel=0.06)


@pytest.mark.parametrize("corpus", CORPORA)
@given(n=params, d=tokens, factor=st.floats(1.01, 100))
def test_loss_falls_with_size_and_tokens(corpus, n, d, factor):
    fit = corpus_fit(corpus)
    here = predict(fit, n, d)
    assert 0 < here.low <= here.mid <= here.high
    assert predict(fit, n * factor, d).mid <= here.mid
    assert predict(fit, n, d * factor).mid <= here.mid


def test_interval_widens_outside_what_was_measured():
    fit = corpus_fit("fineweb-edu")
    inside = predict(fit, 200e6, 2e9)
    assert outside(fit, 200e6, 2e9) == 0
    assert width(predict(fit, 20e6, 0.2e9)) > 2 * width(inside)
    assert width(predict(fit, 2e9, 2e10)) > 2 * width(inside)


def test_unknown_corpus_says_so_and_is_wide():
    fit = corpus_fit("path:/some/where")
    assert not fit.measured
    assert "not measured" in fit.source
    assert width(predict(fit, 1e8, 1e9)) > 0.5


def truth(n: float, d: float) -> float:
    return 0.75 + 12.0 / n**0.22 + 900.0 / d**0.40


def runs(count: int, noise: float = 0.003) -> list[Observation]:
    rng = random.Random(7)
    made = []
    for _ in range(count):
        n, d = math.exp(rng.uniform(math.log(1e6), math.log(1e8))), math.exp(rng.uniform(math.log(1e7), math.log(2e9)))
        made.append(Observation(num_params=n, num_tokens=d, val_bpb=truth(n, d) * math.exp(rng.gauss(0, noise))))
    return made


def test_refit_converges_and_narrows():
    """1, 2, 20 runs of an unknown corpus: the error falls, the interval narrows and goes on holding the truth."""
    asked = (2e7, 2e8)
    predictions = [predict(refit("path:/x", runs(count)), *asked) for count in (0, 1, 2, 20)]
    widths = [width(p) for p in predictions]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.25 * widths[0]
    assert all(p.low <= truth(*asked) <= p.high for p in predictions)
    assert predictions[-1].mid == pytest.approx(truth(*asked), rel=0.02)


def test_one_observation_moves_its_own_prediction():
    fit = refit("path:/x", [Observation(num_params=1e7, num_tokens=1e8, val_bpb=1.9)])
    assert fit.measured
    assert predict(fit, 1e7, 1e8).mid == pytest.approx(1.9, rel=0.02)
    assert len(fit.observations) == 1
    assert fit.to_dict()["num_observations"] == 1


def test_refit_order_does_not_matter():
    seen = runs(6)
    assert refit("climbmix", seen).theta == pytest.approx(refit("climbmix", seen[::-1]).theta, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_refit_names_the_bad_run(bad):
    with pytest.raises(InvalidInput, match="diverged"):
        refit("climbmix", [Observation(num_params=1e8, num_tokens=1e9, val_bpb=bad, label="diverged one")])


@pytest.mark.parametrize("corpus", ["fineweb-edu", "climbmix"])
@pytest.mark.parametrize("flops", [1e17, 1e18, 1e19])
def test_optimal_split_beats_its_neighbours(corpus, flops):
    fit = corpus_fit(corpus)
    best = optimal(fit, flops)
    assert 6 * best.num_params * best.num_tokens == pytest.approx(flops)
    for factor in (0.8, 1.25):
        assert predict(fit, best.num_params * factor, best.num_tokens / factor).mid > best.val_bpb.mid


def test_optimal_split_is_near_the_published_one():
    best = optimal(corpus_fit("fineweb-edu"), 6 * 250.7e6 * 2.642e9)
    assert best.num_params == pytest.approx(250.7e6, rel=0.15)


def test_gain_is_signed_and_sure_only_when_large():
    fit = corpus_fit("climbmix")
    d10 = Candidate(label="d10", num_params=70.1e6, num_tokens=0.786e9)
    d12 = Candidate(label="d12", num_params=110.1e6, num_tokens=1.156e9)
    better, worse = gain(fit, d10, d12), gain(fit, d12, d10)
    assert better.bpb.mid == pytest.approx(-worse.bpb.mid)
    assert better.bpb.mid == pytest.approx(0.043, abs=0.012)
    assert better.probability > 0.97
    assert better.probability + worse.probability == pytest.approx(1)
    same = gain(fit, d10, d10)
    assert same.probability == pytest.approx(0.5)
    assert same.bpb.low < 0 < same.bpb.high


def test_recommend_puts_the_most_promising_first():
    fit = corpus_fit("climbmix")
    candidates = [
        Candidate(label=name, num_params=n, num_tokens=d)
        for name, n, d in [("d6", 23.2e6, 0.28e9), ("d12", 110.1e6, 1.16e9), ("d10", 70.1e6, 0.79e9)]
    ]
    assert [row.candidate.label for row in recommend(fit, candidates)] == ["d12", "d10", "d6"]
    ranked = recommend(fit, candidates, best_bpb=0.897)
    assert ranked[0].candidate.label == "d12"
    assert ranked[0].expected_improvement_bpb > ranked[-1].expected_improvement_bpb >= 0
