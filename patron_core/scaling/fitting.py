"""Fitting the law: the most likely parameters given a prior and any number of runs, from none to many. Pure.

Damped Gauss-Newton on the log posterior, with errors of Student's t: a run far from all others pulls with a weight
that falls with its distance, so that no single one bends the law. The width of that t, the noise of a run, is estimated
with it, and begins wide, so that a good start is found before anything is doubted. The prior keeps one run, or two,
from being taken for a law; with many runs it stops mattering. The covariance is that of the linearised posterior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.scaling.law import (
    OFFSET_SPREAD,
    OUTSIDE_SPREAD,
    REFERENCE_PARAMS,
    REFERENCE_TOKENS,
    Matrix,
    Observation,
    Theta,
    box_of,
    outside_of,
    terms,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

T_DEGREES = 4.0  # of the errors of runs; a normal distribution has none that are far
OF_A_NORMAL = 0.67  # mean of (belief x residual)^2 for normal errors of width 1
NOISE_STEPS = (16.0, 4.0, 1.0, 1.0, 1.0, 1.0)  # the noise begins this much wider than it is
PER_EVAL_TOKEN = 1.3  # relative error of a bpb taken of one token (assumed); falls with the root of their number


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A normal distribution of the law's parameters."""

    theta: Theta
    precision: Matrix

    @classmethod
    def independent(cls, *, e: float, a: float, b: float, alpha: float, beta: float, spread: Sequence[float]) -> Prior:
        """Centre given as plain numbers, spread as relative standard deviations in the same order."""
        theta = (math.log(e), math.log(a), math.log(b), math.log(alpha), math.log(beta))
        size = len(spread)
        return cls(
            theta=theta,
            precision=tuple(tuple(1 / spread[i] ** 2 if i == j else 0.0 for j in range(size)) for i in range(size)),
        )


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """A measured compute-optimal pair: there one more FLOP is worth the same in N as in D."""

    num_params: float
    num_tokens: float
    spread: float = 0.15  # relative, of the balance


@dataclass(frozen=True, kw_only=True)
class Posterior:
    theta: Theta
    offsets: tuple[tuple[str, float], ...]
    covariance: Matrix
    noise: float
    noise_runs: float
    weights: tuple[float, ...]  # of each observation, at most 1


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """n runs and k regimes beside the home one, as arrays."""

    centre: Array  # 5 + k: the prior's, and 0 for each offset
    precision: Array  # (5 + k, 5 + k)
    x: Array  # n: ln N from the reference
    y: Array  # n: ln D from the reference
    ln_bpb: Array  # n
    own: Array  # (n, k): 1 where a run is of that regime
    apart: Array  # n: relative error that is not a run's noise: a small validation, outside the range
    optima: Sequence[Optimum]

    def terms(self, at: Array) -> tuple[Array, Array, Array]:
        """(bpb without the offset, N term, D term), of each run."""
        import numpy as np

        n_term = np.exp(at[1] - math.exp(at[3]) * self.x)
        d_term = np.exp(at[2] - math.exp(at[4]) * self.y)
        return math.exp(at[0]) + n_term + d_term, n_term, d_term

    def residuals(self, at: Array) -> Array:
        """ln measured - ln predicted, of each run."""
        import numpy as np

        away: Array = self.ln_bpb - np.log(self.terms(at)[0]) - self.own @ at[5:]
        return away

    def cost(self, at: Array, precisions: Array) -> float:
        away = at - self.centre
        cost = float(away @ self.precision @ away) + float(precisions @ self.residuals(at) ** 2)
        return cost + math.fsum((_balance(at, optimum)[0] / optimum.spread) ** 2 for optimum in self.optima)

    def slopes(self, at: Array) -> Array:
        """(n, 5 + k): of each run's ln predicted."""
        import numpy as np

        bpb, n_term, d_term = self.terms(at)
        e_term = bpb - n_term - d_term
        by_alpha, by_beta = -math.exp(at[3]) * self.x * n_term, -math.exp(at[4]) * self.y * d_term
        by_theta = np.stack([e_term, n_term, d_term, by_alpha, by_beta], axis=1) / bpb[:, None]
        return np.column_stack([by_theta, self.own])

    def num_used(self, at: Array, precisions: Array) -> float:
        """How many of the runs the parameters have used up: the trace of the hat matrix."""
        import numpy as np

        slopes, covariance = self.slopes(at), np.linalg.inv(self.normal_equations(at, precisions)[0])
        return float((precisions * np.einsum("ij,jk,ik->i", slopes, covariance, slopes)).sum())

    def normal_equations(self, at: Array, precisions: Array) -> tuple[Array, Array]:
        """(half the cost's curvature, the way down)."""
        import numpy as np

        slopes = self.slopes(at)
        normal = self.precision + slopes.T @ (precisions[:, None] * slopes)
        downhill = self.precision @ (self.centre - at) + slopes.T @ (precisions * self.residuals(at))
        for optimum in self.optima:
            balance, gradient = _balance(at, optimum)
            slope = np.concatenate([gradient, np.zeros(len(at) - 5)])
            normal = normal + np.outer(slope, slope) / optimum.spread**2
            downhill = downhill - slope * balance / optimum.spread**2
        return normal, downhill

    def most_likely(self, at: Array, precisions: Array) -> Array:
        """Levenberg and Marquardt's way down, each run as precise as it is believed to be."""
        import numpy as np

        damping, cost = 1e-3, self.cost(at, precisions)
        for _ in range(100):
            normal, downhill = self.normal_equations(at, precisions)
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), downhill)
            trial = at + step / max(
                1.0, float(np.abs(step).max())
            )  # no parameter moves by more than a factor e at once
            trial_cost = self.cost(trial, precisions)
            if trial_cost <= cost:
                done = cost - trial_cost < 1e-8 * (1 + cost)
                at, cost, damping = trial, trial_cost, max(1e-9, damping / 5)
                if done:
                    break
            else:
                damping *= 4
                if damping > 1e12:
                    break
        return at


