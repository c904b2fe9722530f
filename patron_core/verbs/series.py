"""Long series for charts: growing columns, thinned so that no extreme is lost, smoothed, and spikes counted. Pure.

A chart has about a thousand columns of pixels. Of each the mean is drawn as a line and lowest to highest as a band;
a spike of one step in a hundred thousand is found before anything is thinned, and marked.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[np.float64]

SIDE = 32  # points before and after that a point is compared with
ENOUGH = 16  # points before it, to call it a spike
SPREADS = 10.0  # away from both sides; noise of a Gaussian is never, heavier tails seldom
FLOOR_SHARE = 0.05  # of the level: what is nearer is no spike, however quiet the series
MAX_COLUMNS = 1000
TYPICAL = 0.98  # of a long curve decides how high its axis goes: the fall at its beginning may run out of the top


@dataclass
class Series:
    """One metric of one run: steps, unix seconds and finite values in order. `extend` appends."""

    steps: Array = field(default_factory=lambda: np.empty(0))
    times: Array = field(default_factory=lambda: np.empty(0))
    values: Array = field(default_factory=lambda: np.empty(0))
    spikes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # indices
    given: int = 0  # points, those that are not finite too
    _newest: tuple[float, float] = (0.0, 0.0)  # step and time

    def __len__(self) -> int:
        return len(self.values)

    def continues_in(self, steps: Array, times: Array) -> bool:
        """Whether these begin with what was given; after a resume they do not."""
        if not self.given:
            return True
        return len(steps) >= self.given and (steps[self.given - 1], times[self.given - 1]) == self._newest

    def extend(self, steps: ArrayLike, times: ArrayLike, values: ArrayLike) -> None:
        """What is not finite is left out. Spikes are looked for among what is new, and what it may judge anew."""
        new = [np.asarray(column, np.float64) for column in (steps, times, values)]
        if not len(new[0]):
            return
        self.given += len(new[0])
        self._newest = (float(new[0][-1]), float(new[1][-1]))
        good = np.isfinite(new[2])
        before = len(self)
        self.steps, self.times, self.values = (
            np.concatenate([old, column[good]])
            for old, column in zip((self.steps, self.times, self.values), new, strict=True)
        )
        since = max(0, before - SIDE)
        context = max(0, since - 2 * SIDE)
        found = find_spikes(self.values[context:]) + context
        self.spikes = np.concatenate([self.spikes[self.spikes < since], found[found >= since]])


def series_by_key(frame: pl.DataFrame) -> dict[str, Series]:
    """Of a frame with key, step, time and value; in the order in which the keys come."""
    found: dict[str, Series] = {}
    for (key,), part in frame.partition_by("key", as_dict=True, maintain_order=True).items():
        found[str(key)] = Series()
        found[str(key)].extend(part["step"].to_numpy(), part["time"].to_numpy(), part["value"].to_numpy())
    return found


@dataclass(frozen=True)
class Columns:
    """A series over the columns of a chart; NaN where a column has no point."""

    mean: Array
    low: Array
    high: Array


def find_spikes(values: Array) -> NDArray[np.int64]:
    """Indices of points far above, or far below, what is on both sides of them; of neighbours the farthest.

    Both sides, so that the fall at the beginning of a loss is none. The newest points have one side only, and are
    judged by that.
    """
    candidates = _candidates(values)
    if not len(candidates):
        return candidates
    padded = np.concatenate([np.full(SIDE, np.nan), values, np.full(SIDE, np.nan)])
    steps = np.arange(SIDE)
    before, before_spread = _level_and_spread(padded[candidates[:, None] + steps])
    after, after_spread = _level_and_spread(padded[candidates[:, None] + SIDE + 1 + steps])
    after = np.where(np.isnan(after), before, after)
    room = np.maximum(SPREADS * np.fmax(before_spread, after_spread), FLOOR_SHARE * np.abs(before))
    here = values[candidates]
    far = np.maximum(here - np.maximum(before, after), np.minimum(before, after) - here) - room
    return _farthest_of_neighbours(candidates[far > 0], far[far > 0])


def _candidates(values: Array) -> NDArray[np.int64]:
    """Far from the middle of the block that they are in: cheap, and no spike is missed."""
    num = -(-len(values) // SIDE)
    if len(values) <= ENOUGH:
        return np.empty(0, np.int64)
    blocks = np.concatenate([values, np.full(num * SIDE - len(values), np.median(values[-SIDE:]))]).reshape(num, SIDE)
    level = np.median(blocks, axis=1, keepdims=True)
    away = np.abs(blocks - level)
    spread = 1.4826 * np.median(away, axis=1, keepdims=True)
    is_far = away > np.maximum(0.5 * SPREADS * spread, 0.5 * FLOOR_SHARE * np.abs(level))
    found = np.flatnonzero(is_far.ravel()[: len(values)])
    return found[found >= ENOUGH]


def _level_and_spread(windows: Array) -> tuple[Array, Array]:
    """Of each row: median, and median distance from it as of a Gaussian; NaN where less than half of it is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without any number
        level = np.nanmedian(windows, axis=1)
        spread = 1.4826 * np.nanmedian(np.abs(windows - level[:, None]), axis=1)
    is_known = np.isfinite(windows).sum(axis=1) >= ENOUGH
    return np.where(is_known, level, np.nan), np.where(is_known, spread, np.nan)


