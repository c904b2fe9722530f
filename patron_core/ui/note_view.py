"""Saved notes as they are read: who wrote what when, and their Markdown rendered. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from patron_core.ui import inert, show
from patron_core.verbs.threads import WORDS

if TYPE_CHECKING:
    from patron_core.store.records import Note, NoteRevision
    from patron_core.verbs import Thread

_CARD = "border-left:3px solid {};padding:.25rem 0 .25rem .9rem;margin:.75rem 0;max-width:52rem"
_COLOURS = {"hypothesis": "#b7791f", "result": "#2f855a", "decision": "#2b6cb0", "failed": "#c53030"}


def note_cards(notes: Iterable[Note], *, empty: str = "No note yet.") -> str:
    """HTML of notes, in the order given."""
    cards = inert.joined(map(_card, notes))
    return inert.page(cards or inert.html("<p style='color:#718096'>{}</p>", empty))


def threads(found: Iterable[Thread], *, empty: str = "No note is like that.") -> str:
    """HTML of threads: a heading, the runs that it rests on, and its notes."""
    cards = inert.joined(
        inert.html(
            "<section><h3 style='margin:1.4rem 0 .3rem'>{}{}</h3>{}{}</section>",
            thread.title if len(thread.notes) > 1 else "",
            inert.html(" <small style='color:#b7791f'>open</small>") if thread.is_open else inert.html(""),
            inert.joined(
                inert.html("<div style='font-size:.85rem'>{}</div>", evidence.sentence) for evidence in thread.evidence
            ),
            inert.joined(map(_card, thread.notes)),
        )
        for thread in found
    )
    return inert.page(cards or inert.html("<p>{}</p>", empty))


def revisions(found: Iterable[NoteRevision]) -> str:
    """HTML of all that a note ever said, the newest first."""
    return inert.page(
        inert.joined(
            inert.html(
                "<article style='{}'><div style='font-size:.8rem'>revision {}, {}, {}, {}</div>{}"
                "<div class='prose dark:prose-invert'>{}</div></article>",
                _CARD.format("#a0aec0"),
                one.revision,
                WORDS.get(one.kind, one.kind),
                one.actor,
                show.moment(one.time),
                inert.html("<strong>{}</strong>", one.title) if one.title else inert.html(""),
                inert.rendered(one.body),
            )
            for one in found
        )
    )


def _card(note: Note) -> inert.Html:
    changed = f", revision {note.revision}" if note.revision > 1 else ""
    said = f"{WORDS.get(note.kind, note.kind)}, {note.actor}, {show.moment(note.updated_at)}{changed}"
    return inert.html(
        "<article class='patron-note' style='{}'><div style='color:#718096;font-size:.8rem'>{}</div>{}"
        "<div class='prose dark:prose-invert'>{}</div></article>",
        _CARD.format(_COLOURS.get(note.kind, "#a0aec0")),
        said,
        inert.html("<strong>{}</strong>", note.title) if note.title else inert.html(""),
        inert.rendered(note.body),
    )
