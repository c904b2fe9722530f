"""The journal as a story: what belongs together, what it rests on, found by its words, and all of it as one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs_in_states import made

from patron_core import verbs
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.store.records import Note


def write(store: Store, body: str, **more: Any) -> Note:
    return verbs.write_note(store, project="lab", body=body, actor="ada", **more)


def test_hypothesis_result_and_verdict_of_a_run_are_one_thread_with_its_evidence(sqlite_store: Store) -> None:
    store = sqlite_store
    run = made(store, RunState.RUNNING)
    Path(run.run_dir).mkdir(parents=True)
    (Path(run.run_dir) / "environment.json").write_text(json.dumps({"git_commit": "c0ffee" * 6}))
    with store.begin() as conn:
        runs.set_fields(conn, run.id, now=2.0, result={"val_bpb": 2.25})
    verdict = write(store, "Keep depth 1.", kind="decision", run_id=run.id)
    write(store, "It reached 2.25.", kind="result", run_id=run.id, title="Came out")
    believed = write(store, "Depth 1 is enough.", kind="hypothesis", run_id=run.id, title="Enough?")
    alone = write(store, "Buy coffee.")
    newest, thread = verbs.threads(store, verbs.read_notes(store, project="lab"))
    assert [note.id for note in newest.notes] == [alone.id]
    assert (thread.notes[0].id, thread.notes[-1].id) == (believed.id, verdict.id)
    assert [note.kind for note in thread.notes] == ["hypothesis", "result", "decision"]
    assert (thread.title, thread.is_open) == ("Enough?", False)
    (evidence,) = thread.evidence
    assert (evidence.commit[:6], evidence.val_bpb) == ("c0ffee", 2.25)
    for words in (run.id, "commit c0ffeec0ff", "predicted val_bpb", "came out at 2.2500", "cost $"):
        assert words in evidence.sentence
    page = verbs.journal_markdown("lab", [thread])
    order = [
        page.index(words)
        for words in ("## Enough?", evidence.sentence, "Depth 1 is", "### Result: Came", "### Verdict")
    ]
    assert order == sorted(order)


def test_runs_of_a_search_and_answers_belong_together_also_in_a_circle(sqlite_store: Store) -> None:
    store = sqlite_store
    run = made(store, RunState.DRAFT)
    with store.begin() as conn:
        conn.exec_driver_sql("UPDATE runs SET key = ? WHERE id = ?", ("sweep:wabc:lr_scale=1", run.id))
    asked = write(store, "Which rate?", kind="hypothesis", links={"search": "wabc"})
    write(store, "This one failed.", kind="failed", run_id=run.id)
    write(store, "Indeed.", kind="decision", links={"answers": asked.id})
    one = write(store, "egg")
    two = write(store, "hen", links={"answers": one.id})
    verbs.write_note(store, project="lab", body="egg", note_id=one.id, links={"answers": two.id}, actor="ada")
    found = verbs.threads(store, verbs.read_notes(store, project="lab"))
    assert sorted(len(thread.notes) for thread in found)[-1] == 3
    assert sum(len(thread.notes) for thread in found) == 5
    assert not any(thread.is_open for thread in found)


def test_a_note_is_found_by_all_its_words_and_by_having_failed(store: Store) -> None:
    write(store, "A long warmup does not help", title="Schedule", kind="failed")
    write(store, "warmup is 40 steps")
    found = verbs.read_notes(store, project="lab", text="WARMUP schedule")
    assert [note.kind for note in found] == ["failed"]
    assert verbs.read_notes(store, project="lab", text="warmup cooldown") == []
    assert len(verbs.read_notes(store, project="lab", kind="failed")) == 1
    assert verbs.count_notes(store, project="lab") == 2


def test_a_revision_keeps_what_the_note_is_linked_to(store: Store) -> None:
    first = write(store, "a", links={"search": "sabc"})
    again = write(store, "b", note_id=first.id, base_revision=1)
    assert again.links == {"search": "sabc"}
    assert [one.body for one in verbs.revisions(store, first.id)] == ["a", "b"]
