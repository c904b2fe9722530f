"""What a board of charts shows, and what of it reaches the page: thinned to columns, in one piece of bytes. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from patron_core.interval import Interval
from patron_core.ui import inert
from patron_core.verbs.axes import AXES, Axes
from patron_core.verbs.series import MAX_COLUMNS, Array, Columns, Series, edges_for, into_columns, smoothed, span
from patron_core.verbs.series import spike_words as _spike_words

MAX_MARKED_SPIKES = 50  # of a line, the newest; all are counted


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of one run."""

    name: str
    series: Series
    axes: Axes | None = None  # None: there are only steps
    colour: int = 0  # of the palette

    def x(self, axis: str) -> Array:
        if axis == "step" or self.axes is None:
            return self.series.steps
        found = self.axes.of(axis, self.series.steps, self.series.times)
        ascending: Array = np.maximum.accumulate(found) if len(found) else found
        return ascending


@dataclass(frozen=True, kw_only=True)
class Band:
    """What was expected of a line, at steps."""

    name: str
    steps: Array
    at: Sequence[Interval]
    colour: int | None = None  # of the palette; None is grey


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a step."""

    step: float
    words: str
    kind: str = "event"  # event: a line over the chart; trouble: one in the colour of trouble; tick: below; dot: above


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart of a board."""

    title: str
    lines: Sequence[Line]
    unit: str = ""
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    last_step: float | None = None  # where the run will end; the axis goes to there

    def put(self, block: Block, look: Look, columns: int) -> dict[str, Any]:
        return _panel(self, look, block, columns)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How somebody looks at a board: what the page sends back."""

    axis: str = "step"
    log_x: bool = False
    smoothing: float = 0.0  # half-life in points
    window: tuple[float, float] | None = None  # of the axis; None is all

    @classmethod
    def parsed(cls, said: Any, axes: Sequence[str]) -> Look:
        """What a page said, as far as it makes sense."""
        said = said if isinstance(said, dict) else {}
        smoothing = said.get("smoothing")
        low, high = (said.get(name) for name in ("low", "high"))
        numbers = isinstance(low, int | float) and isinstance(high, int | float) and low < high
        return cls(
            axis=said["axis"] if said.get("axis") in axes else "step",
            log_x=said.get("log_x") is True,
            smoothing=min(1e6, max(0.0, float(smoothing))) if isinstance(smoothing, int | float) else 0.0,
            window=(float(low), float(high)) if numbers else None,
        )


def axes_of(panels: Sequence[Drawn]) -> list[str]:
    """Those that every line has."""
    had = [set(line.axes.names) if line.axes else {"step"} for panel in panels for line in panel.lines]
    return [axis for axis in AXES if all(axis in names for names in had)] if had else ["step"]


class Drawn(Protocol):
    """A chart that can lie on a board."""

    @property
    def lines(self) -> Sequence[Line]: ...

    def put(self, block: Block, look: Look, columns: int) -> dict[str, Any]:
        """What the page is told of it; its numbers go into the block."""


@dataclass
class Block:
    """Numbers on their way: a header that names where each array begins, and the arrays."""

    arrays: list[Array] = field(default_factory=list)
    size: int = 0

    def put(self, array: Array) -> list[int]:
        """Where it will lie: its first number and how many there are."""
        at, self.size = self.size, self.size + len(array)
        self.arrays.append(np.asarray(array, "<f8"))
        return [at, len(array)]

    def packed(self, header: dict[str, Any]) -> bytes:
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 4) % 8)
        return len(text).to_bytes(4, "little") + text + b"".join(array.tobytes() for array in self.arrays)


def packed(panels: Sequence[Drawn], look: Look, *, columns: int = MAX_COLUMNS) -> bytes:
    """Four bytes with the length of a JSON header, the header, then 64-bit floats."""
    block = Block()
    return block.packed({"panels": [panel.put(block, look, columns) for panel in panels], "axis": look.axis})


def _panel(panel: Panel, look: Look, block: Block, columns: int) -> dict[str, Any]:
    xs = [line.x(look.axis) for line in panel.lines]
    ys = [line.series.values for line in panel.lines]
    smooth = [smoothed(y, look.smoothing) for y in ys] if look.smoothing else [np.empty(0)] * len(ys)
    bands = list(panel.bands) if look.axis == "step" else []
    shown = [_within(x, look.window) for x in xs]
    edges = edges_for([x[at] for x, at in zip(xs, shown, strict=True)], columns=columns, log=look.log_x)
    drawn: list[Columns] = []
    lines: list[dict[str, Any]] = []
    lasts = np.full(max(0, len(edges) - 1), np.nan)
    spike_values: list[float] = []
    for line, x, y, calm, at in zip(panel.lines, xs, ys, smooth, shown, strict=True):
        found, last = into_columns(x[at], y[at], edges)
        lasts = np.fmax(lasts, last)
        drawn.append(found)
        spikes = [i for i in line.series.spikes if at.start <= i < at.stop][-MAX_MARKED_SPIKES:]
        spike_values += [float(y[i]) for i in spikes]
        thinned = bool(np.nansum(found.high - found.low) > 0)
        lines.append(
            {
                "name": inert.vega(line.name),
                "colour": line.colour,
                "mean": block.put(found.mean),
                "low": block.put(found.low) if thinned else None,
                "high": block.put(found.high) if thinned else None,
                "smooth": block.put(into_columns(x[at], calm[at], edges)[0].mean) if len(calm) else None,
                "spikes": [[float(x[i]), float(y[i])] for i in spikes],
                "spike_words": _spike_words(line.series),
                "points": len(line.series),
            }
        )
    x = np.where(np.isnan(lasts), edges[:-1], lasts) if len(lasts) else lasts
    low, high = span(drawn, spikes=spike_values, whole=look.window is not None)
    calm_low, calm_high = span(drawn, whole=look.window is not None)
    for band in bands:
        ends = [part.mid for part in band.at[-1:]]  # a wide band may run out of the chart, its middle does not
        low, calm_low = min([low, *ends]), min([calm_low, *ends])
        high, calm_high = max([high, *ends]), max([calm_high, *ends])
    return {
        "title": inert.vega(panel.title),
        "unit": inert.vega(panel.unit),
        "x": block.put(x),
        "lines": lines,
        "bands": [_band(band, block) for band in bands],
        "marks": [
            {"x": mark.step, "words": inert.vega(mark.words), "kind": mark.kind} for mark in panel.marks
        ] if look.axis == "step" else [],
        "y": [low, high],
        "y_calm": [calm_low, calm_high],
        "window": list(look.window) if look.window else None,
        "end": panel.last_step if look.axis == "step" else None,
    }  # fmt: skip


def _within(x: Array, window: tuple[float, float] | None) -> slice:
    """The points in a window, and one more on each side, so that lines go out of the chart."""
    if window is None:
        return slice(0, len(x))
    first, last = np.searchsorted(x, window[0]), np.searchsorted(x, window[1], side="right")
    return slice(max(0, int(first) - 1), min(len(x), int(last) + 1))


def _band(band: Band, block: Block) -> dict[str, Any]:
    return {
        "name": inert.vega(band.name),
        "colour": band.colour,
        "x": block.put(band.steps),
        **{side: block.put(np.array([getattr(each, side) for each in band.at])) for side in ("low", "mid", "high")},
    }
