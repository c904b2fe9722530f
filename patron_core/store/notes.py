"""Notes of a project: saved with a revision each time, so that nothing anybody wrote is lost."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, InvalidInput, NotFound
from patron_core.store.engine import Store, insert_new, reading, writing
from patron_core.store.names import check_key, check_names
from patron_core.store.records import Note, NoteRevision
from patron_core.store.runs import lock, new_id
from patron_core.store.schema import note_revisions, notes

MOST_LINKED = 200  # ids that are looked for in links at once
KINDS = ("note", "hypothesis", "result", "decision", "failed")


def save(
    store: Store | Connection,
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
    now: float,
) -> Note:
    """A new note, or with `note_id` a new revision of an old one. The same key in a project makes one new note; with
    other words it is a Conflict.

    `base_revision` is the revision that the writer had before their eyes: when it is no longer the newest, Conflict.
    Without it the save always wins; the older revisions stay readable. `links` and `run_id` are kept when not given.
    """
    check_names(project=project, actor=actor)
    if kind not in KINDS:
        raise InvalidInput([f"kind of note {kind!r}; allowed: {', '.join(KINDS)}"], next="kind='note'")
    written: dict[str, Any] = {"kind": kind, "title": title, "body": body, "actor": actor}
    with writing(store) as conn:
        if run_id is not None:
            lock(conn, run_id)
        if note_id is None:
            made = None if key is None else _id_of(project, key)
            return _create(conn, {**written, "links": links or {}}, made, project=project, run_id=run_id, now=now)
        old = _locked(conn, note_id, project)
        if base_revision is not None and base_revision != old.revision:
            raise Conflict(
                f"note {note_id} is at revision {old.revision}, written by {old.actor}; yours began from "
                f"revision {base_revision}",
                next=f"read revision {old.revision}, merge, and save with base_revision={old.revision}",
            )
        written = {**written, "links": old.links if links is None else links}
        changes = {**written, "run_id": run_id or old.run_id}
        if all(getattr(old, name) == value for name, value in changes.items() if name != "actor"):
            return old
        changes |= {"revision": old.revision + 1, "updated_at": now}
        conn.execute(sa.update(notes).where(notes.c.id == note_id).values(**changes))
        _keep(conn, note_id, old.revision + 1, written, now)
        return get(conn, note_id)


def get(store: Store | Connection, note_id: str) -> Note:
    with reading(store) as conn:
        row = conn.execute(sa.select(notes).where(notes.c.id == note_id)).first()
    if row is None:
        raise NotFound(f"there is no note {note_id!r}", next="patron journal")
    return _note(row)


def list_notes(
    store: Store | Connection,
    *,
    project: str | None = None,
    run_id: str | None = None,
    kind: str | None = None,
    text: str | None = None,
    about: Iterable[str] = (),
    limit: int | None = 200,
) -> list[Note]:
    """Last changed first. Every word of `text` is looked for in title and body; `about`: ids of runs or searches, that
    a note is of or links to."""
    query = sa.select(notes).order_by(notes.c.updated_at.desc(), notes.c.id.desc()).limit(limit)
    for column, value in ((notes.c.project, project), (notes.c.run_id, run_id), (notes.c.kind, kind)):
        if value is not None:
            query = query.where(column == value)
    for word in (text or "").split():
        sought = (notes.c.title, notes.c.body)
        query = query.where(sa.or_(*(column.icontains(word, autoescape=True) for column in sought)))
    if ids := list(about):
        linked = sa.cast(notes.c.links, sa.String)
        links_to = [linked.contains(f'"{each}"', autoescape=True) for each in ids[:MOST_LINKED]]
        query = query.where(sa.or_(notes.c.run_id.in_(ids), *links_to))
    with reading(store) as conn:
        return [_note(row) for row in conn.execute(query)]


def count(store: Store | Connection, project: str) -> int:
    with reading(store) as conn:
        return int(conn.execute(sa.select(sa.func.count()).where(notes.c.project == project)).scalar_one())


def runs_with_notes(store: Store | Connection, run_ids: Iterable[str]) -> set[str]:
    """Those of these runs that somebody wrote a note about."""
    query = sa.select(notes.c.run_id).distinct().where(notes.c.run_id.in_(list(run_ids)))
    with reading(store) as conn:
        return {row.run_id for row in conn.execute(query)}


def revisions(store: Store | Connection, note_id: str) -> list[NoteRevision]:
    """Oldest first."""
    kept = note_revisions.c.note_id == note_id
    with reading(store) as conn:
        rows = conn.execute(sa.select(note_revisions).where(kept).order_by(note_revisions.c.revision))
        return [NoteRevision(**row._mapping) for row in rows]


def _create(
    conn: Connection, written: dict[str, Any], made: str | None, *, project: str, run_id: str | None, now: float
) -> Note:
    note_id = made or new_id("n")
    place = {"id": note_id, "project": project, "run_id": run_id, "revision": 1, "created_at": now, "updated_at": now}
    if not insert_new(conn, notes, {**written, **place}, unique=["id"]):
        first = revisions(conn, note_id)[0]
        if any(getattr(first, name) != value for name, value in written.items()):
            raise Conflict(f"note {note_id} was made under this key with other words", next="use a new key")
        return get(conn, note_id)
    _keep(conn, note_id, 1, written, now)
    return get(conn, note_id)


def _id_of(project: str, key: str) -> str:
    """The note's id that this key makes: ten characters of base32, as others have."""
    check_key(key)
    digest = hashlib.sha256(f"{project}\n{key}".encode()).digest()
    return "n" + base64.b32encode(digest).decode().lower()[:10]


def _locked(conn: Connection, note_id: str, project: str) -> Note:
    row = conn.execute(sa.select(notes).where(notes.c.id == note_id).with_for_update(key_share=True)).first()
    if row is None or row.project != project:
        raise NotFound(f"there is no note {note_id!r} in project {project!r}", next="patron journal")
    return _note(row)


def _keep(conn: Connection, note_id: str, revision: int, written: dict[str, Any], now: float) -> None:
    conn.execute(sa.insert(note_revisions).values(note_id=note_id, revision=revision, time=now, **written))


def _note(row: Row[Any]) -> Note:
    return Note(**row._mapping)
