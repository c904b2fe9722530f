"""Runs and attempts: idempotency, finding, the one door under a race, and one machine at a time."""

from __future__ import annotations

import multiprocessing
import re
import threading
from typing import Any

import pytest

from patron_core.errors import Conflict, InternalError, NotFound
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, runs


def move(store: Store, run_id: str, old: str, new: str, **more: Any) -> None:
    with store.begin() as conn:
        runs.transition(conn, run_id, old=RunState(old), new=RunState(new), actor="ada", now=200.0, **more)


def test_ids() -> None:
    ids = {runs.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"r[a-z2-7]{10}", each) for each in ids)


def test_a_run_comes_back_as_it_was_made(store: Store) -> None:
    spec = {"depth": 2, "nested": {"text": "ü ✓", "list": [1, 2.5, None, True]}}
    run = runs.create_run(
        store,
        project="p",
        name="n",
        workload="trainer",
        spec=spec,
        spec_hash="h",
        executor="local",
        run_dir=lambda run_id: f"/runs/{run_id}",
        actor="ada",
        key="k",
        now=1.25,
        max_usd_micros=10**12,
        estimate={"usd": 1},
    )
    assert run == runs.get_run(store, run.id)
    assert (run.state, run.spec, run.run_dir) == (RunState.DRAFT, spec, f"/runs/{run.id}")
    assert (run.max_usd_micros, run.created_at, run.dryrun, run.reason) == (10**12, 1.25, None, None)
    assert [event.kind for event in runs.events(store, run.id)] == ["created"]


def test_a_key_makes_one_run(store: Store, make_run) -> None:
    first, again = make_run(store, key="k"), make_run(store, key="k", now=999.0)
    assert first == again
    assert make_run(store, key="k", project="other").id != first.id
    assert make_run(store, key=None).id != make_run(store, key=None).id
    with pytest.raises(Conflict, match=first.id):
        runs.create_run(
            store,
            project="p",
            name="n",
            workload="trainer",
            spec={"depth": 3},
            spec_hash="another",
            executor="local",
            run_dir="/r",
            actor="ada",
            key="k",
            now=1.0,
        )


def test_racing_creators_make_one_run(store: Store, make_run, in_threads) -> None:
    made = in_threads(lambda _: make_run(store, key="k").id, 8)
    assert len(set(made)) == 1
    assert len(runs.list_runs(store)) == 1
    assert len(runs.events(store, made[0])) == 1


def test_finding_a_run(store: Store, make_run) -> None:
    one, two, three = (
        make_run(store, name="alpha"),
        make_run(store, name="beta"),
        make_run(store, name="beta", now=101.0),
    )
    assert runs.get_run(store, one.id) == one
    assert runs.get_run(store, one.id[:8]) == one
    assert runs.get_run(store, "alpha") == one
    with pytest.raises(NotFound, match="several") as caught:
        runs.get_run(store, "beta")
    assert two.id in caught.value.message
    assert three.id in caught.value.next  # the newest first
    for nothing in ("gamma", "r", "", "%", "r%", "alph"):
        with pytest.raises(NotFound, match="no run") as caught:
            runs.get_run(store, nothing)
        assert caught.value.next


def test_listing(store: Store, make_run) -> None:
    made = [make_run(store, name=f"run_{number}", project="pq"[number % 2], now=float(number)) for number in range(6)]
    assert [run.id for run in runs.list_runs(store)] == [run.id for run in reversed(made)]
    assert [run.name for run in runs.list_summaries(store, project="q", limit=2, offset=1)] == ["run_3", "run_1"]
    move(store, made[0].id, "draft", "cancelled", reason=EndReason.CANCELLED, detail="Not TODAY")
    found = runs.list_summaries(store, states=[RunState.CANCELLED, RunState.FAILED])
    assert [(run.name, run.reason) for run in found] == [("run_0", EndReason.CANCELLED)]
    assert [run.name for run in runs.list_runs(store, text="today")] == ["run_0"]
    assert [run.name for run in runs.list_runs(store, text="RUN_4")] == ["run_4"]
    assert runs.list_runs(store, text="run%") == []  # a wildcard is only a character
    assert runs.list_runs(store, states=[]) == []
    assert len(runs.list_runs(store, limit=None)) == 6
    assert runs.projects(store) == {"p": 3, "q": 3}


