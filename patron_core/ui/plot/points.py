"""A chart of single results, each a point with its intervals as bars, beside lines of reference. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from patron_core.interval import Interval
from patron_core.ui import inert
from patron_core.ui.plot.lines import Block, Look, Mark

MOST_NAMED = 40  # points with their names beside them; of more they are read under the mouse


@dataclass(frozen=True, kw_only=True)
class Point:
    x: Interval
    y: Interval
    name: str  # short: beside it
    words: str  # where it is pointed at
    kind: int  # of the chart's kinds: its colour
    group: int = 0  # of the chart's groups: its shape


@dataclass(frozen=True, kw_only=True)
class Points:
    """`kinds`: words and a colour of the palette each. `marks`: lines of reference, at an x."""

    title: str
    x_title: str
    points: Sequence[Point]
    unit: str = ""
    kinds: Sequence[tuple[str, int]] = ()
    groups: Sequence[str] = ()
    marks: Sequence[Mark] = ()

    lines = ()  # no series: nothing to smooth, and no axis but its own

    def put(self, block: Block, look: Look, columns: int) -> dict[str, Any]:
        points = sorted(self.points, key=attrgetter("x.mid"))
        sides = [
            np.array([getattr(getattr(point, axis), side) for point in points])
            for axis in ("x", "y")
            for side in ("low", "mid", "high")
        ]
        x_low, x, x_high, y_low, y, y_high = sides
        wide = [*x_low, *x_high, *(mark.step for mark in self.marks)]
        return {
            "title": inert.vega(self.title),
            "unit": inert.vega(self.unit),
            "x_title": inert.vega(self.x_title),
            "lines": [],
            "bands": [],
            "x": block.put(x),
            "points": {
                "x_low": block.put(x_low),
                "x_high": block.put(x_high),
                "y": block.put(y),
                "y_low": block.put(y_low),
                "y_high": block.put(y_high),
                "kind": [point.kind for point in points],
                "group": [point.group for point in points],
                "names": [inert.vega(point.name) for point in points],
                "words": [inert.vega(point.words) for point in points],
                "are_named": len(points) <= MOST_NAMED,
            },
            "kinds": [[inert.vega(words), colour] for words, colour in self.kinds],
            "groups": [inert.vega(group) for group in self.groups],
            "marks": [{"x": mark.step, "words": inert.vega(mark.words), "kind": mark.kind} for mark in self.marks],
            "x_span": [min(wide), max(wide)] if wide else [0.0, 1.0],
            "x_least": min((value for value in wide if value > 0), default=1.0),  # where a log axis can begin
            "y": [float(y_low.min()), float(y_high.max())] if points else [0.0, 1.0],
            "window": list(look.window) if look.window else None,
        }
