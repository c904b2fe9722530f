"""A note while it is written: kept at every keystroke, found again after a reload, gone once it is saved.

    draft = drafts.open_draft(store, "watch:r1", actor="ada")
    mo.ui.text_area(draft.body, debounce=False, on_change=draft.keeper("body"))     # what is in the field
    mo.ui.button(on_click=lambda _: set_saved(draft.save(session, store, project="lab")))     # is what is saved

It lies in a file of its own under PATRON_HOME, on the machine that serves the page; once it is saved it is in the lab.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patron_core import settings, verbs
from trainer.contract.files import write_atomic

if TYPE_CHECKING:
    from patron_core.store import Store
    from patron_core.store.records import Note
    from patron_core.ui.script import Outcome, Session


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

    def save(
        self,
        session: Session[Any],
        store: Store,
        *,
        project: str,
        run_id: str | None = None,
        links: dict[str, Any] | None = None,
    ) -> Outcome[Note]:
        """Save what is in the fields, and forget the draft. A second press is answered as the first, and saves nothing
        twice. Where somebody else saved meanwhile it is a conflict, and the draft stays."""
        saved = session.call(
            verbs.write_note,
            store,
            project=project,
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
    store: Store, about: str, *, actor: str, note: Note | None = None, kind: str = "note", title: str = ""
) -> Draft:
    """The draft of this writer about this, as it was left; else a new one, of `note` where one is changed.

    `about`: the place on a page where it is written, and what it is about: watch:RUN, journal:PROJECT, note:NOTE.
    """
    name = hashlib.sha256("\n".join((str(store.url), actor, about)).encode()).hexdigest()[:32]
    draft = Draft(file=settings.home() / "drafts" / f"{name}.json", actor=actor, key=uuid.uuid4().hex, kind=kind)
    draft.title = title
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
