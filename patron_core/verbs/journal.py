"""The journal: hypotheses, results, verdicts and failures of a project, linked to runs. Nothing written is lost."""

from __future__ import annotations

import time
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.store import Store, notes, runs
from patron_core.store.records import Note, NoteRevision
from patron_core.verbs.access import asks

KINDS = notes.KINDS
MAX_BODY_CHARS = 200_000


@asks("note")
def write_note(
    store: Store,
    *,
    project: str,
    body: str,
    title: str = "",
    kind: str = "note",
    run_id: str | None = None,
    note_id: str | None = None,
    base_revision: int | None = None,
    links: dict[str, Any] | None = None,
    key: str | None = None,
    actor: str,
    now: float | None = None,
) -> Note:
    """Write a note, or a new revision of `note_id`. Raises Conflict if somebody wrote since `base_revision`."""
    problems = []
    if kind not in KINDS:
        problems.append(f"kind: {kind!r}; allowed {', '.join(KINDS)}")
    if not body.strip():
        problems.append("body: empty; a note says something")
    if len(body) > MAX_BODY_CHARS:
        problems.append(f"body: {len(body)} characters; allowed up to {MAX_BODY_CHARS}")
    if problems:
        raise InvalidInput(problems, next="correct the note and save again")
    return notes.save(
        store,
        project=project,
        body=body,
        title=title,
        kind=kind,
        run_id=run_id,
        note_id=note_id,
        base_revision=base_revision,
        links=links,
        key=key,
        actor=actor,
        now=time.time() if now is None else now,
    )


def read_note(store: Store, note_id: str) -> Note:
    """Its newest revision. Raises NotFound."""
    return notes.get(store, note_id)


def read_notes(
    store: Store,
    *,
    project: str,
    run_id: str | None = None,
    kind: str | None = None,
    text: str | None = None,
    limit: int | None = 200,
) -> list[Note]:
    """Newest first; those with every word of `text` in title or body.

    `kind="failed"` lists what was tried and rejected: ask it before proposing the same again.
    """
    return notes.list_notes(store, project=project, run_id=run_id, kind=kind, text=text, limit=limit)


def count_notes(store: Store, *, project: str) -> int:
    return notes.count(store, project)


def revisions(store: Store, note_id: str) -> list[NoteRevision]:
    """All that a note ever said, oldest first. Raises NotFound."""
    return notes.revisions(store, notes.get(store, note_id).id)


def notes_of(store: Store, run_id: str) -> list[Note]:
    """Those about one run, newest first. Raises NotFound."""
    run = runs.get_run(store, run_id)
    return notes.list_notes(store, project=run.project, run_id=run.id)
