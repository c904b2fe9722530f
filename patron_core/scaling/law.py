"""The loss law and what follows from it: bpb = E + A / N^alpha + B / D^beta. Pure.

N counts matrices + lm_head, D the tokens trained on. The five parameters are kept as logarithms, so they stay positive
and the law always falls with N and with D; the two terms are measured at a reference point, so they hardly depend on
each other.
A fit keeps the covariance of the parameters: intervals widen by themselves away from what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patron_core.interval import Interval
from patron_core.scaling.matrix import Matrix, Vector, quadratic

Z90 = 1.645  # nine in ten of a normal distribution lie within this many standard deviations
REFERENCE_PARAMS = 1e8
REFERENCE_TOKENS = 1e9
OUTSIDE_SPREAD = 0.012  # added relative error for each e-fold outside the measured range, by N and by D


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One finished run. `num_params` is Recipe.num_params.scaling, `num_tokens` what it trained on."""

    num_params: float
    num_tokens: float
    val_bpb: float
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The law for one corpus, with its uncertainty and what it was fitted on."""

    corpus: str
    theta: tuple[float, float, float, float, float]  # ln of E, A-term, B-term, alpha, beta
    covariance: Matrix
    noise: float  # relative, of one run: seeds, evaluation
    anchors: tuple[Observation, ...]  # published or measured in advance
    observations: tuple[Observation, ...] = ()  # the user's own
    source: str = ""

    @property
    def measured(self) -> bool:
        """False when nothing was ever measured on this corpus, and the law is a guess."""
        return bool(self.anchors or self.observations)

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

    def residuals(self) -> list[dict[str, Any]]:
        """Measured minus predicted, for every run the law was fitted on."""
        rows = []
        for seen in (*self.anchors, *self.observations):
            predicted = value(self.theta, seen.num_params, seen.num_tokens)
            rows.append(asdict(seen) | {"predicted_bpb": predicted, "residual_bpb": seen.val_bpb - predicted})
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "coefficients": self.coefficients,
            "num_anchors": len(self.anchors),
            "num_observations": len(self.observations),
            "noise": self.noise,
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


def gradient(theta: Sequence[float], num_params: float, num_tokens: float) -> Vector:
    """Of the predicted bpb by the five parameters."""
    bpb, n_term, d_term, x, y = terms(theta, num_params, num_tokens)
    return (
        bpb - n_term - d_term,
        n_term,
        d_term,
        -math.exp(theta[3]) * x * n_term,
        -math.exp(theta[4]) * y * d_term,
    )


def predict(fit: Fit, num_params: float, num_tokens: float) -> Interval:
    """Validation bpb of one run not yet made, with the interval that nine in ten such runs should fall into."""
    bpb = value(fit.theta, num_params, num_tokens)
    variance = quadratic(fit.covariance, gradient(fit.theta, num_params, num_tokens))
    spread = (fit.noise * bpb) ** 2 + (OUTSIDE_SPREAD * outside(fit, num_params, num_tokens) * bpb) ** 2
    half = Z90 * math.sqrt(max(0.0, variance) + spread)
    return Interval(bpb * math.exp(-half / bpb), bpb, bpb * math.exp(half / bpb))


def outside(fit: Fit, num_params: float, num_tokens: float) -> float:
    """How many e-folds a run lies outside the box of runs the law was fitted on; 0 inside."""
    seen = (*fit.anchors, *fit.observations)
    if not seen:
        return 0.0  # nothing to be outside of: the prior's own width says it all
    params = [run.num_params for run in seen]
    tokens = [run.num_tokens for run in seen]
    return _log_distance(num_params, min(params), max(params)) + _log_distance(num_tokens, min(tokens), max(tokens))


def _log_distance(value: float, low: float, high: float) -> float:
    if value < low:
        return math.log(low / value)
    return math.log(value / high) if value > high else 0.0
