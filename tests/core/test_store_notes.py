"""Notes, leases, calibrations, mirrors and searches."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from patron_core.errors import Conflict, InvalidInput, NotFound
from patron_core.store import Store, calibrations, leases, mirrors, notes, searches


def write(store: Store, body: str, **more):
    return notes.save(store, **{"project": "p", "body": body, "actor": "ada", "now": 1.0, **more})


def test_a_note_and_its_revisions(store: Store, make_run) -> None:
    run = make_run(store)
    first = write(store, "loss falls", title="t", kind="hypothesis", run_id=run.id, links={"url": "x"})
    assert (first.revision, first.kind, first.run_id, first.links) == (1, "hypothesis", run.id, {"url": "x"})
    second = write(
        store, "loss fell", title="t", kind="result", note_id=first.id, base_revision=1, actor="bob", now=2.0
    )
    assert (second.revision, second.body, second.actor, second.links) == (2, "loss fell", "bob", {"url": "x"})
    assert (second.created_at, second.updated_at, second.run_id) == (1.0, 2.0, run.id)
    kept = notes.revisions(store, first.id)
    assert [(each.revision, each.body, each.actor) for each in kept] == [
        (1, "loss falls", "ada"),
        (2, "loss fell", "bob"),
    ]
    assert notes.get(store, first.id) == second


def test_a_stale_save_is_told_and_nothing_is_lost(store: Store) -> None:
    first = write(store, "one")
    write(store, "two", note_id=first.id, base_revision=1, actor="bob")
    with pytest.raises(Conflict, match="at revision 2, written by bob") as caught:
        write(store, "mine", note_id=first.id, base_revision=1)
    assert "base_revision=2" in caught.value.next
    merged = write(store, "two and mine", note_id=first.id, base_revision=2)
    assert merged.revision == 3
    assert write(store, "wins", note_id=first.id).revision == 4
    assert [each.body for each in notes.revisions(store, first.id)] == ["one", "two", "two and mine", "wins"]


def test_saving_the_same_again_is_no_revision(store: Store) -> None:
    first = write(store, "one")
    assert write(store, "one", note_id=first.id, base_revision=1, now=9.0) == first


def test_finding_notes(store: Store, make_run) -> None:
    run = make_run(store)
    write(store, "Alpha 50%", now=1.0)
    write(store, "beta", title="ALPHA too", kind="decision", now=2.0)
    write(store, "gamma", run_id=run.id, now=3.0)
    write(store, "elsewhere", project="q")
    assert [note.body for note in notes.list_notes(store, project="p")] == ["gamma", "beta", "Alpha 50%"]
    assert [note.body for note in notes.list_notes(store, project="p", text="alpha")] == ["beta", "Alpha 50%"]
    assert [note.body for note in notes.list_notes(store, project="p", text="%")] == ["Alpha 50%"]
    assert [note.body for note in notes.list_notes(store, project="p", kind="decision")] == ["beta"]
    assert [note.body for note in notes.list_notes(store, project="p", run_id=run.id)] == ["gamma"]


def test_notes_that_cannot_be(store: Store) -> None:
    with pytest.raises(InvalidInput, match="'poem'; allowed: note"):
        write(store, "x", kind="poem")
    with pytest.raises(NotFound):
        write(store, "x", note_id="n-none")
    with pytest.raises(NotFound):
        write(store, "x", note_id=write(store, "y").id, project="another")
    with pytest.raises(NotFound):
        write(store, "x", run_id="r-none")
    with pytest.raises(NotFound):
        notes.get(store, "n-none")


def take(store: Store, holder: str, ttl_s: float = 10.0) -> bool:
    return leases.acquire(store, "supervisor", holder=holder, ttl_s=ttl_s)


def shift(store: Store, seconds: float) -> None:
    """The lease as it stands that much later."""
    with store.begin() as conn:
        conn.execute(sa.text("UPDATE leases SET expires_at = expires_at - :seconds"), {"seconds": seconds})


def test_a_lease(store: Store) -> None:
    assert leases.current(store, "supervisor") is None
    assert take(store, "a")
    assert take(store, "a")  # one's own
    assert not take(store, "b")
    held = leases.current(store, "supervisor")
    assert held is not None
    assert (held.holder, held.ttl_s) == ("a", 10.0)
    assert abs(held.expires_at - time.time() - 10.0) < 5.0
    shift(store, 5.0)
    assert not take(store, "b")
    assert take(store, "a")  # and has it for another ten seconds
    shift(store, 9.0)
    assert not take(store, "b")
    shift(store, 1.0)
    assert leases.current(store, "supervisor") is None
    assert take(store, "b")  # expired
    assert not take(store, "a")
    assert not leases.release(store, "supervisor", holder="a")
    assert leases.release(store, "supervisor", holder="b")
    assert take(store, "a")


def test_keeping_a_lease_that_is_fresh_writes_nothing(store: Store) -> None:
    """A supervisor keeps its own once a second: each write would be a sync of the disk, and wait for other writers."""

    def expires_at() -> float:
        held = leases.current(store, "supervisor")
        assert held is not None
        return held.expires_at

    assert take(store, "a")
    first = expires_at()
    assert take(store, "a")
    assert expires_at() == first
    shift(store, 5.5)
    assert take(store, "a")
    assert expires_at() > first - 5.5 + 1.0


def test_a_lease_goes_by_the_clock_of_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert take(store, "a")
    for wrong in (0.0, 4e9):  # the clock of whoever asks
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert leases.current(store, "supervisor") is not None
        assert not take(store, "b")


def test_a_lease_from_the_future_does_not_block_for_ever(store: Store) -> None:
    assert take(store, "a")
    shift(store, -1_000_000.0)
    assert leases.current(store, "supervisor") is None
    assert take(store, "b")


def test_racing_for_a_lease(store: Store, in_threads) -> None:
    assert sum(in_threads(lambda number: take(store, f"holder {number}"), 8)) == 1
    shift(store, 11.0)
    assert sum(in_threads(lambda number: take(store, f"heir {number}"), 8)) == 1


def test_calibrations(store: Store, make_run) -> None:
    run = make_run(store)
    with store.begin() as conn:
        for number, (machine, kind) in enumerate([("a", "dryrun"), ("a", "run"), ("b", "peak"), ("a", "dryrun")]):
            calibrations.record(
                conn, machine=machine, kind=kind, values={"n": number}, run_id=run.id, now=float(number)
            )
    assert [each.values["n"] for each in calibrations.latest(store, "a")] == [3, 1, 0]
    assert [each.values["n"] for each in calibrations.latest(store, "a", "dryrun", limit=1)] == [3]
    assert [each.machine for each in calibrations.all_for(store)] == ["a", "b", "a", "a"]
    assert [each.kind for each in calibrations.all_for(store, "b")] == ["peak"]


def test_mirrors(store: Store, make_run) -> None:
    run = make_run(store)
    assert mirrors.get(store, run.id) is None
    for step in (1, 2):
        with store.begin() as conn:
            mirrors.put(conn, run.id, mlflow_run_id="m", position={"step": step}, now=float(step))
    found = mirrors.get(store, run.id)
    assert found is not None
    assert (found.mlflow_run_id, found.position, found.updated_at) == ("m", {"step": 2}, 2.0)


def save_search(store: Store, decisions, *, search_id="s1", key="k", state="running", result=None, now=1.0):
    with store.begin() as conn:
        return searches.save(
            conn,
            search_id=search_id,
            project="p",
            key=key,
            question={"budget": 10},
            state=state,
            decisions=decisions,
            result=result,
            now=now,
        )


def test_a_search_keeps_every_decision(store: Store) -> None:
    one, two, three = {"try": 4}, {"try": 6}, {"stop": "budget"}
    save_search(store, [one])
    save_search(store, [one, two])
    with pytest.raises(Conflict, match="2 decisions"):
        save_search(store, [two])
    with pytest.raises(Conflict, match="2 decisions"):
        save_search(store, [one, three])
    done = save_search(store, [one, two, three], state="done", result={"best": 6}, now=2.0)
    assert (done.decisions, done.state, done.result) == ([one, two, three], "done", {"best": 6})
    assert (done.created_at, done.updated_at) == (1.0, 2.0)
    assert searches.get(store, "s1") == done == searches.find(store, project="p", key="k")
    assert searches.find(store, project="p", key="none") is None
    with pytest.raises(Conflict, match="s1"):
        save_search(store, [], search_id="s2")
    other = save_search(store, [], search_id="s2", key="k2", now=3.0)
    assert searches.list_searches(store, project="p") == [other, done]
    assert searches.list_searches(store, project="q") == []
    with pytest.raises(NotFound):
        searches.get(store, "s9")
