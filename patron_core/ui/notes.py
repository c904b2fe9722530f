"""Notes on a page: as they are read, their Markdown rendered; and while they are written, kept at every keystroke.

    draft = notes.open_draft(store, "watch:r1", actor="ada")
    fields = draft.elements(mo.ui, lambda: set_work(draft.keep(session, store, run_id="r1")))

What is in the fields is what is saved, whenever it is pressed, and a second press saves nothing twice. A draft is found
again after a reload, and gone once it is saved. It lies in a file of its own under PATRON_HOME, on the machine that
serves the page; once it is saved it is in the lab.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patron_core import settings, verbs
from patron_core.ui import background, inert, show
from patron_core.verbs.threads import WORDS as WORDS
from trainer.contract.files import write_atomic

if TYPE_CHECKING:
    from patron_core.store import Store
    from patron_core.store.records import Note
    from patron_core.ui.background import Work
    from patron_core.ui.script import Outcome, Session
    from patron_core.verbs import Thread

_CARD = "border-left:3px solid {};padding:.25rem 0 .25rem .9rem;margin:.75rem 0;max-width:52rem"
_COLOURS = {"hypothesis": "#b7791f", "result": "#2f855a", "decision": "#2b6cb0", "failed": "#c53030"}


@dataclass
class Draft:
    """What is in the fields, and what it began from."""

    file: Path
    actor: str
    key: str  # of a new note: pressed twice it is one
    body: str = ""
    title: str = ""
    kind: str = "note"
    note_id: str | None = None  # None: a new note
    base_revision: int | None = None  # of the note as its writer saw it
    is_found: bool = False  # as it was left, by an earlier look at the page

    def keeper(self, name: str) -> Callable[[str], None]:
        """What a field calls with each of its values."""

        def keep(value: str) -> None:
            setattr(self, name, value)
            self._write()

        return keep

    def elements(self, ui: Any, save: Callable[[], object], *, words: str = "Save", rows: int = 3) -> dict[str, Any]:
        """The fields and the button of a page, by name. `ui` is marimo's; whoever keeps them alive refers to no value
        of theirs, so that nothing is drawn anew while somebody types."""
        return {
            "kind": ui.dropdown(list(verbs.KINDS), value=self.kind, label="Kind", on_change=self.keeper("kind")),
            "title": ui.text(
                self.title, label="Title", full_width=True, debounce=False, on_change=self.keeper("title")
            ),
            "body": ui.text_area(
                self.body,
                placeholder="What do you see? Markdown, if you like.",
                rows=rows,
                full_width=True,
                debounce=False,
                on_change=self.keeper("body"),
            ),
            "save": ui.button(label=words, kind="success", on_click=lambda _: save()),
        }

    def keep(self, session: Session[Any], store: Store, **about: Any) -> Work:
        """What a press does: `save`, once the last words have come too. Its value is the outcome."""
        return background.pressed(f"note:{self.file.stem}", lambda work: self.save(session, store, **about))

    def save(
        self,
        session: Session[Any],
        store: Store,
        *,
        project: str = "",
        run_id: str | None = None,
        links: dict[str, Any] | None = None,
    ) -> Outcome[Note]:
        """Save what is in the fields, and forget the draft. A second press is answered as the first, and saves nothing
        twice. Where somebody else saved meanwhile it is a conflict, and the draft stays."""
        saved = session.call(
            verbs.write_note,
            store,
            project=project or verbs.find_run(store, run_id or "").project,
            body=self.body,
            title=self.title,
            kind=self.kind,
            run_id=run_id,
            note_id=self.note_id,
            base_revision=self.base_revision,
            links=links,
            key=None if self.note_id else self.key,
            actor=self.actor,
        )
        if saved.value is not None:
            self.note_id, self.base_revision = saved.value.id, saved.value.revision
            self.file.unlink(missing_ok=True)
        return saved

    def merged_with(self, theirs: Note) -> None:
        """The writer has seen what was saved meanwhile: the next save follows it."""
        self.base_revision = theirs.revision
        self._write()

    def _write(self) -> None:
        settings.make_home()
        self.file.parent.mkdir(mode=0o700, exist_ok=True)
        kept = {name: value for name, value in asdict(self).items() if name not in _NOT_KEPT}
        write_atomic(self.file, json.dumps(kept), durable=False, mode=0o600)


_NOT_KEPT = ("file", "actor", "is_found")
_TEXTS = ("key", "body", "title", "kind")


def open_draft(
    store: Store,
    about: str,
    *,
    actor: str,
    note: Note | None = None,
    kind: str = "note",
    title: str = "",
    body: str = "",
) -> Draft:
    """The draft of this writer about this, as it was left; else a new one, of `note` where one is changed.

    `about`: the place on a page where it is written, and what it is about: watch:RUN, journal:PROJECT, note:NOTE.
    """
    name = hashlib.sha256("\n".join((str(store.url), actor, about)).encode()).hexdigest()[:32]
    draft = Draft(file=settings.home() / "drafts" / f"{name}.json", actor=actor, key=uuid.uuid4().hex, kind=kind)
    draft.title, draft.body = title, body
    if note is not None:
        draft.body, draft.title, draft.kind = note.body, note.title, note.kind
        draft.note_id, draft.base_revision = note.id, note.revision
    with suppress(OSError, ValueError, TypeError):  # none, or no draft: then it begins anew
        kept = json.loads(draft.file.read_text(encoding="utf-8"))
        if set(kept) == {one.name for one in fields(Draft)} - set(_NOT_KEPT) and all(
            isinstance(kept[text], str) for text in _TEXTS
        ):
            if any(kept[text] != getattr(draft, text) for text in ("body", "title")):
                draft.is_found = True
            for text, value in kept.items():
                setattr(draft, text, value)
    return draft


def note_cards(notes: Iterable[Note], *, empty: str = "No note yet.") -> str:
    """HTML of notes, in the order given."""
    cards = inert.joined(map(_card, notes))
    return inert.page(cards or inert.html("<p style='{}'>{}</p>", show.QUIET, empty))


def threads(found: Iterable[Thread], *, empty: str = "No note is like that.") -> str:
    """HTML of threads: a heading, the runs that it rests on, and its notes."""
    cards = inert.joined(
        inert.html(
            "<section><h3 style='margin:1.4rem 0 .3rem'>{}{}</h3>{}{}</section>",
            thread.title if len(thread.notes) > 1 else "",
            inert.html(" <small><i>(open)</i></small>") if thread.is_open else inert.html(""),
            inert.joined(
                inert.html("<div style='font-size:.85rem'>{}</div>", evidence.sentence) for evidence in thread.evidence
            ),
            inert.joined(map(_card, thread.notes)),
        )
        for thread in found
    )
    return inert.page(cards or inert.html("<p>{}</p>", empty))


def _card(note: Note) -> inert.Html:
    changed = f", revision {note.revision}" if note.revision > 1 else ""
    said = f"{WORDS.get(note.kind, note.kind)}, {note.actor}, {show.moment(note.updated_at)}{changed}"
    return inert.html(
        "<article class='patron-note' style='{}'><div style='opacity:.75;font-size:.8rem'>{}</div>{}"
        "<div class='prose dark:prose-invert'>{}</div></article>",
        _CARD.format(_COLOURS.get(note.kind, "#a0aec0")),
        said,
        inert.html("<strong>{}</strong>", note.title) if note.title else inert.html(""),
        inert.rendered(note.body),
    )
