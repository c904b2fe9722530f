"""The loss law and what follows from it: bpb = (E + A / N^alpha + B / D^beta) exp(offset of the regime). Pure.

N counts matrices + lm_head, D the tokens trained on. The five parameters are kept as logarithms, so they stay positive
and the law always falls with N and with D; the two terms are measured at a reference point, so they hardly depend on
each other. Runs of another *regime* (vocabulary, context) lie on the same law but for an offset of their own, which is
learned from them; the regime of the corpus's anchors has offset 0.
A fit keeps the covariance of the parameters: intervals widen by themselves away from what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from patron_core.interval import Interval

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]
Box = tuple[float, float, float, float]
Theta = tuple[float, float, float, float, float]  # ln of E, A-term, B-term, alpha, beta

Z90 = 1.645  # nine in ten of a normal distribution lie within this many standard deviations
REFERENCE_PARAMS = 1e8
REFERENCE_TOKENS = 1e9
OUTSIDE_SPREAD = 0.012  # added relative error for each e-fold outside the measured range, by N and by D
OFFSET_SPREAD = 0.05  # relative, of a regime's offset before any run of it
DOUBTED_BELOW = 0.2  # runs that weigh less than this are named


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One finished run. `num_params` is Recipe.num_params.scaling, `num_tokens` what it trained on."""

    num_params: float
    num_tokens: float
    val_bpb: float
    label: str = ""
    regime: str | None = None  # None: that of the corpus's anchors
    eval_tokens: float | None = None  # of its validation; None: so many that their choice does not matter


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The law for one corpus, with its uncertainty and what it was fitted on."""

    corpus: str
    theta: Theta
    offsets: tuple[tuple[str, float], ...] = ()  # of regimes other than the home one, relative in bpb
    covariance: Matrix  # of theta and then of the offsets
    noise: float  # relative, of one run: seeds, order of the data
    noise_runs: float  # how many runs that figure rests on
    home: str | None = None  # the regime whose offset is 0
    anchors: tuple[Observation, ...]  # published or measured in advance
    observations: tuple[Observation, ...] = ()  # the user's own
    weights: tuple[float, ...] = ()  # of the user's own, 0 to 1: how far each is believed
    source: str = ""
    stretch: float = 1.0  # of half-widths, since runs came out further away than said

    @property
    def measured(self) -> bool:
        """False when nothing was ever measured on this corpus, and the law is a guess."""
        return bool(self.anchors or self.observations)

    @cached_property
    def box(self) -> Box | None:
        """The range of what was measured."""
        return box_of((*self.anchors, *self.observations))

    @property
    def coefficients(self) -> dict[str, float]:
        """E, A, B, alpha, beta as papers write them."""
        e, a, b, alpha, beta = map(math.exp, self.theta)
        return {
            "E": e,
            "A": a * REFERENCE_PARAMS**alpha,
            "B": b * REFERENCE_TOKENS**beta,
            "alpha": alpha,
            "beta": beta,
        }

    def offset(self, regime: str | None) -> tuple[float, int | None, bool]:
        """(offset, its place in the covariance, whether it is known at all)."""
        if regime is None or regime == self.home:
            return 0.0, None, True
        for place, (name, value) in enumerate(self.offsets):
            if name == regime:
                return value, len(self.theta) + place, True
        return 0.0, None, not self.measured  # of a corpus that nobody measured, any regime is the first

    def residuals(self) -> list[dict[str, Any]]:
        """Measured minus predicted, for every run the law was fitted on, and how far it is believed."""
        rows = []
        weights = (*(1.0 for _ in self.anchors), *self.weights)
        for seen, weight in zip((*self.anchors, *self.observations), weights, strict=True):
            predicted = expected(self, seen.num_params, seen.num_tokens, seen.regime)
            rows.append(
                asdict(seen) | {"predicted_bpb": predicted, "residual_bpb": seen.val_bpb - predicted, "weight": weight}
            )
        return rows

    def doubted(self) -> list[Observation]:
        """The user's runs that the law hardly believes: far from all others, or hardly validated."""
        return [seen for seen, weight in zip(self.observations, self.weights, strict=True) if weight < DOUBTED_BELOW]

    def to_dict(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "coefficients": self.coefficients,
            "num_anchors": len(self.anchors),
            "num_observations": len(self.observations),
            "noise": self.noise,
            "regimes": {str(self.home or "anchors"): 0.0} | dict(self.offsets),
            "doubted": [seen.label for seen in self.doubted()],
            "source": self.source,
            "residuals": self.residuals(),
        }


