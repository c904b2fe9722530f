"""The widget: charts side by side with one axis, one zoom and one hover; ticks send what is drawn, no more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from patron_core.ui import theme
from patron_core.ui.plot.lines import Drawn, Look, axes_of, packed

HERE = Path(__file__).parent


@cache
def _text(*names: str) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


class Board(anywidget.AnyWidget):
    """Display it once, and call `show` whenever there is news: it is not built anew, and hover and zoom stay."""

    _esm = f"const THEMES = {theme.for_charts()};\n" + _text("uplot/uPlot.iife.min.js", "board.js", "points.js")
    _css = _text("uplot/uPlot.min.css", "board.css")
    axes = traitlets.List(["step"]).tag(sync=True)
    look = traitlets.Dict({}).tag(sync=True)  # written by the page
    block = traitlets.Bytes(b"").tag(sync=True)

    def __init__(self, panels: Sequence[Drawn] = (), **traits: Any):
        super().__init__(**traits)
        self._panels: Sequence[Drawn] = ()
        self.observe(lambda _: self._draw(), names="look")
        self.show(panels)

    def show(self, panels: Sequence[Drawn]) -> None:
        self._panels = panels
        self.axes = axes_of(panels)
        self._draw()

    def _draw(self) -> None:
        self.block = packed(self._panels, Look.parsed(self.look, self.axes))