def _farthest_of_neighbours(candidates: NDArray[np.int64], far: Array) -> NDArray[np.int64]:
    if not len(candidates):
        return candidates
    groups = np.split(np.arange(len(candidates)), np.flatnonzero(np.diff(candidates) > 2) + 1)
    return candidates[[group[np.argmax(far[group])] for group in groups]]


def spike_words(series: Series) -> str:
    """Such as `1 spike, step 63,001`; empty without any."""
    if not len(series.spikes):
        return ""
    steps = series.steps[series.spikes]
    if len(steps) == 1:
        return f"1 spike, step {steps[0]:,.0f}"
    farthest = steps[np.argmax(np.abs(series.values[series.spikes] - np.median(series.values)))]
    return f"{len(steps):,} spikes, the farthest at step {farthest:,.0f}, the last at step {steps[-1]:,.0f}"


def smoothed(values: Array, half_life: float) -> Array:
    """An exponential mean; `half_life` in points, 0 for none. Each point counts half as much as `half_life` later."""
    import polars as pl

    if half_life <= 0 or not len(values):
        return values
    return pl.Series(values).ewm_mean(half_life=half_life, adjust=True).to_numpy()


def edges_for(xs: Sequence[Array], *, columns: int = MAX_COLUMNS, log: bool = False) -> Array:
    """Edges of columns that hold all of these ascending xs: each x for itself where there are few, else even ones."""
    if not any(len(x) for x in xs):
        return np.empty(0)
    if sum(map(len, xs)) <= columns or len(every := np.unique(np.concatenate(xs))) <= columns:
        return np.append(np.unique(np.concatenate(xs)), np.inf)
    first, last = every[0], every[-1]
    if log:
        first = every[every > 0][0] if (every > 0).any() else last
        edges = np.geomspace(first, last, columns + 1)
    else:
        edges = np.linspace(first, last, columns + 1)
    edges[0], edges[-1] = every[0], np.inf
    return edges


def into_columns(x: Array, y: Array, edges: Array) -> tuple[Columns, Array]:
    """Mean, lowest and highest of each column, and the last x in it (NaN where there is none)."""
    num = max(0, len(edges) - 1)
    mean, low, high, last = (np.full(num, np.nan) for _ in range(4))
    at = np.searchsorted(x, edges)
    full = np.flatnonzero(np.diff(at) > 0)
    if len(full):
        inside, starts = y[: at[-1]], at[full]
        low[full] = np.minimum.reduceat(inside, starts)
        high[full] = np.maximum.reduceat(inside, starts)
        mean[full] = np.add.reduceat(inside, starts) / np.diff(at)[full]
        last[full] = x[at[full + 1] - 1]
    return Columns(mean=mean, low=low, high=high), last


def span(lines: Sequence[Columns], *, spikes: Sequence[float] = (), whole: bool = False) -> tuple[float, float]:
    """Lowest and highest that an axis shows. Of a long curve the first fall may run out of the top, unless `whole`;
    spikes never do. (0, 1) without any point."""
    lows = np.concatenate([line.low for line in lines]) if lines else np.empty(0)
    highs = np.concatenate([line.high for line in lines]) if lines else np.empty(0)
    if not np.isfinite(lows).any():
        return 0.0, 1.0
    low, high = float(np.nanmin(lows)), float(np.nanmax(highs))
    if not whole and max(len(line.mean) for line in lines) > 100:
        means = np.concatenate([line.mean for line in lines])
        lasts = [line.mean[np.isfinite(line.mean)][-1:] for line in lines]
        low = float(np.nanmin(means))
        high = max(float(np.nanquantile(means, TYPICAL)), *(float(last[0]) for last in lasts if len(last)))
    return min([low, *spikes]), max([high, *spikes])
