"""How runs end when two things meet: a wish and an ending, a cancel and a launch, an end and a disk that refuses."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from scripted import SECOND, World, checkpoint

from patron_core import verbs
from patron_core.executors.base import Handle, Job
from patron_core.executors.fake import NEVER, FakeExecutor, Script
from patron_core.lifecycle.decide import FAILURE_BUDGET, KILL_AGAIN_S, SILENCE_S, TROUBLE_S
from patron_core.lifecycle.observe import CLOCK_NOISE_S, LONG_AGO_S, _since
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.states import ACTIVE, TERMINAL, EndReason, RunState
from patron_core.store import Run, attempts, ledger, runs
from patron_core.ui import show
from trainer.contract.grace import kill_after_s

KILLED = {"exit_code": None, "signal": signal.SIGKILL.value}
ENDINGS = {
    "completed": Script(),
    "notice": Script(exit_code=75),
    "out of memory": Script(exit_code=76),
    "diverged": Script(exit_code=77),
    "bad spec": Script(exit_code=78),
    "user error": Script(exit_code=1),
    "killed": Script(**KILLED),
    "host oom": Script(**KILLED, evidence={"oom_kills": 1}),
    "preempted": Script(**KILLED, evidence={"instance_gone": True}),
    "out of funds": Script(exit_code=75, evidence={"deadline_hit": True}),
    "no resources": Script(exit_code=None, evidence={"no_resources": True}),
    "setup failed": Script(exit_code=None, evidence={"setup_failed": True}),
    "vanished": Script(vanishes=True),
}
WISHES = {"pause": verbs.pause, "cancel": verbs.cancel}


def rests(world: World, run: Run) -> Run:
    """As it is in the end: nothing is asked of it any more, and nothing is left to do about it."""
    world.run_for(240, step=30)
    seen = runs.get_run(world.store, run.id)
    assert seen.state not in ACTIVE
    assert seen.stop_requested is None
    assert world.tick().actions == ()
    if seen.state is not RunState.FUNDED:
        assert world.held(run) == 0
    return seen


@pytest.mark.parametrize("recovers_itself", [False, True], ids=["local", "sky"])
@pytest.mark.parametrize("is_first", ["wish", "ending"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("wish", WISHES)
def test_every_wish_meets_every_ending_and_the_run_rests(
    world: World, wish: str, ending: str, is_first: str, recovers_itself: bool
) -> None:
    world.machine.recovers_itself = recovers_itself
    world.machine.script(Script(stop_s=NEVER))
    world.machine.default_script = Script(run_s=50)
    run = world.launched()
    world.tick(20)
    if is_first == "wish":
        WISHES[wish](world.store, run.id, actor="ada", now=world.now)
        world.tick(1)
    world.machine.end(f"{run.id}-train-1", ENDINGS[ending])
    if is_first == "ending":
        WISHES[wish](world.store, run.id, actor="ada", now=world.now)
    seen = rests(world, run)
    if ending == "completed":
        assert seen.state is RunState.SUCCEEDED
    elif wish == "cancel":
        assert (seen.state, seen.reason) == (RunState.CANCELLED, EndReason.CANCELLED)
    else:
        assert seen.state in {RunState.PAUSED, *TERMINAL} - {RunState.CANCELLED}
        assert seen.state is RunState.PAUSED or seen.reason not in (None, EndReason.PAUSED)


@pytest.mark.parametrize("ending", ["out of funds", "no resources", "completed", "diverged"])
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_that_comes_to_a_run_that_rests_is_fulfilled_or_forgotten(world: World, wish: str, ending: str) -> None:
    """Written by somebody who looked while it ran, and was slow."""
    run = world.launched()
    world.tick(20)
    world.machine.end(f"{run.id}-train-1", ENDINGS[ending])
    world.tick(1)
    rested = runs.get_run(world.store, run.id).state
    assert rested not in ACTIVE
    if rested not in TERMINAL:
        with world.store.begin() as conn:
            runs.set_fields(conn, run.id, now=world.now, stop_requested=wish)
        assert len(world.tick(1).actions) == 1
    seen = rests(world, run)
    assert seen.state is (RunState.CANCELLED if wish == "cancel" and rested not in TERMINAL else rested)


def test_after_a_pause_that_met_the_end_of_its_money_it_goes_on_when_it_is_funded(world: World) -> None:
    world.machine.script(Script(on_end=checkpoint(7)), Script(run_s=100))
    run = world.launched()
    world.tick(20)
    verbs.pause(world.store, run.id, actor="ada", now=world.now)
    world.machine.end(f"{run.id}-train-1", ENDINGS["out of funds"])
    assert rests(world, run).state is RunState.PAUSED
    assert "checkpoint is of step 7" in verbs.view(world.store, run.id).sentence
    with world.store.begin() as conn:
        ledger.hold(conn, run, 200 * SECOND, key="more", actor="ada", now=world.now)
        runs.transition(conn, run.id, old=RunState.PAUSED, new=RunState.FUNDED, actor="ada", now=world.now)
    verbs.launch(world.store, run.id, actor="ada", now=world.now)
    assert rests(world, run).state is RunState.SUCCEEDED


# --- cancel meets launch


def test_a_cancel_before_the_first_look_at_what_was_submitted(world: World) -> None:
    world.machine.script(Script(start_after_s=60))
    run = world.launched()
    world.tick()
    verbs.cancel(world.store, run.id, actor="ada", now=world.now)
    seen = rests(world, run)
    assert (seen.state, world.charged(run)) == (RunState.CANCELLED, 0)


class SlowMachine(FakeExecutor):
    """Whose submit takes until it is let go on, before or after it took effect."""

    def __init__(self, moment: str):
        super().__init__(name="local")
        self.moment = moment
        self.reached, self.go_on = threading.Event(), threading.Event()

    def submit(self, job: Job) -> Handle:
        handle = super().submit(job) if self.moment == "after" else None
        self.reached.set()
        assert self.go_on.wait(30)
        return handle or super().submit(job)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cancel_that_meets_a_submit_under_way_is_not_lost(world: World, moment: str) -> None:
    """Two supervisors: one is stopped amid its submit until its lease is another's, which hears of the cancel."""
    world.machine = slow = SlowMachine(moment)
    run = world.launched()
    first = Supervisor(store=world.store, executor_named=lambda name: slow)
    thread = threading.Thread(target=lambda: first.round(now=world.now))
    thread.start()
    assert slow.reached.wait(30)
    verbs.cancel(world.store, run.id, actor="bob", now=world.now)
    second = Supervisor(store=world.store, executor_named=lambda name: slow)
    second.round(now=world.now)
    slow.go_on.set()
    thread.join()
    slow.advance(10)
    world.now += 10
    second.round(now=world.now)
    seen = runs.get_run(world.store, run.id)
    assert (seen.state, world.held(run)) == (RunState.CANCELLED, 0)
    assert sum(slow.starts.values()) == (1 if moment == "after" else 0)
    assert all(slow.poll({"key": key}).is_final for key in slow.starts)


