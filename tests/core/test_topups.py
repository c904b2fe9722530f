"""Topping up: a run that goes on may go on for longer, and money that comes too late is given back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs_in_states import AMOUNT, made
from scripted import HOURLY, SECOND, World, checkpoint

from patron_core import verbs
from patron_core.errors import Refused
from patron_core.executors.deadline import Deadline
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.lifecycle.apply import settle
from patron_core.machines.target import target_of
from patron_core.rundir.rundir import RunDir
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.verbs.fund import hold_for, slower_than_said
from patron_core.verbs.plan import estimate_on
from trainer.contract import control
from trainer.contract.grace import kill_after_s
from trainer.contract.spec import TrainSpec


@pytest.fixture
def world(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    yield World(store=sqlite_store, machine=FakeExecutor(name="local"))
    assert ledger.verify(sqlite_store) == []


def test_a_top_up_of_a_running_run_moves_its_deadline(world: World) -> None:
    """The machine keeps its own deadline: without word of the money it would stop the run when the first is used up."""
    world.machine.script(Script(run_s=250))
    run = world.launched(held_s=100)
    world.run_for(50)
    verbs.fund(world.store, run.id, usd_micros=200 * SECOND, actor="ada", key="more", now=world.now)
    world.run_for(220)
    assert world.state(run) is RunState.SUCCEEDED
    assert (world.charged(run), world.held(run)) == (250 * SECOND, 0)
    assert len(attempts.for_run(world.store, run.id)) == 1
    moves = [e.detail["deadline_s"] for e in runs.events(world.store, run.id) if e.kind == "deadline_moved"]
    assert moves == [pytest.approx(300 - kill_after_s(run.run_dir))]  # charging moves nothing


def test_the_moved_deadline_ends_it_as_the_first_would_have(world: World) -> None:
    world.machine.script(Script(stop_s=float("inf")))
    run = world.launched(held_s=100)
    world.run_for(20)
    verbs.fund(world.store, run.id, usd_micros=50 * SECOND, actor="ada", key="more", now=world.now)
    world.tick(1)
    world.tick(1000)  # nobody looked: the machine stopped it by itself
    assert (world.state(run), world.reason(run)) == (RunState.PAUSED, EndReason.OUT_OF_FUNDS)
    assert (world.charged(run), world.held(run)) == (150 * SECOND, 0)
    assert world.machine_s(run) == pytest.approx(150)


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FUNDED])
def test_a_top_up_that_meets_the_end_is_never_held_for_ever(
    store: Store, in_threads: Callable[..., list[Any]], state: RunState
) -> None:
    for number in range(6):
        run = made(store, state)

        def act(which: int, run: Any = run, number: int = number) -> Any:
            if which:
                return verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key="late", now=2.0)
            with store.begin() as conn:  # as the supervisor ends a run
                new = RunState.SUCCEEDED if state is RunState.RUNNING else RunState.CANCELLED
                ended = runs.transition(conn, run.id, old=state, new=new, actor="s", now=2.0)
                settle(conn, run, now=2.0)
                return ended

        results = in_threads(act, 2)
        assert all(not isinstance(each, Exception) or isinstance(each, Refused) for each in results), results
        assert ledger.run_money(store, run.id).held_usd_micros == 0, results
    with pytest.raises(Refused, match=r"not awaiting funding"):
        verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key="later", now=3.0)


def test_an_end_that_comes_between_look_and_lock_refuses_the_money(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(store, RunState.RUNNING)
    lock, ends = runs.lock, []

    def lock_late(conn: Any, run_id: str) -> Any:
        if not ends:  # the end is committed just before the lock is had
            ends.append(runs.transition(conn, run_id, old=run.state, new=RunState.FAILED, actor="s", now=2.0))
        return lock(conn, run_id)

    monkeypatch.setattr(runs, "lock", lock_late)
    with pytest.raises(Refused, match="is failed"):
        verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key="late", now=2.0)
    assert ledger.run_money(store, run.id).held_usd_micros == AMOUNT  # what was held before


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b"{",
        b'{"attempt": "another", "deadline_s": 900}',
        b'{"attempt": "a", "deadline_s": true}',
        b'{"attempt": "a", "deadline_s": NaN}',
        b'{"attempt": "a", "deadline_s": 1}',
        b'{"attempt": "a"}',
        None,
    ],
)
def test_what_moves_no_deadline(text: bytes | None) -> None:
    assert control.deadline_of(text, "a", 100.0) == 100.0


def test_only_whoever_has_the_attempts_key_moves_its_deadline() -> None:
    """Whoever can write the run directory can write control.json, and has no more machine than was paid for."""
    proven = control.content("a", 900.0, "key")
    assert control.deadline_of(proven, "a", 100.0, "key") == 900.0
    further = json.dumps(json.loads(proven) | {"deadline_s": 1e6}).encode()
    for forged in (control.content("a", 900.0), control.content("a", 900.0, "another"), further):
        assert control.deadline_of(forged, "a", 100.0, "key") == 100.0
    assert control.deadline_of(control.content("b", 900.0, "key"), "a", 100.0, "key") == 100.0


def test_a_forged_top_up_stops_where_the_money_ends(world: World) -> None:
    world.machine.script(Script(run_s=1000))
    run = world.launched(held_s=100)
    (attempt,) = attempts.for_run(world.store, run.id)
    RunDir(run.run_dir).move_deadline(attempt.id, 1e6)
    world.tick(1)
    world.tick(1000)  # nobody looked: the machine alone keeps the deadline
    assert world.state(run) is RunState.PAUSED
    assert world.machine_s(run) < 101


def test_a_deadline_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    directory = RunDir(f"{bucket}/r1")
    deadline = Deadline(directory.where, "a", 100.0, key=None)
    assert not deadline.is_over(99.0)
    directory.move_deadline("a", 200.0)
    deadline = Deadline(directory.where, "a", 100.0, key=None)
    assert [deadline.is_over(at) for at in (50.0, 101.0, 199.0)] == [False] * 3
    assert deadline.is_over(200.0)
    directory.move_deadline("a", 900.0)
    assert deadline.is_over(201.0)  # it was told to stop, and does
    assert Deadline("s3://no-such-bucket-here/r1", "a", 100.0, key=None).is_over(100.0)


def test_what_is_left_is_held_for_at_the_pace_that_the_run_has_had(world: World) -> None:
    """A machine that others use: its hold ran out at a fifth of its steps, long after it was to be done."""
    world.machine.script(Script(on_start=checkpoint(2)))
    run = world.launched(held_s=600)
    world.run_for(700)
    assert (world.state(run), world.reason(run)) == (RunState.PAUSED, EndReason.OUT_OF_FUNDS)
    row = estimate_on(target_of(run), world.store, TrainSpec.from_dict(run.spec))
    slower = slower_than_said(world.store, run, row)
    assert slower > 2
    stop = kill_after_s(run.run_dir) * SECOND
    assert hold_for(run, row, slower=slower) - stop == pytest.approx(slower * (hold_for(run, row) - stop), rel=1e-3)
    fresh = world.funded(held_s=600)
    assert slower_than_said(world.store, fresh, row) == 1.0