def fit_law(
    prior: Prior,
    seen: Sequence[Observation],
    *,
    noise: tuple[float, float],
    home: str | None = None,
    within: Sequence[Observation] = (),
    optima: Sequence[Optimum] = (),
    learn_noise: bool = True,
) -> Posterior:
    """`noise`: relative, what a run of this corpus usually has, and how many runs that counts for. `within`: the runs
    whose box is the law's range."""
    import numpy as np

    regimes = tuple(sorted({run.regime for run in seen if run.regime is not None and run.regime != home}))
    problem = _problem(prior, seen, regimes, within, optima)
    usual, usual_runs = noise
    at, sigma, runs, believed = problem.centre, usual, usual_runs, np.ones(len(seen))
    for wider in NOISE_STEPS if learn_noise else ():
        spread = np.hypot(sigma * wider, problem.apart)
        for _ in range(8):
            at = problem.most_likely(at, believed / spread**2)
            now = (T_DEGREES + 1) / (T_DEGREES + (problem.residuals(at) / spread) ** 2)
            settled = float(np.abs(now - believed).max(initial=0.0)) < 1e-3
            believed = now
            if settled:
                break
        if wider == 1.0 and len(seen):
            free = max(1.0, len(seen) - problem.num_used(at, believed / spread**2))
            own = (believed * problem.residuals(at) * sigma / spread) ** 2 / OF_A_NORMAL
            sigma = math.sqrt((usual_runs * usual**2 + float(own.sum())) / (usual_runs + free))
            runs = usual_runs + free
    spread = np.hypot(sigma, problem.apart)
    at = problem.most_likely(at, believed / spread**2)
    covariance = np.linalg.inv(problem.normal_equations(at, believed / spread**2)[0])
    e, a, b, alpha, beta = map(float, at[:5])
    return Posterior(
        theta=(e, a, b, alpha, beta),
        offsets=tuple(zip(regimes, map(float, at[5:]), strict=True)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        noise=sigma,
        noise_runs=runs,
        weights=tuple(min(1.0, float(weight)) for weight in believed * (sigma / spread) ** 2),
    )


def _problem(
    prior: Prior,
    seen: Sequence[Observation],
    regimes: Sequence[str],
    within: Sequence[Observation],
    optima: Sequence[Optimum],
) -> _Problem:
    import numpy as np

    size, box = 5 + len(regimes), box_of(within)
    precision = np.zeros((size, size))
    precision[:5, :5] = prior.precision
    precision[range(5, size), range(5, size)] = OFFSET_SPREAD**-2
    apart = [
        math.hypot(
            PER_EVAL_TOKEN / math.sqrt(run.eval_tokens) if run.eval_tokens else 0.0,
            OUTSIDE_SPREAD * outside_of(box, run.num_params, run.num_tokens),
        )
        for run in seen
    ]
    return _Problem(
        centre=np.array([*prior.theta, *(0.0 for _ in regimes)]),
        precision=precision,
        x=np.log(np.array([run.num_params for run in seen]) / REFERENCE_PARAMS),
        y=np.log(np.array([run.num_tokens for run in seen]) / REFERENCE_TOKENS),
        ln_bpb=np.log(np.array([run.val_bpb for run in seen])),
        own=np.array([[float(run.regime == name) for name in regimes] for run in seen]).reshape(
            len(seen), len(regimes)
        ),
        apart=np.array(apart),
        optima=optima,
    )


def _balance(theta: Array, optimum: Optimum) -> tuple[float, tuple[float, ...]]:
    """ln(alpha N-term) - ln(beta D-term), which is 0 at an optimum of N D = constant, and its gradient."""
    _, _, _, x, y = terms(tuple(theta), optimum.num_params, optimum.num_tokens)
    alpha, beta = math.exp(theta[3]), math.exp(theta[4])
    balance = float(theta[3] + theta[1] - alpha * x - theta[4] - theta[2] + beta * y)
    return balance, (0.0, 1.0, -1.0, 1 - alpha * x, -1 + beta * y)