@pytest.mark.parametrize("order", [("cancel", "launch"), ("launch", "cancel"), ("both",)])
def test_a_cancel_and_a_launch_of_two_people(world: World, order: tuple[str, ...], in_threads: Any) -> None:
    run = world.funded()

    def ask(what: str) -> Any:
        verb = verbs.cancel if what == "cancel" else verbs.launch
        return verb(world.store, run.id, actor="ada", now=world.now)

    if order == ("both",):
        in_threads(lambda number: ask(("cancel", "launch")[number]), 2)
    else:
        in_threads(lambda _: [ask(order[0])], 1)
        in_threads(lambda _: [ask(order[1])], 1)  # a launch of what is cancelled is refused
    assert rests(world, run).state is RunState.CANCELLED


# --- who does not listen, who does nothing


class DeafMachine(FakeExecutor):
    """It takes every wish and obeys none but the last: SIGKILL. Nobody kills there after a grace."""

    def __init__(self) -> None:
        super().__init__(name="local")
        self.graces: list[float] = []

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        self.graces.append(grace_s)
        if grace_s == 0:
            super().cancel(handle, grace_s=0)


def test_a_cancel_that_nobody_there_hears_is_followed_by_force(world: World) -> None:
    world.machine = deaf = DeafMachine()
    deaf.script(Script(stop_s=NEVER))
    run = world.launched()
    world.tick()
    verbs.cancel(world.store, run.id, actor="ada", now=world.now)
    asked_at = world.now
    while world.state(run) is not RunState.CANCELLED:
        world.tick(1)
        assert world.now < asked_at + 1000
    waited_s = kill_after_s(run.run_dir) + KILL_AGAIN_S
    assert world.now - asked_at == pytest.approx(waited_s, abs=3)
    assert deaf.graces[0] == kill_after_s(run.run_dir)
    assert set(deaf.graces[1:]) == {0.0}


