"""Fitting the law: the most likely parameters given a prior and any number of runs, from none to many. Pure.

Damped Gauss-Newton on the log posterior. The prior keeps one run, or two, from being taken for a law; with many runs it
stops mattering. The covariance returned is that of the linearised posterior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from patron_core.scaling.law import Observation, gradient, terms
from patron_core.scaling.matrix import Matrix, Vector, diagonal, inverse, plus_outer, quadratic, times

Theta = tuple[float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A normal distribution of the law's parameters."""

    theta: Theta
    precision: Matrix

    @classmethod
    def independent(cls, *, e: float, a: float, b: float, alpha: float, beta: float, spread: Sequence[float]) -> Prior:
        """Centre given as plain numbers, spread as relative standard deviations in the same order."""
        theta = (math.log(e), math.log(a), math.log(b), math.log(alpha), math.log(beta))
        return cls(theta=theta, precision=diagonal([1 / s**2 for s in spread]))


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """A measured compute-optimal pair: there one more FLOP is worth the same in N as in D."""

    num_params: float
    num_tokens: float
    spread: float = 0.15  # relative, of the balance


def fit_theta(
    prior: Prior, observations: Sequence[Observation], noise: float, optima: Sequence[Optimum] = ()
) -> tuple[Theta, Matrix]:
    """(theta, covariance)."""
    theta, damping = prior.theta, 1e-3
    cost = _cost(theta, prior, observations, noise, optima)
    for _ in range(200):
        normal, downhill = _normal_equations(theta, prior, observations, noise, optima)
        damped = tuple(
            tuple(v * (1 + damping) if i == j else v for j, v in enumerate(row)) for i, row in enumerate(normal)
        )
        step = times(inverse(damped), downhill)
        trial = _moved(theta, step)
        trial_cost = _cost(trial, prior, observations, noise, optima)
        if trial_cost <= cost:
            done = cost - trial_cost < 1e-8 * (1 + cost)
            theta, cost, damping = trial, trial_cost, max(1e-9, damping / 5)
            if done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    normal, _ = _normal_equations(theta, prior, observations, noise, optima)
    return theta, inverse(normal)


def _moved(theta: Theta, step: Vector) -> Theta:
    """No parameter moves by more than a factor e at once."""
    longest = max(1.0, *(abs(s) for s in step))
    e, a, b, alpha, beta = (t + s / longest for t, s in zip(theta, step, strict=True))
    return e, a, b, alpha, beta


def _cost(
    theta: Theta, prior: Prior, observations: Sequence[Observation], noise: float, optima: Sequence[Optimum]
) -> float:
    cost = quadratic(prior.precision, [t - m for t, m in zip(theta, prior.theta, strict=True)])
    for seen in observations:
        predicted = terms(theta, seen.num_params, seen.num_tokens)[0]
        cost += ((seen.val_bpb - predicted) / (noise * seen.val_bpb)) ** 2
    for optimum in optima:
        cost += (_balance(theta, optimum)[0] / optimum.spread) ** 2
    return cost


def _normal_equations(
    theta: Theta, prior: Prior, observations: Sequence[Observation], noise: float, optima: Sequence[Optimum]
) -> tuple[Matrix, Vector]:
    normal = prior.precision
    downhill = list(times(prior.precision, [m - t for t, m in zip(theta, prior.theta, strict=True)]))
    for seen in observations:
        slope = gradient(theta, seen.num_params, seen.num_tokens)
        predicted = terms(theta, seen.num_params, seen.num_tokens)[0]
        weight = (noise * seen.val_bpb) ** -2
        normal = plus_outer(normal, slope, weight)
        downhill = [d + weight * s * (seen.val_bpb - predicted) for d, s in zip(downhill, slope, strict=True)]
    for optimum in optima:
        balance, slope = _balance(theta, optimum)
        weight = optimum.spread**-2
        normal = plus_outer(normal, slope, weight)
        downhill = [d - weight * s * balance for d, s in zip(downhill, slope, strict=True)]
    return normal, tuple(downhill)


def _balance(theta: Theta, optimum: Optimum) -> tuple[float, Vector]:
    """ln(alpha N-term) - ln(beta D-term), which is 0 at an optimum of N D = constant, and its gradient."""
    _, _, _, x, y = terms(theta, optimum.num_params, optimum.num_tokens)
    alpha, beta = math.exp(theta[3]), math.exp(theta[4])
    balance = theta[3] + theta[1] - alpha * x - theta[4] - theta[2] + beta * y
    return balance, (0.0, 1.0, -1.0, 1 - alpha * x, -1 + beta * y)
