"""Saved notes as they are read: who wrote what when, and their Markdown rendered. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store.records import Note

_CARD = "border-left:3px solid {};padding:.25rem 0 .25rem .9rem;margin:.75rem 0;max-width:52rem"
_COLOURS = {"hypothesis": "#b7791f", "result": "#2f855a", "decision": "#2b6cb0", "failed": "#c53030"}


def note_cards(notes: Iterable[Note], *, empty: str = "No note yet.") -> str:
    """HTML of notes, in the order given."""
    cards = inert.joined(map(_card, notes))
    return inert.page(cards or inert.html("<p style='color:#718096'>{}</p>", empty))


def _card(note: Note) -> inert.Html:
    changed = f", revision {note.revision}" if note.revision > 1 else ""
    said = f"{show.plain(note.kind)}, {note.actor}, {show.moment(note.updated_at)}{changed}"
    return inert.html(
        "<article class='patron-note' style='{}'><div style='color:#718096;font-size:.8rem'>{}</div>{}"
        "<div class='prose dark:prose-invert'>{}</div></article>",
        _CARD.format(_COLOURS.get(note.kind, "#a0aec0")),
        said,
        inert.html("<strong>{}</strong>", note.title) if note.title else inert.html(""),
        inert.rendered(note.body),
    )