def test_a_transition_writes_everything(store: Store, make_run) -> None:
    run = make_run(store)
    evidence = {"signal": 9, "log": ["a", "b"]}
    move(store, run.id, "draft", "failed", reason=EndReason.BAD_SPEC, detail="why", evidence=evidence)
    after = runs.get_run(store, run.id)
    assert (after.state, after.reason, after.detail) == (RunState.FAILED, EndReason.BAD_SPEC, "why")
    assert after.updated_at == 200.0
    event = runs.events(store, run.id)[-1]
    assert (event.reason, event.detail) == (EndReason.BAD_SPEC, {"detail": "why", "evidence": evidence})


def test_the_loser_is_told_what_the_run_is_now(store: Store, make_run) -> None:
    run = make_run(store)
    move(store, run.id, "draft", "dryrun")
    with pytest.raises(runs.StaleState, match="is dryrun, no longer draft") as caught:
        move(store, run.id, "draft", "cancelled")
    assert caught.value.actual is RunState.DRYRUN
    assert isinstance(caught.value, Conflict)
    with pytest.raises(NotFound):
        move(store, "r-none", "draft", "dryrun")


def test_racing_transitions_in_threads(store: Store, make_run, in_threads) -> None:
    run = make_run(store)
    targets = ["dryrun", "cancelled", "failed"]
    results = in_threads(lambda number: move(store, run.id, "draft", targets[number % 3]), 12)
    assert results.count(None) == 1
    assert sum(isinstance(each, runs.StaleState) for each in results) == 11
    winner = targets[results.index(None) % 3]
    assert runs.get_run(store, run.id).state == winner
    assert [event.new for event in runs.events(store, run.id)] == [None, RunState(winner)]


def _move_in_a_process(url: str, run_ids: list[str], barrier: threading.Barrier, wins: Any) -> None:
    store = Store.open(url)
    barrier.wait()
    for run_id in run_ids:
        try:
            move(store, run_id, "draft", "dryrun")
            wins.put(run_id)
        except runs.StaleState:
            pass
    store.close()


def test_racing_transitions_in_processes(store: Store, make_run) -> None:
    made = [make_run(store).id for _ in range(30)]
    url = store.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    wins, barrier = context.Queue(), context.Barrier(3)
    workers = [context.Process(target=_move_in_a_process, args=(url, made, barrier, wins)) for _ in range(3)]
    for worker in workers:
        worker.start()
    won = sorted(wins.get(timeout=60) for _ in made)
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert won == sorted(made)  # each exactly once
    assert wins.empty()
    assert all(len(runs.events(store, run_id)) == 2 for run_id in made)


def test_fields(store: Store, make_run) -> None:
    run = make_run(store)
    with store.begin() as conn:
        after = runs.set_fields(conn, run.id, now=5.0, dryrun={"a": 1}, failures=2, max_usd_micros=7)
        assert (after.dryrun, after.failures, after.max_usd_micros, after.updated_at) == ({"a": 1}, 2, 7, 5.0)
        assert runs.set_fields(conn, run.id, now=6.0, dryrun=None).dryrun is None
        for wrong in ({"state": "running"}, {}, {"stop_requested": "explode"}):
            with pytest.raises(InternalError, match="set_fields"):
                runs.set_fields(conn, run.id, now=7.0, **wrong)
        with pytest.raises(NotFound):
            runs.set_fields(conn, "r-none", now=7.0, failures=1)


@pytest.mark.parametrize(
    ("wish", "new", "left"),
    [
        ("pause", "paused", None),
        ("cancel", "paused", "cancel"),  # asked for while it was pausing: it must not be forgotten
        ("pause", "recovering", "pause"),
        ("cancel", "cancelled", None),
        ("pause", "succeeded", None),
    ],
)
def test_a_fulfilled_wish_is_forgotten(store: Store, make_run, wish: str, new: str, left: str | None) -> None:
    run = make_run(store)
    for old, then in (("draft", "dryrun"), ("dryrun", "awaiting_funding"), ("awaiting_funding", "funded")):
        move(store, run.id, old, then)
    move(store, run.id, "funded", "launching")
    move(store, run.id, "launching", "running")
    with store.begin() as conn:
        runs.set_fields(conn, run.id, now=1.0, stop_requested=wish)
    move(store, run.id, "running", new)
    assert runs.get_run(store, run.id).stop_requested == left


def test_an_ended_run_takes_no_wish(store: Store, make_run) -> None:
    run = make_run(store)
    move(store, run.id, "draft", "cancelled")
    with pytest.raises(Conflict, match="already cancelled"), store.begin() as conn:
        runs.set_fields(conn, run.id, now=1.0, stop_requested="pause")
    with store.begin() as conn:
        assert runs.set_fields(conn, run.id, now=1.0, stop_requested=None).stop_requested is None


