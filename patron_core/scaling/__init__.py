"""What a run's validation bpb will be, learned from published points and from every finished run. Pure.

fit = refit("stdlib", observations)          # observations may be empty
predict(fit, num_params, num_tokens)         # Interval of val_bpb
optimal(fit, flops)                          # how to split a compute budget between N and D
gain(fit, base, candidate)                   # is it better, by how much, how surely
recommend(fit, candidates, best_bpb)         # candidates, the most promising first
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.interval import Interval
from patron_core.scaling.anchors import corpus_fit, prior_of, regime, usual_noise
from patron_core.scaling.fitting import fit_law
from patron_core.scaling.law import (
    REFERENCE_PARAMS,
    REFERENCE_TOKENS,
    Fit,
    Observation,
    expected,
    outside,
    predict,
    quadratic,
    slope,
    t90,
)

__all__ = [
    "Allocation",
    "Candidate",
    "Fit",
    "Gain",
    "Observation",
    "Recommendation",
    "corpus_fit",
    "gain",
    "optimal",
    "outside",
    "predict",
    "recommend",
    "refit",
    "regime",
]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that could be made."""

    label: str
    num_params: float  # Recipe.num_params.scaling
    num_tokens: float
    regime: str | None = None  # None: that of the corpus's anchors


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much lower the candidate's bpb is expected to be; above 0 is better."""

    bpb: Interval
    probability: float  # that the candidate is better at all

    def to_dict(self) -> dict[str, Any]:
        return {"bpb": self.bpb.to_dict(), "probability": self.probability}


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    candidate: Candidate
    val_bpb: Interval
    expected_improvement_bpb: float  # over the best so far, chances of being worse counted as 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self.candidate) | {
            "val_bpb": self.val_bpb.to_dict(),
            "expected_improvement_bpb": self.expected_improvement_bpb,
        }


@dataclass(frozen=True, kw_only=True)
class Allocation:
    num_params: float
    num_tokens: float
    val_bpb: Interval


def refit(corpus: str, observations: Iterable[Observation] = ()) -> Fit:
    """The corpus's law, updated with finished runs. Works with none, one or many; intervals narrow with each.

    Runs of other regimes than the anchors' have an offset of their own; of a corpus without anchors, the regime of most
    runs is the home one. Raises InvalidInput, naming each run whose figures are no numbers above 0.
    """
    base = corpus_fit(corpus)
    seen = tuple(observations)
    if not seen:
        return base
    problems = [
        f"observation {run.label or i}: num_params {run.num_params}, num_tokens {run.num_tokens}, val_bpb {run.val_bpb}"
        for i, run in enumerate(seen)
        if not all(math.isfinite(v) and v > 0 for v in (run.num_params, run.num_tokens, run.val_bpb))
    ]
    if problems:
        raise InvalidInput(problems, next="leave out runs without a finite val_bpb above 0")
    counts = Counter(run.regime for run in seen if run.regime is not None)
    home = base.home if base.anchors or not counts else min(counts, key=lambda name: (-counts[name], name))
    found = fit_law(prior_of(base), seen, noise=usual_noise(corpus), home=home, within=base.anchors)
    fit = replace(
        base,
        theta=found.theta,
        offsets=found.offsets,
        covariance=found.covariance,
        noise=found.noise,
        noise_runs=found.noise_runs,
        home=home,
        observations=seen,
        weights=found.weights,
    )
    return replace(fit, source=f"{base.source}; {_runs(len(seen))}{_doubts(fit)}")


def _runs(count: int) -> str:
    return f"{count} finished run" + ("" if count == 1 else "s")


def _doubts(fit: Fit) -> str:
    doubted = fit.doubted()
    if not doubted:
        return ""
    names = ", ".join(run.label or f"val_bpb {run.val_bpb:.3f}" for run in doubted[:3])
    more = f" and {len(doubted) - 3} more" if len(doubted) > 3 else ""
    return f", of which {names}{more} weigh little: far from the others or hardly validated"


def optimal(fit: Fit, flops: float) -> Allocation:
    """The N and D that a budget of 6 N D FLOPs should be spent on."""
    _, a, b, log_alpha, log_beta = fit.theta
    alpha, beta = math.exp(log_alpha), math.exp(log_beta)
    # alpha A / N^alpha = beta B / D^beta with D = C / 6N, in units of the reference point
    budget = math.log(flops / (6 * REFERENCE_PARAMS * REFERENCE_TOKENS))
    x = (log_alpha - log_beta + a - b + beta * budget) / (alpha + beta)
    num_params, num_tokens = REFERENCE_PARAMS * math.exp(x), REFERENCE_TOKENS * math.exp(budget - x)
    return Allocation(num_params=num_params, num_tokens=num_tokens, val_bpb=predict(fit, num_params, num_tokens))


def gain(fit: Fit, base: Candidate, candidate: Candidate) -> Gain:
    """Candidate against base. What the law is unsure of in both cancels; the noise of two runs does not."""
    old = expected(fit, base.num_params, base.num_tokens, base.regime)
    new = expected(fit, candidate.num_params, candidate.num_tokens, candidate.regime)
    change = [
        old * o - new * n
        for o, n in zip(
            slope(fit, base.num_params, base.num_tokens, base.regime),
            slope(fit, candidate.num_params, candidate.num_tokens, candidate.regime),
            strict=True,
        )
    ]
    spread = math.sqrt(max(0.0, quadratic(fit.covariance, change)) + fit.noise**2 * (old**2 + new**2))
    better, half = old - new, fit.stretch * t90(fit.noise_runs) * spread
    return Gain(bpb=Interval(better - half, better, better + half), probability=_normal_cdf(better / spread))


def recommend(fit: Fit, candidates: Sequence[Candidate], best_bpb: float | None = None) -> list[Recommendation]:
    """Candidates, the most promising first: by expected improvement over the best so far, else by predicted bpb."""
    rows = []
    for candidate in candidates:
        predicted = predict(fit, candidate.num_params, candidate.num_tokens, candidate.regime)
        spread = predicted.mid * math.log(predicted.high / predicted.mid) / t90(fit.noise_runs) / fit.stretch
        improvement = 0.0 if best_bpb is None else _expected_improvement(best_bpb - predicted.mid, spread)
        rows.append(Recommendation(candidate=candidate, val_bpb=predicted, expected_improvement_bpb=improvement))
    return sorted(rows, key=lambda row: (-row.expected_improvement_bpb, row.val_bpb.mid))


def _expected_improvement(better: float, spread: float) -> float:
    z = better / spread
    return better * _normal_cdf(z) + spread * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