def test_a_hung_workload_is_stopped_and_resumed(world: World) -> None:
    world.machine.script(Script(silent_after_s=20, on_end=checkpoint(5)), Script(run_s=100))
    run = world.launched(held_s=5000)
    world.run_for(SILENCE_S + 200)
    first, second = attempts.for_run(world.store, run.id)
    assert (first.reason, second.reason) == (EndReason.HUNG, EndReason.COMPLETED)
    assert world.state(run) is RunState.SUCCEEDED
    assert world.charged(run) / SECOND == pytest.approx(20 + SILENCE_S + 100, abs=12)


def test_what_hangs_again_and_again_ends_within_the_failure_budget(world: World) -> None:
    world.machine.default_script = Script(silent_after_s=0)
    run = world.launched(held_s=5000)
    world.run_for(FAILURE_BUDGET * (SILENCE_S + 60) + 100)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, EndReason.HUNG)
    assert len(attempts.for_run(world.store, run.id)) == FAILURE_BUDGET


# --- a run directory that is not as it should be


def refuse(path: Path) -> None:
    """Every read and write of it fails, as on a disk that is broken; for root, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path)


def test_a_foreign_spec_ends_the_launch_at_once_and_is_said(world: World) -> None:
    run = world.launched()
    Path(run.run_dir).mkdir(parents=True)
    (Path(run.run_dir) / "spec.json").write_text('{"depth": 9}')
    seen = rests(world, run)
    assert (seen.state, seen.reason) == (RunState.PAUSED, EndReason.NOT_STARTED)
    assert "holds a different spec" in verbs.view(world.store, run.id).sentence
    (column,) = (column for column in show.attempt_columns() if column.title == "why it ended")
    assert "holds a different spec" in column.cell(attempts.for_run(world.store, run.id)[0])
    assert world.machine.num_submits == 0


def test_a_run_directory_that_cannot_be_written_is_said_and_the_run_rests_in_the_end(world: World) -> None:
    run = world.launched()
    refuse(Path(run.run_dir) / "spec.json")
    assert world.tick().errors
    assert any("spec.json" in said for said in verbs.view(world.store, run.id).warnings)
    world.run_for(TROUBLE_S - 50, step=50)
    assert world.state(run) is RunState.LAUNCHING
    seen = rests(world, run)
    assert (seen.state, seen.reason) == (RunState.PAUSED, EndReason.NOT_STARTED)
    assert "spec.json" in verbs.view(world.store, run.id).sentence
    assert [event.kind for event in runs.events(world.store, run.id)].count("trouble") == 1


def test_a_start_that_failed_for_a_while_is_no_reason_to_give_up(world: World) -> None:
    world.machine.script(Script(run_s=100))
    world.machine.unreachable = True
    run = world.launched()
    world.run_for(TROUBLE_S / 2, step=50)
    world.machine.unreachable = False
    assert rests(world, run).state is RunState.SUCCEEDED


def test_a_last_word_that_cannot_be_read_is_waited_for_but_not_for_ever(world: World) -> None:
    def block(job: Job) -> None:
        refuse(Path(job.run_dir) / "result.json")

    world.machine.script(Script(run_s=100, on_end=block))
    run = world.launched()
    world.run_for(TROUBLE_S, step=50)
    assert world.state(run) is RunState.RUNNING
    assert any("result.json" in said for said in verbs.view(world.store, run.id).warnings)
    world.run_for(200, step=50)
    assert (world.state(run), world.charged(run), world.held(run)) == (RunState.SUCCEEDED, 100 * SECOND, 0)


def test_a_last_word_that_can_be_read_again_counts(world: World) -> None:
    def block(job: Job) -> None:
        refuse(Path(job.run_dir) / "result.json")

    world.machine.script(Script(run_s=100, exit_code=76, on_end=block))
    run = world.launched()
    world.run_for(300, step=50)
    place = Path(run.run_dir) / "result.json"
    place.unlink()
    place.write_text(json.dumps({"attempt": f"{run.id}-train-1", "reason": "host_oom"}))
    world.tick(1)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, EndReason.HOST_OOM)


@pytest.mark.parametrize(
    ("then", "seconds"),
    [
        (None, 0.0), (990.0, 10.0), (1000.0, 0.0), (1000.5, 0.0), (1000 + CLOCK_NOISE_S - 1, 0.0),
        (1000 + CLOCK_NOISE_S + 1, LONG_AGO_S),
    ],
)  # fmt: skip
def test_a_clock_a_moment_behind_is_neither_for_ever_nor_before(then: float | None, seconds: float) -> None:
    assert _since(then, 1000.0) == seconds
