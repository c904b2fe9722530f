"""How good forecasts were: predicted against actual in seconds, bytes, dollars and bits; coverage and bias. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Quantity = Literal["val_bpb", "step_s", "wall_s", "cost_usd_micros", "peak_memory_bytes"]
Stage = Literal["plan", "funding"]  # before anything was measured; after the dryrun, when the money was held

QUANTITIES: tuple[Quantity, ...] = ("val_bpb", "step_s", "wall_s", "cost_usd_micros", "peak_memory_bytes")
MACHINE_QUANTITIES: tuple[Quantity, ...] = QUANTITIES[1:]  # what a machine decides; val_bpb is its corpus's
PROMISED = 0.9  # of outcomes lie inside an interval
ENOUGH = 10  # outcomes, before a coverage says anything
STRETCHED_BY = 40  # of the newest outcomes of a corpus, or of a machine
MOST_STRETCH = 10.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One figure of one run: what was said of it at a stage, and what came out."""

    run: str
    name: str
    device: str
    corpus: str
    depth: int | None  # None: foreign code
    quantity: Quantity
    stage: Stage
    low: float
    mid: float
    high: float
    actual: float

    @property
    def error(self) -> float:
        """(actual - expected) / expected."""
        return self.actual / self.mid - 1.0

    @property
    def is_inside(self) -> bool:
        return self.low <= self.actual <= self.high

    @property
    def widths_away(self) -> float:
        """How far the outcome lies from the expectation, in half-widths of its side of the interval; 1 is its edge."""
        return widths_away((self.low, self.mid, self.high), self.actual)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"error": self.error, "is_inside": self.is_inside}


def outcomes(result: Mapping[str, Any], trained_s: float, trained_usd_micros: int) -> dict[Quantity, Any]:
    """Of a run that came to its last step; None where it is not known."""
    steps_s, steps = result.get("train_s"), result.get("step")
    return {
        "val_bpb": result.get("val_bpb"),
        "step_s": steps_s / steps if steps_s and steps else None,
        "wall_s": trained_s,
        "cost_usd_micros": trained_usd_micros,
        "peak_memory_bytes": result.get("peak_memory_bytes"),
    }


def said_of(estimate: Mapping[str, Any], quantity: Quantity) -> dict[str, float] | None:
    """What an estimate's JSON says of it; None where it says nothing."""
    key = "peak_bytes" if quantity == "peak_memory_bytes" else quantity
    found = (estimate.get("memory", {}) if quantity == "peak_memory_bytes" else estimate).get(key)
    return dict(found) if isinstance(found, Mapping) and found.get("mid") else None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of all forecasts of one quantity at one stage."""

    quantity: Quantity
    stage: Stage
    group: str  # a device, a corpus, or all
    runs: int
    mean_abs_error: float
    bias: float  # mean error; above 0: it came out more than was said
    coverage: float  # share inside the interval
    stretch: float | None  # what half-widths would have to be multiplied with for nine in ten; None: too few runs

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def accuracy(forecasts: Iterable[Forecast], *, by: Literal["device", "corpus"] | None = None) -> list[Accuracy]:
    """One row for each quantity, stage and group, in the order of QUANTITIES; only of what has an outcome."""
    groups: dict[tuple[Quantity, Stage, str], list[Forecast]] = {}
    for forecast in forecasts:
        group = "all" if by is None else str(getattr(forecast, by))
        groups.setdefault((forecast.quantity, forecast.stage, group), []).append(forecast)
    keys = sorted(groups, key=lambda key: (key[2], QUANTITIES.index(key[0]), key[1] == "funding"))
    return [_row(*key, groups[key]) for key in keys]


def _row(quantity: Quantity, stage: Stage, group: str, of: Sequence[Forecast]) -> Accuracy:
    errors = [forecast.error for forecast in of]
    return Accuracy(
        quantity=quantity,
        stage=stage,
        group=group,
        runs=len(of),
        mean_abs_error=sum(map(abs, errors)) / len(of),
        bias=sum(errors) / len(of),
        coverage=sum(forecast.is_inside for forecast in of) / len(of),
        stretch=stretch([forecast.widths_away for forecast in of]),
    )


def widths_away(said: tuple[float, float, float], actual: float) -> float:
    """`said`: low, mid, high. In half-widths of the side that the outcome lies on."""
    low, mid, high = said
    half = abs(math.log((high if actual >= mid else low) / mid))
    away = abs(math.log(actual / mid))
    return away / half if half else (0.0 if away == 0 else math.inf)


def stretch(scores: Sequence[float]) -> float | None:
    """The split-conformal factor: with it nine in ten of these outcomes, and of the next one, would have been inside.

    The ceil((n + 1) 0.9)-th smallest of n scores (Vovk; Lei et al. 2018, "Distribution-free predictive inference").
    """
    n = len(scores)
    if n < ENOUGH:
        return None
    return sorted(scores)[min(n, math.ceil((n + 1) * PROMISED)) - 1]


def widening(scores: Sequence[float]) -> float:
    """`stretch` as the next interval takes it: never narrower, nor without bounds. `scores` are of intervals as they
    were before any stretching."""
    return min(MOST_STRETCH, max(1.0, stretch(scores) or 1.0))