def value(theta: Sequence[float], num_params: float, num_tokens: float) -> float:
    return terms(theta, num_params, num_tokens)[0]


def terms(theta: Sequence[float], num_params: float, num_tokens: float) -> tuple[float, float, float, float, float]:
    """(bpb, N term, D term, ln N and ln D from the reference)."""
    x = math.log(num_params / REFERENCE_PARAMS)
    y = math.log(num_tokens / REFERENCE_TOKENS)
    n_term = math.exp(theta[1] - math.exp(theta[3]) * x)
    d_term = math.exp(theta[2] - math.exp(theta[4]) * y)
    return math.exp(theta[0]) + n_term + d_term, n_term, d_term, x, y


def log_gradient(theta: Sequence[float], num_params: float, num_tokens: float) -> Vector:
    """Of ln bpb by the five parameters."""
    bpb, n_term, d_term, x, y = terms(theta, num_params, num_tokens)
    return (
        (bpb - n_term - d_term) / bpb,
        n_term / bpb,
        d_term / bpb,
        -math.exp(theta[3]) * x * n_term / bpb,
        -math.exp(theta[4]) * y * d_term / bpb,
    )


def expected(fit: Fit, num_params: float, num_tokens: float, regime: str | None = None) -> float:
    return value(fit.theta, num_params, num_tokens) * math.exp(fit.offset(regime)[0])


def predict(fit: Fit, num_params: float, num_tokens: float, regime: str | None = None) -> Interval:
    """Validation bpb of one run not yet made, with the interval that nine in ten such runs should fall into."""
    bpb = expected(fit, num_params, num_tokens, regime)
    variance = max(0.0, quadratic(fit.covariance, slope(fit, num_params, num_tokens, regime)))
    if not fit.offset(regime)[2]:
        variance += OFFSET_SPREAD**2
    variance += fit.noise**2 + (OUTSIDE_SPREAD * outside(fit, num_params, num_tokens)) ** 2
    half = fit.stretch * t90(fit.noise_runs) * math.sqrt(variance)
    return Interval(bpb * math.exp(-half), bpb, bpb * math.exp(half))


def slope(fit: Fit, num_params: float, num_tokens: float, regime: str | None) -> Vector:
    """Of ln bpb by everything that the covariance speaks of."""
    place = fit.offset(regime)[1]
    own = (1.0 if len(fit.theta) + i == place else 0.0 for i in range(len(fit.offsets)))
    return (*log_gradient(fit.theta, num_params, num_tokens), *own)


def outside(fit: Fit, num_params: float, num_tokens: float) -> float:
    """How many e-folds a run lies outside the box of runs the law was fitted on; 0 inside."""
    return outside_of(fit.box, num_params, num_tokens)


def box_of(seen: Sequence[Observation]) -> Box | None:
    """(fewest params, most, fewest tokens, most); None of no runs: the prior's own width says it all."""
    if not seen:
        return None
    params, tokens = [run.num_params for run in seen], [run.num_tokens for run in seen]
    return min(params), max(params), min(tokens), max(tokens)


def outside_of(box: Box | None, num_params: float, num_tokens: float) -> float:
    if box is None:
        return 0.0
    return _log_distance(num_params, box[0], box[1]) + _log_distance(num_tokens, box[2], box[3])


def t90(degrees: float) -> float:
    """Student's t for nine in ten: Z90 where the noise is well known, more where it rests on few runs.

    The first terms of its expansion in 1 / degrees (Abramowitz and Stegun 26.7.5)."""
    z = Z90
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def quadratic(matrix: Matrix, vector: Sequence[float]) -> float:
    """v^T M v."""
    total = 0.0
    for v, row in zip(vector, matrix, strict=True):
        total += v * sum(map(float.__mul__, row, vector))
    return total


def _log_distance(value: float, low: float, high: float) -> float:
    if value < low:
        return math.log(low / value)
    return math.log(value / high) if value > high else 0.0
