"""Holds that tokens asked for, each with a field for a word and two buttons, on a page.

    rows = asked.rows(mo.ui, found.approvals, decide)        # decide(approval id, "approved" or "refused", typed)
    mo.vstack([mo.hstack([mo.md(inert.md("{}", row.said)), *row.elements]) for row in rows])

Whoever shows them keeps the rows, since an element that nobody holds hears no press, and refers to no value of theirs,
so that nothing is drawn anew while somebody types. `typed()` is the word that is in the field when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store.approvals import Approval

Decide = Callable[[str, str, Callable[[], str]], object]


@dataclass(frozen=True)
class Row:
    said: inert.Markdown
    elements: tuple[Any, Any, Any]  # the word, Approve, Refuse


def rows(ui: Any, waiting: Iterable[Approval], decide: Decide) -> list[Row]:
    return [_row(ui, each, decide) for each in waiting]


def _row(ui: Any, each: Approval, decide: Decide) -> Row:
    typed = {"word": ""}
    word = ui.text(placeholder="a word for who asked", label="", on_change=lambda value: typed.update(word=value))

    def button(label: str, kind: str, decision: str) -> Any:
        return ui.button(label=label, kind=kind, on_click=lambda _: decide(each.id, decision, lambda: typed["word"]))

    said = inert.md("**{}** asks to hold **{}** for {}", each.token, show.usd(each.usd_micros), each.run_name)
    return Row(said, (word, button("Approve", "success", "approved"), button("Refuse", "danger", "refused")))


def outcome(came: Approval) -> inert.Markdown:
    """What came of a decision."""
    return inert.md("The hold of {} for {} is {}.", came.token, came.run_name, came.state)
