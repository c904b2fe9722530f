"""What finished runs took beyond what was said of them, and the next interval with that in it. Pure.

Of each run of a machine: seconds said and seconds taken by its steps, evaluations, saves, by each reclaim, by a GB's
way to the bucket, and by all around them (a machine to wait for, start-up, the end). The last is late by seconds, the
others by a factor, which holds for other lengths and depths. On a CPU that others share, what is said of steps and
evaluations is what they would take undisturbed, so that a machine's load is one more factor, which a dryrun's burst has
seen as well. A shift is the mean, in which a run counts half of what the fourth after it does, since loads come and go;
its spread is the scatter about it, into which the interval's own width enters as two runs, and a shift of none as a
quarter of one, less the more runs there are: so one late run moves the next forecast and widens it, and many narrow it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patron_core.estimate.accuracy import STRETCHED_BY, widening
from patron_core.interval import Interval, total
from patron_core.scaling.law import Z90, t90

AROUND = "around"
FACTORS = ("steps", "evals", "checkpoints", "recovery", "upload")
BUSY = ("steps", "evals")  # what waits for cores
NONE_RUNS = 0.25  # that a shift of none counts for beside one run
NONE_RUNS_OF_BURSTS = 0.03  # the same where no run is finished yet: what a burst saw is what its plan is made for
OWN_RUNS = 2.0  # that an interval's own width counts for
MOST_RUNS = 20  # the newest
HALF_LIFE_RUNS = 4.0
LEAST_S = 0.05  # less says nothing of a factor
FARTHEST = math.log(4)  # from the middle run, that one may pull a factor


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one finished run, by AROUND and FACTORS; `upload`: seconds a GB. What is not in `taken_s` was not seen."""

    said_s: Mapping[str, float]
    taken_s: Mapping[str, float]
    away: Mapping[str, float] = field(default_factory=dict)  # of outcomes: half-widths from what was said, unstretched

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        return cls(said_s=dict(values["said_s"]), taken_s=dict(values["taken_s"]), away=values.get("away", {}))

    @classmethod
    def of_burst(cls, core_share: float) -> Timing:
        """What others' work did to its steps."""
        return cls(said_s=dict.fromkeys(BUSY, 100.0 * core_share), taken_s=dict.fromkeys(BUSY, 100.0))


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Mean and scatter about it of what runs were late by: ln of a factor, or seconds."""

    mean: float = 0.0
    squares: float = 0.0
    runs: float = 0.0  # that count, old ones less

    @classmethod
    def of(cls, values: Sequence[float], *, none_runs: float = NONE_RUNS) -> Shift:
        """The newest first."""
        weights = [0.5 ** (age / HALF_LIFE_RUNS) for age in range(len(values))]
        runs = math.fsum(weights)
        mean = math.fsum(w * value for w, value in zip(weights, values, strict=True)) / runs if values else 0.0
        squares = math.fsum(w * (value - mean) ** 2 for w, value in zip(weights, values, strict=True))
        return cls(mean=mean, squares=squares + (none_runs * mean**2 / runs if values else 0.0), runs=runs)

    def half(self, own: float) -> float:
        """Half the 90 % interval, where it was `own` without any run."""
        degrees = OWN_RUNS + self.runs
        variance = (OWN_RUNS * (own / Z90) ** 2 + self.squares) / degrees
        return t90(degrees) * math.sqrt(variance * (1 + 1 / self.runs))

    def factored(self, said: Interval) -> Interval:
        """Late by a factor."""
        if not self.runs or said.mid <= 0:
            return said
        own = math.log(said.high / said.mid) if said.high > said.mid else 0.0
        mid, wide = said.mid * math.exp(self.mean), math.exp(self.half(own))
        return Interval(mid / wide, mid, mid * wide)


@dataclass(frozen=True, kw_only=True)
class Lateness:
    """Of all runs of a machine. `seen`: how many, bursts apart. `stretch`: by quantity, see estimate.accuracy."""

    around: Shift = field(default_factory=Shift)
    steps: Shift = field(default_factory=Shift)
    evals: Shift = field(default_factory=Shift)
    checkpoints: Shift = field(default_factory=Shift)
    recovery: Shift = field(default_factory=Shift)
    upload: Shift = field(default_factory=Shift)
    seen: int = 0
    stretch: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Lateness:
        """The newest first."""
        newest = timings[:MOST_RUNS]
        seen = sum(bool(each.away) or AROUND in each.taken_s for each in newest)
        none_runs = NONE_RUNS if any(each.said_s.keys() - BUSY for each in newest) else NONE_RUNS_OF_BURSTS
        factors = {
            name: _shift([f for each in newest if (f := _factor(each, name)) is not None], none_runs)
            for name in FACTORS
        }
        late = [each.taken_s[AROUND] - each.said_s[AROUND] for each in newest if AROUND in each.taken_s]
        scores: dict[str, list[float]] = {}
        for each in timings[:STRETCHED_BY]:
            for quantity, away in each.away.items():
                scores.setdefault(quantity, []).append(away)
        stretches = {quantity: widening(of) for quantity, of in scores.items()}
        return cls(around=Shift.of(late), **factors, seen=seen, stretch=stretches)

    def started(self, phases: Mapping[str, Interval]) -> dict[str, Interval]:
        """Start-up phases, late by seconds that are spread over them by their size."""
        said = total(phases.values())
        if not self.around.runs or said.mid <= 0:
            return dict(phases)
        mid, half = max(0.0, said.mid + self.around.mean), self.around.half((said.high - said.low) / 2)
        whole = Interval(max(0.0, mid - half), mid, mid + half)
        return {name: whole.scaled(phase.mid / said.mid) for name, phase in phases.items()}

    def widened(self, quantity: str, said: Interval) -> Interval:
        """As far as the newest runs of this machine came out from what they were told."""
        return said.widened(self.stretch.get(quantity, 1.0))

    @property
    def sentence(self) -> str:
        """For people; empty where nothing was learned."""
        words = []
        if self.steps.runs:
            words.append(f"steps took {math.expm1(self.steps.mean):+.0%}")
        if self.around.runs:
            words.append(f"start and end {self.around.mean:+.0f} s")
        if not words or not self.seen:
            return ""
        of = f"{self.seen} finished run{'' if self.seen == 1 else 's'}"
        wider = max((self.stretch.get(name, 1.0) for name in ("wall_s", "cost_usd_micros")), default=1.0)
        more = f" Intervals {wider:.1f} x as wide, as they came out." if wider > 1 else ""
        return f"Corrected by {of} here: {' and '.join(words)} against what was said.{more}"


ON_TIME = Lateness()


def _shift(factors: Sequence[float], none_runs: float) -> Shift:
    """One that hung, or was asleep, pulls no further than FARTHEST."""
    middle = statistics.median(factors) if factors else 0.0
    return Shift.of([max(middle - FARTHEST, min(middle + FARTHEST, factor)) for factor in factors], none_runs=none_runs)


def _factor(timing: Timing, name: str) -> float | None:
    said, taken = timing.said_s.get(name, 0.0), timing.taken_s.get(name, 0.0)
    if said < LEAST_S or taken < LEAST_S:
        return None
    return math.log(taken / said)
