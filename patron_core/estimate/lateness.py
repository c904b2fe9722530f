"""What finished runs took beyond what was said of them, and the next interval with that in it. Pure.

Of each run of a machine: seconds said and seconds taken by its steps, evaluations, saves, and by all around them (a
machine to wait for, start-up, the end). The first three are late by a factor, which holds for other lengths and depths;
what is around them is late by seconds. A shift is their mean, held to none by a quarter of a run, and its spread is the
scatter between runs, into which the interval's own width enters as two runs: so one late run moves the next forecast,
and many narrow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patron_core.interval import Interval, total
from patron_core.scaling.law import Z90, t90

AROUND = "around"
FACTORS = ("steps", "evals", "checkpoints")
SHRINKING_RUNS = 0.25  # without lateness, that every machine begins with
OWN_RUNS = 2.0  # that an interval's own width counts for
MOST_RUNS = 20  # the newest; a machine changes
LEAST_S = 0.05  # less says nothing of a factor
FARTHEST = math.log(4)  # that one run may pull a factor


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one finished run, by AROUND and FACTORS. What is not in `taken_s` was not seen."""

    said_s: Mapping[str, float]
    taken_s: Mapping[str, float]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        return cls(said_s=dict(values["said_s"]), taken_s=dict(values["taken_s"]))


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Mean and scatter about it of what runs were late by: ln of a factor, or seconds."""

    mean: float = 0.0
    squares: float = 0.0
    runs: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> Shift:
        mean = math.fsum(values) / (len(values) + SHRINKING_RUNS)
        return cls(mean=mean, squares=math.fsum((value - mean) ** 2 for value in values), runs=len(values))

    def half(self, own: float) -> float:
        """Half the 90 % interval, where it was `own` without any run."""
        degrees = OWN_RUNS + self.runs
        variance = (OWN_RUNS * (own / Z90) ** 2 + self.squares) / degrees
        return t90(degrees) * math.sqrt(variance * (1 + 1 / (self.runs + SHRINKING_RUNS)))

    def factored(self, said: Interval) -> Interval:
        """Late by a factor."""
        if not self.runs or said.mid <= 0:
            return said
        own = math.log(said.high / said.mid) if said.high > said.mid else 0.0
        mid, wide = said.mid * math.exp(self.mean), math.exp(self.half(own))
        return Interval(mid / wide, mid, mid * wide)


@dataclass(frozen=True, kw_only=True)
class Lateness:
    """Of all runs of a machine."""

    around: Shift = field(default_factory=Shift)
    steps: Shift = field(default_factory=Shift)
    evals: Shift = field(default_factory=Shift)
    checkpoints: Shift = field(default_factory=Shift)

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Lateness:
        """The newest first."""
        newest = timings[:MOST_RUNS]
        factors = {name: Shift.of([f for each in newest if (f := _factor(each, name)) is not None]) for name in FACTORS}
        late = [each.taken_s[AROUND] - each.said_s[AROUND] for each in newest if AROUND in each.taken_s]
        return cls(around=Shift.of(late), **factors)

    def started(self, phases: Mapping[str, Interval]) -> dict[str, Interval]:
        """Start-up phases, late by seconds that are spread over them by their size."""
        said = total(phases.values())
        if not self.around.runs or said.mid <= 0:
            return dict(phases)
        mid, half = max(0.0, said.mid + self.around.mean), self.around.half((said.high - said.low) / 2)
        whole = Interval(max(0.0, mid - half), mid, mid + half)
        return {name: whole.scaled(phase.mid / said.mid) for name, phase in phases.items()}

    @property
    def sentence(self) -> str:
        """For people; empty where nothing was learned."""
        words = []
        if self.steps.runs:
            words.append(f"steps took {math.expm1(self.steps.mean):+.0%}")
        if self.around.runs:
            words.append(f"start and end {self.around.mean:+.0f} s")
        runs = max(self.steps.runs, self.around.runs)
        of = f"{runs} finished run{'' if runs == 1 else 's'}"
        return f"Corrected by {of} here: {' and '.join(words)} against what was said." if words else ""


ON_TIME = Lateness()


def _factor(timing: Timing, name: str) -> float | None:
    said, taken = timing.said_s.get(name, 0.0), timing.taken_s.get(name, 0.0)
    if said < LEAST_S or taken < LEAST_S:
        return None
    return max(-FARTHEST, min(FARTHEST, math.log(taken / said)))
