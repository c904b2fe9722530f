"""A note while it is written: what is in the field is what is saved, and nothing of it is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from patron_core import verbs
from patron_core.store import Store
from patron_core.ui import notes
from patron_core.ui.notes import open_draft
from patron_core.ui.script import Arguments, Session


@pytest.fixture
def store(sqlite_store: Store) -> Store:
    return sqlite_store


@pytest.fixture
def session() -> Session[Arguments]:
    return Session(Arguments(), is_script=False, out=sys.stdout)


def test_a_draft_comes_back_and_is_gone_once_it_is_saved(store: Store, session: Session[Arguments]) -> None:
    open_draft(store, "watch:r1", actor="ada").keeper("body")("half a thou")
    again = open_draft(store, "watch:r1", actor="ada")
    assert (again.body, again.is_found) == ("half a thou", True)
    assert again.file.stat().st_mode & 0o077 == 0
    for about, actor in (("watch:r2", "ada"), ("watch:r1", "grace")):
        assert open_draft(store, about, actor=actor).body == ""
    again.keeper("body")("half a thought")
    saved = again.save(session, store, project="lab").value
    twice = again.save(session, store, project="lab").value
    assert saved == twice
    assert [note.body for note in verbs.read_notes(store, project="lab")] == ["half a thought"]
    assert not open_draft(store, "watch:r1", actor="ada").is_found


def test_what_somebody_else_saved_meanwhile_is_never_overwritten(store: Store, session: Session[Arguments]) -> None:
    note = verbs.write_note(store, project="lab", body="first", actor="ada")
    draft = open_draft(store, f"note:{note.id}", actor="ada", note=note)
    assert (draft.body, draft.is_found) == ("first", False)
    draft.keeper("body")("first, and mine")
    theirs = verbs.write_note(store, project="lab", body="theirs", note_id=note.id, actor="grace")
    later = open_draft(store, f"note:{note.id}", actor="ada", note=theirs)  # after a reload
    refused = later.save(session, store, project="lab")
    assert refused.error is not None
    assert refused.error["error"]["code"] == "conflict"
    assert verbs.read_note(store, note.id) == theirs
    assert open_draft(store, f"note:{note.id}", actor="ada", note=theirs).body == "first, and mine"
    later.merged_with(theirs)
    assert later.save(session, store, project="lab").value == verbs.read_note(store, note.id)
    assert later.save(session, store, project="lab").value == verbs.read_note(store, note.id)
    assert (verbs.read_note(store, note.id).body, verbs.read_note(store, note.id).revision) == (
        "first, and mine",
        3,
    )


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"body": 1}', "\\xff"])
def test_a_file_that_is_no_draft_is_passed_over(store: Store, content: str) -> None:
    first = open_draft(store, "watch:r1", actor="ada")
    first.keeper("body")("x")
    first.file.write_text(content)
    assert open_draft(store, "watch:r1", actor="ada").body == ""


def test_a_refused_note_keeps_its_draft(store: Store, session: Session[Arguments]) -> None:
    draft = open_draft(store, "watch:r1", actor="ada")
    draft.keeper("title")("only a title")
    assert draft.save(session, store, project="lab").failed
    assert open_draft(store, "watch:r1", actor="ada").title == "only a title"


def test_saved_notes_are_rendered(store: Store) -> None:
    verbs.write_note(store, project="lab", body="**two** wins", title="<b>", kind="result", actor="ada")
    shown = notes.note_cards(verbs.read_notes(store, project="lab"))
    assert "<strong>two</strong> wins" in shown
    assert "&lt;b&gt;" in shown


def test_drafts_lie_in_the_home(store: Store, home: Path) -> None:
    assert notes.open_draft(store, "x", actor="ada").file.parent == home / "drafts"
