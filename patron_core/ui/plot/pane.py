"""A pane of text that grows: it stays where somebody scrolled to, and what somebody marked stays marked."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from patron_core.ui import inert

HERE = Path(__file__).parent


class Pane(anywidget.AnyWidget):
    """Display it once, and call `show` whenever there is news."""

    _esm = (HERE / "pane.js").read_text(encoding="utf-8")
    _css = (HERE / "pane.css").read_text(encoding="utf-8")
    text = traitlets.Unicode("").tag(sync=True)

    def show(self, text: str) -> None:
        """Lines of a log: shown as they are, secrets masked."""
        self.text = inert.terminal(text)