def test_what_a_supervisor_looks_at(store: Store, make_run) -> None:
    idle, burning, wished, gone = (make_run(store, name=name) for name in ("idle", "burning", "wished", "gone"))
    move(store, burning.id, "draft", "dryrun")
    move(store, gone.id, "draft", "failed")
    with store.begin() as conn:
        runs.set_fields(conn, wished.id, now=1.0, stop_requested="cancel")
    assert {run.name for run in runs.active_runs(store)} == {"burning", "wished"}
    assert idle.id


def create(store: Store, run: Any, kind: Any = "train") -> attempts.Attempt:
    with store.begin() as conn:
        price = {"usd_per_hour": 1.29, "source": "catalog"}
        return attempts.create(conn, run, kind=kind, usd_micros_per_hour=1_290_000, price=price, now=300.0)


def end(store: Store, attempt_id: str, reason: EndReason = EndReason.PREEMPTED, now: float = 400.0) -> attempts.Attempt:
    with store.begin() as conn:
        return attempts.ended(conn, attempt_id, reason=reason, exit_code=75, evidence={"a": 1}, now=now)


def test_an_attempt_from_intent_to_end(store: Store, make_run) -> None:
    run = make_run(store)
    attempt = create(store, run)
    assert (attempt.id, attempt.state, attempt.executor) == (f"{run.id}-train-1", "intent", "local")
    assert (attempt.handle, attempt.started_at, attempt.deadline_s) == (None, None, None)
    with store.begin() as conn:
        attempt = attempts.submitted(conn, attempt.id, handle={"pid": 7}, now=310.0, deadline_s=60.0)
        assert (attempt.state, attempt.handle, attempt.started_at) == ("submitted", {"pid": 7}, 310.0)
        again = attempts.submitted(conn, attempt.id, handle={"pid": 7}, now=350.0)
        assert again == attempt  # found again after a crash: the start and the deadline stay
        assert attempts.started(conn, attempt.id, at=320.0).started_at == 320.0
        attempts.meter(conn, attempt.id, charged_s=10.0, charged_usd_micros=100)
        attempts.meter(conn, attempt.id, charged_s=5.0, charged_usd_micros=50)
    assert attempts.live(store) == [attempts.get(store, attempt.id)]
    ended = end(store, attempt.id)
    assert (ended.charged_s, ended.charged_usd_micros) == (10.0, 100)
    assert (ended.state, ended.reason, ended.exit_code, ended.ended_at) == ("ended", EndReason.PREEMPTED, 75, 400.0)
    assert end(store, attempt.id, EndReason.LOST, now=999.0) == ended
    assert attempts.live(store) == []
    with pytest.raises(NotFound):
        attempts.get(store, "nothing")


def test_one_attempt_at_a_time_and_numbers_by_kind(store: Store, make_run) -> None:
    run = make_run(store)
    first = create(store, run, "dryrun")
    with pytest.raises(Conflict, match=first.id):
        create(store, run)
    made = [first]
    for kind in ("train", "train", "dryrun"):
        end(store, made[-1].id)
        made.append(create(store, run, kind))
    assert [each.id.removeprefix(run.id) for each in made] == ["-dryrun-1", "-train-1", "-train-2", "-dryrun-2"]
    assert {each.id for each in attempts.for_run(store, run.id)} == {each.id for each in made}
    assert create(store, make_run(store)).number == 1  # another run has its own


def test_racing_launches_make_one_attempt(store: Store, make_run, in_threads) -> None:
    run = make_run(store)
    results = in_threads(lambda _: create(store, run), 8)
    assert sum(isinstance(each, Conflict) for each in results) == 7
    assert len(attempts.for_run(store, run.id)) == 1


def test_a_handle_that_comes_after_the_end_is_kept(store: Store, make_run) -> None:
    """Cancelled while the executor was launching: the machine exists, so that its handle must not be lost."""
    attempt = create(store, make_run(store))
    end(store, attempt.id, EndReason.CANCELLED)
    with store.begin() as conn:
        late = attempts.submitted(conn, attempt.id, handle={"job": 3}, now=500.0)
    assert (late.state, late.handle, late.reason) == ("ended", {"job": 3}, EndReason.CANCELLED)


def test_the_first_wish_to_stop_starts_the_grace_period(store: Store, make_run) -> None:
    attempt = create(store, make_run(store))
    with store.begin() as conn:
        attempts.stop_asked(conn, attempt.id, cause="pause", now=1.0)
        after = attempts.stop_asked(conn, attempt.id, cause="cancel", now=2.0)
    assert (after.stop_cause, after.stop_asked_at) == ("pause", 1.0)
