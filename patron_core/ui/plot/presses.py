"""What lets a button go off in the moment of its press, before the server has heard of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import traitlets

if TYPE_CHECKING:
    from patron_core.ui.background import Work


class Presses(anywidget.AnyWidget):
    """Display it once on a page with buttons, and call `look` wherever a press begins or may have come to its end."""

    _esm = (Path(__file__).parent / "presses.js").read_text(encoding="utf-8")
    # how often it looked, and whether anything was under way: in one, since a page hears of each value by itself
    looked = traitlets.List([0, False]).tag(sync=True)

    def look(self, *works: Work | None) -> None:
        """`works`: the presses that the page's states hold."""
        self.looked = [self.looked[0] + 1, any(work is not None and not work.done for work in works)]
