"""The same key and question are answered once and again the same; another question is a Conflict that names both."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
from runs_in_states import ALL_AT_ONCE, AMOUNT, SPEC, made

from patron_core import verbs
from patron_core.errors import Conflict, InvalidInput, Refused
from patron_core.lifecycle import holds
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs

InThreads = Callable[..., list[Any]]


def states(results: list[Any]) -> set[Any]:
    return {each.state if isinstance(each, Run) else each for each in results}


@pytest.mark.parametrize("key", [None, "one key for all"])
def test_of_fifty_launches_each_gets_the_launched_run(store: Store, in_threads: InThreads, key: str | None) -> None:
    run = made(store, RunState.FUNDED)
    results = in_threads(lambda number: verbs.launch(store, run.id, actor=f"a{number}", key=key, now=2.0), ALL_AT_ONCE)
    assert states(results) == {RunState.LAUNCHING}
    assert len(attempts.for_run(store, run.id)) == 1


def _launch_in_a_process(url: str, run_id: str, barrier: Any, seen: Any) -> None:
    store = Store.open(url)
    barrier.wait()
    seen.put({verbs.launch(store, run_id, actor="ada", now=2.0).state.value for _ in range(5)})
    store.close()


def test_processes_launch_once_and_each_gets_the_launched_run(store: Store) -> None:
    run = made(store, RunState.FUNDED)
    url = store.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    seen, barrier = context.Queue(), context.Barrier(2)
    workers = [context.Process(target=_launch_in_a_process, args=(url, run.id, barrier, seen)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [seen.get(timeout=60) for _ in workers] == [{"launching"}] * 2
    for worker in workers:
        worker.join(timeout=60)
    assert len(attempts.for_run(store, run.id)) == 1


def test_of_fifty_dryruns_each_gets_the_one_under_way(store: Store, in_threads: InThreads) -> None:
    run = made(store, RunState.DRAFT)
    results = in_threads(lambda _: verbs.dryrun(store, run.id, actor="ada", now=2.0), ALL_AT_ONCE)
    assert states(results) == {RunState.DRYRUN}
    assert len(attempts.for_run(store, run.id)) == 1
    held = ledger.run_money(store, run.id).held_usd_micros
    assert held == holds.for_dryrun(run.estimate, attempts.for_run(store, run.id)[0].usd_micros_per_hour, 8, stop_s=15)


def test_fifty_top_ups_with_one_key_hold_once(store: Store, in_threads: InThreads) -> None:
    run = made(store, RunState.RUNNING)

    def top_up(_: int) -> Run:
        return verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key="k", now=2.0)

    assert states(in_threads(top_up, ALL_AT_ONCE)) == {RunState.RUNNING}
    assert ledger.run_money(store, run.id).held_usd_micros == 2 * AMOUNT


def test_a_used_key_launches_nothing_later(store: Store) -> None:
    """Not refused, and not launched anew once the run is paused: it is answered with the run as it is."""
    run = made(store, RunState.FUNDED)
    verbs.launch(store, run.id, actor="ada", key="k", now=2.0)
    with store.begin() as conn:
        attempts.ended(conn, f"{run.id}-train-1", reason=EndReason.PAUSED, exit_code=75, evidence={}, now=3.0)
        paused = runs.transition(
            conn, run.id, old=RunState.LAUNCHING, new=RunState.PAUSED, reason=EndReason.PAUSED, actor="s", now=3.0
        )
    assert verbs.launch(store, run.id, actor="ada", key="k", now=4.0) == paused
    with pytest.raises(Refused, match="paused, not funded"):
        verbs.launch(store, run.id, actor="ada", key="another", now=4.0)


def test_a_used_key_dryruns_once(store: Store) -> None:
    run = made(store, RunState.DRAFT)
    verbs.dryrun(store, run.id, actor="ada", key="k", now=2.0)
    with store.begin() as conn:
        attempts.ended(conn, f"{run.id}-dryrun-1", reason=EndReason.COMPLETED, exit_code=0, evidence={}, now=3.0)
        waiting = runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.AWAITING_FUNDING, actor="s", now=3.0)
    assert verbs.dryrun(store, run.id, actor="ada", key="k", now=4.0) == waiting
    with pytest.raises(Conflict, match=r"burst_steps 8, now with burst_steps 4"):
        verbs.dryrun(store, run.id, actor="ada", key="k", burst_steps=4, now=4.0)
    assert verbs.dryrun(store, run.id, actor="ada", key="again", now=4.0).state is RunState.DRYRUN


@pytest.mark.parametrize("other", [2 * AMOUNT, None])
def test_a_used_key_with_another_amount_is_a_conflict(store: Store, other: int | None) -> None:
    run = made(store, RunState.RUNNING)
    first = verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key="k", now=2.0)
    assert verbs.fund(store, run.id, usd_micros=AMOUNT, actor="bob", key="k", now=3.0) == first
    with pytest.raises(Conflict, match=f"usd_micros {AMOUNT}, now with usd_micros {other}"):
        verbs.fund(store, run.id, usd_micros=other, actor="ada", key="k", now=4.0)
    with pytest.raises(Conflict, match=r"deposit|asked_usd_micros"):
        verbs.deposit(store, usd_micros=AMOUNT + 1, key="rich", actor="ada", now=4.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_usd_micros": 2_000_000}, "max_usd_micros 1000000, now 2000000"),
        ({"max_usd_micros": None}, "max_usd_micros 1000000, now None"),
        ({"name": "another"}, "name first, now another"),
        ({"spec": SPEC | {"seed": 7}}, "spec_hash"),
        ({"budget_s": 60.0}, "budget_s None, now 60.0"),
    ],
)
def test_a_plan_with_a_used_key(store: Store, changed: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"spec": SPEC, "name": "first", "max_usd_micros": 1_000_000, "actor": "ada", "key": "k"}
    run = verbs.plan(store, **asked, now=1.0)
    assert verbs.plan(store, **asked, now=2.0) == run
    with pytest.raises(Conflict, match=said):
        verbs.plan(store, **asked | changed, now=2.0)


def test_a_plan_is_answered_after_its_run_was_amended(store: Store) -> None:
    run = verbs.plan(store, spec=SPEC, actor="ada", key="k", now=1.0)
    with store.begin() as conn:
        for new in (RunState.DRYRUN, RunState.AWAITING_FUNDING):
            run = runs.transition(conn, run.id, old=run.state, new=new, actor="ada", now=1.0)
        amended = runs.amend(conn, run.id, spec=SPEC | {"num_steps": 99}, spec_hash="e" * 64, dryrun={}, now=1.0)
    assert verbs.plan(store, spec=SPEC, actor="ada", key="k", now=2.0) == amended


@pytest.mark.parametrize("bad", ["", " ", "a\x00b", "a\nb", "\u202egnp", "x" * 101, 5, None])
@pytest.mark.parametrize("what", ["project", "name", "actor"])
def test_names_that_are_none(sqlite_store: Store, what: str, bad: Any) -> None:
    if (what, bad) in (("name", None), ("name", "")):
        return  # then the plan has a name made for it
    with pytest.raises(InvalidInput, match=what):
        verbs.plan(sqlite_store, **{"spec": SPEC, "actor": "ada", what: bad}, now=1.0)
    for ask in (
        lambda: verbs.deposit(sqlite_store, project=bad, usd_micros=AMOUNT, key="k", actor="ada"),
        lambda: verbs.write_note(sqlite_store, project=bad, body="b", actor="ada"),
        lambda: verbs.search(sqlite_store, verbs.Question(), project=bad, actor="ada", key="k"),
    ):
        with pytest.raises(InvalidInput):
            ask()


@pytest.mark.parametrize("bad", ["", " ", "a\x00b", "x" * 301, 5])
def test_keys_that_are_none(sqlite_store: Store, bad: Any) -> None:
    for ask in (
        lambda: verbs.plan(sqlite_store, spec=SPEC, actor="ada", key=bad),
        lambda: verbs.deposit(sqlite_store, usd_micros=AMOUNT, key=bad, actor="ada"),
    ):
        with pytest.raises(InvalidInput, match="key"):
            ask()


def test_a_launch_whose_hold_pays_for_no_start_says_what_is_needed(store: Store) -> None:
    run = made(store, RunState.FUNDED, held=100)
    with pytest.raises(Refused, match=r"\$0.0001 are held .* need \$0\.\d+ at \$0.10 an hour") as caught:
        verbs.launch(store, run.id, actor="ada", now=2.0)
    assert attempts.for_run(store, run.id) == []
    lacking = caught.value.next.split("--fund ")[1].split()[0]
    verbs.fund(store, run.id, usd_micros=round(1e6 * float(lacking)), actor="ada", key="more", now=3.0)
    assert verbs.launch(store, run.id, actor="ada", now=3.0).state is RunState.LAUNCHING


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_stop_that_meets_a_launch_is_not_lost(store: Store, in_threads: InThreads, verb: str) -> None:
    """Whichever comes first, afterwards the run is stopped or knows that it has to stop."""
    for _ in range(5):
        run = made(store, RunState.FUNDED)
        stop = verbs.cancel if verb == "cancel" else verbs.pause

        def act(which: int, run: Run = run, stop: Any = stop) -> Run:
            return (stop if which else verbs.launch)(store, run.id, actor="ada", now=2.0)

        launched, stopped = in_threads(act, 2)
        now_is = runs.get_run(store, run.id)
        if verb == "cancel":
            assert now_is.state is RunState.CANCELLED or now_is.stop_requested == "cancel", (launched, stopped)
        else:
            assert isinstance(stopped, Refused) or now_is.stop_requested == "pause"


def test_a_pause_does_not_undo_a_cancel(store: Store) -> None:
    run = made(store, RunState.RUNNING)
    verbs.cancel(store, run.id, actor="ada", now=2.0)
    with pytest.raises(Refused, match="being cancelled"):
        verbs.pause(store, run.id, actor="ada", now=3.0)
    assert runs.get_run(store, run.id).stop_requested == "cancel"
