"""Is a difference larger than the noise of seeds? Groups of runs that differ in seed alone, compared. Pure.

The spread of seeds is taken to be the same in every group, so that few seeds in many groups are enough: pooled variance
with sum(n - 1) degrees of freedom, Student's t for each group against the best, Holm's correction for their number.
(Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP"; Holm 1979.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patron_core.interval import Interval

LEVEL = 0.05  # a difference is called real where chance alone makes one this large less often


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone. `spread`: their standard deviation; None for fewer than two."""

    label: str
    num_runs: int
    mean: float
    spread: float | None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A group against the best. `difference`: how much worse it is, with its 95 % interval; None without a spread."""

    best: str
    other: str
    difference: float
    interval: Interval | None
    p_value: float | None  # corrected for how many are compared
    is_real: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"interval": self.interval.to_dict() if self.interval else None}


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    groups: tuple[Group, ...]  # the lowest mean first
    contrasts: tuple[Contrast, ...]  # of every other group with the best
    pooled_spread: float | None  # of seeds, over all groups
    degrees: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "groups": [asdict(group) for group in self.groups],
            "contrasts": [contrast.to_dict() for contrast in self.contrasts],
            "pooled_spread": self.pooled_spread,
            "degrees_of_freedom": self.degrees,
        }


def compare_groups(values: Mapping[str, Sequence[float]]) -> GroupComparison:
    """Every group against the one with the lowest mean. Groups without a value are left out."""
    groups = sorted((_group(label, found) for label, found in values.items() if found), key=lambda group: group.mean)
    degrees = sum(group.num_runs - 1 for group in groups)
    squares = sum((group.num_runs - 1) * (group.spread or 0.0) ** 2 for group in groups)
    pooled = math.sqrt(squares / degrees) if degrees > 0 else None
    return GroupComparison(
        groups=tuple(groups),
        contrasts=tuple(_contrasts(groups, pooled, degrees)),
        pooled_spread=pooled,
        degrees=degrees,
    )


def _group(label: str, values: Sequence[float]) -> Group:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return Group(label=label, num_runs=len(values), mean=mean, spread=spread)


def _contrasts(groups: Sequence[Group], pooled: float | None, degrees: int) -> list[Contrast]:
    if len(groups) < 2:
        return []
    best, *others = groups
    found: list[tuple[Group, float | None, float]] = []  # group, p, standard error
    for other in others:
        error = (pooled or 0.0) * math.sqrt(1 / best.num_runs + 1 / other.num_runs)
        gap = other.mean - best.mean
        p = None if pooled is None else two_sided_p(gap / error, degrees) if error > 0 else (0.0 if gap > 0 else 1.0)
        found.append((other, p, error))
    corrected = _holm([p for _, p, _ in found if p is not None])
    rows = []
    for other, p, error in found:
        gap = other.mean - best.mean
        mine = corrected.pop(0) if p is not None else None
        width = student_quantile(1 - LEVEL / 2, degrees) * error if p is not None else 0.0
        rows.append(
            Contrast(
                best=best.label,
                other=other.label,
                difference=gap,
                interval=Interval(gap - width, gap, gap + width) if p is not None else None,
                p_value=mine,
                is_real=mine is not None and mine < LEVEL,
            )
        )
    return rows


def _holm(p_values: list[float]) -> list[float]:
    """In the order given; the i-th smallest of k times k - i, never less than the one before it."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[n]))
        corrected[n] = highest
    return corrected


def two_sided_p(t: float, degrees: int) -> float:
    """How often chance alone gives a |t| as large."""
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def student_quantile(probability: float, degrees: int) -> float:
    """The t that `probability` (above 0.5) of the distribution lies below."""
    low, high = 0.0, 1.0
    while 1 - two_sided_p(high, degrees) / 2 < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided_p(middle, degrees) / 2 < probability else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised I_x(a, b), by its continued fraction (Numerical Recipes 6.4)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(1 - x))
    c, d = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, 300):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_0(1 + factor * d)
            c = _away_from_0(1 + factor / c)
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * total / a


def _away_from_0(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
