"""Holds that tokens asked for, each with a field for a word and two buttons, on a page.

    rows = asked.rows(mo.ui, found.approvals, decide)        # decide(approval id, "approved" or "refused", word)
    mo.vstack([mo.hstack([mo.md(inert.md("{}", row.said)), *row.elements]) for row in rows])

Whoever shows them keeps the rows, since an element that nobody holds hears no press, and refers to no value of theirs,
so that nothing is drawn anew while somebody types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store.approvals import Approval
    from patron_core.ui.script import Outcome

Decide = Callable[[str, str, str], object]


@dataclass(frozen=True)
class Row:
    said: inert.Markdown
    elements: tuple[Any, Any, Any]  # the word, Approve, Refuse


def rows(ui: Any, waiting: Iterable[Approval], decide: Decide) -> list[Row]:
    return [_row(ui, each, decide) for each in waiting]


def _row(ui: Any, each: Approval, decide: Decide) -> Row:
    word = ui.text(placeholder="a word for who asked", label="")

    def button(label: str, kind: str, decision: str) -> Any:
        return ui.button(label=label, kind=kind, on_click=lambda _: decide(each.id, decision, word.value))

    said = inert.md("**{}** asks to hold **{}** for {}", each.token, show.usd(each.usd_micros), each.run_id)
    return Row(said, (word, button("Approve", "success", "approved"), button("Refuse", "danger", "refused")))


def outcome(came: Outcome[Approval]) -> inert.Markdown:
    """What came of a decision."""
    if came.value is None:
        return inert.error((came.error or {}).get("error", {}))
    return inert.md("The hold of {} is {}.", came.value.token, came.value.state)
