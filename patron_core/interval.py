"""A quantity with its uncertainty: low, mid, high; and a time in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """`mid` is the expectation; `low` and `high` bound about nine outcomes in ten."""

    low: float
    mid: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Interval:
        return cls(value, value, value)

    def scaled(self, factor: float) -> Interval:
        return Interval(self.low * factor, self.mid * factor, self.high * factor)

    def widened(self, factor: float) -> Interval:
        """Both sides by that factor of their logarithms; of a low that is nothing, nothing."""
        if factor == 1.0 or self.mid <= 0:
            return self
        low, high = ((bound / self.mid) ** factor * self.mid for bound in (self.low, self.high))
        return Interval(low, self.mid, high)

    def to_dict(self) -> dict[str, float]:
        return {"low": self.low, "mid": self.mid, "high": self.high}


ZERO = Interval(0.0, 0.0, 0.0)


def total(parts: Iterable[Interval]) -> Interval:
    """The sum, bounds added too: parts of one run tend to be slow together, so this errs on the safe side."""
    low = mid = high = 0.0
    for part in parts:
        low += part[0]
        mid += part[1]
        high += part[2]
    return Interval(low, mid, high)


def duration(seconds: float) -> str:
    """ "38 s", "12 min", "3.4 h", "4.5 days", "418 days"."""
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days" if seconds < 10 * 86400 else f"{seconds / 86400:,.0f} days"
