"""A curve as SVG, for pages that run no script. Its colours are the page's classes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from patron_core.ui import inert
from patron_core.ui.inert import Html

WIDTH, HEIGHT = 760, 260  # pixels, with room for the axes
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 96, 26, 34
Position = Callable[[float], float]  # in pixels, of a step or a value
_MOST_DOTS = 40  # points that are drawn one by one


def line(
    points: Sequence[tuple[int, float, float]],
    *,
    title: str,
    num_steps: int | None = None,
    expected: tuple[float, float, float] | None = None,
    resumed_steps: Sequence[int] = (),
) -> Html:
    """(step, value, time) as a line; `expected` as a bar at its end; dashes where another attempt went on."""
    if not points:
        return inert.html("")
    last = max(num_steps or 0, points[-1][0], 1)
    values = [value for _, value, _ in points]
    low, high = _span(values, expected)

    def x(step: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * step / last

    def y(value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - min(high, max(low, value))) / (high - low)

    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value, _ in points)
    parts = [_text(_LEFT, 15, title, "start"), *_axes(low, high, last, x, y)]
    parts += [_rule(x(step), _TOP, x(step), HEIGHT - _BOTTOM, "mark-line") for step in resumed_steps]
    if expected is not None:
        parts += _bar(x(last) + 8, [y(value) for value in expected])
    parts.append(inert.html("<polyline class='curve' points='{}'/>", path))
    if len(points) <= _MOST_DOTS:
        parts += [
            inert.html("<circle class='dot' cx='{}' cy='{}' r='3'/>", f"{x(step):.1f}", f"{y(value):.1f}")
            for step, value, _ in points
        ]
    said = f"{title}: {values[0]:.4g} at step {points[0][0]:,}, {values[-1]:.4g} at step {points[-1][0]:,}"
    return inert.html(
        "<svg role='img' aria-label='{}' viewBox='0 0 {} {}' width='{}'>{}</svg>",
        said,
        WIDTH,
        HEIGHT,
        WIDTH,
        inert.joined(parts),
    )


def _span(values: Sequence[float], expected: Sequence[float] | None) -> tuple[float, float]:
    """Of a long curve the first fall may run out of the top; its end, and what was expected, are seen whole."""
    ordered = sorted(values)
    top = ordered[-1] if len(ordered) <= 100 else max(ordered[int(0.98 * len(ordered))], values[-1])
    known = [ordered[0], top, *(expected or ())]
    room = 0.06 * (max(known) - min(known)) or 0.05 * abs(max(known)) or 1.0
    return min(known) - room, max(known) + room


def _axes(low: float, high: float, last: int, x: Position, y: Position) -> list[Html]:
    parts = [_rule(_LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM, "axis")]
    for value in _ticks(low, high):
        parts += [_rule(_LEFT, y(value), WIDTH - _RIGHT, y(value), "axis")]
        parts += [_text(_LEFT - 8, y(value) + 4, f"{value:.6g}", "end")]
    for step in _ticks(0, last):
        parts.append(_text(x(step), HEIGHT - _BOTTOM + 17, f"{step:,.0f}", "middle"))
    return [*parts, _text(WIDTH - _RIGHT, HEIGHT - 3, "step", "end")]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    every = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, final = math.ceil(low / every - 1e-9), math.floor(high / every + 1e-9)
    return [round(number * every, 10) for number in range(first, final + 1)]


def _bar(left: float, ys: Sequence[float]) -> list[Html]:
    low, mid, high = ys  # in pixels, so that the lowest value is the lowest on the page
    box = inert.html(
        "<rect class='band' x='{}' y='{}' width='14' height='{}'/>",
        f"{left:.1f}",
        f"{high:.1f}",
        f"{max(1.0, low - high):.1f}",
    )
    return [box, _rule(left, mid, left + 14, mid, "expected"), _text(left + 18, mid + 4, "forecast", "start")]


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    ends = (f"{each:.1f}" for each in (x1, y1, x2, y2))
    return inert.html("<line class='{}' x1='{}' y1='{}' x2='{}' y2='{}'/>", kind, *ends)


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return inert.html("<text x='{}' y='{}' text-anchor='{}'>{}</text>", f"{x:.1f}", f"{y:.1f}", anchor, words)
