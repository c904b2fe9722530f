"""Supervisors that overlap: asleep between look and apply, or two at once. Nothing starts twice, nothing is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from scripted import ENDED, HOURLY, KILLED, SECOND, World, checkpoint

from patron_core import verbs
from patron_core.errors import Conflict, Refused
from patron_core.executors.base import Handle, Job, Observation
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.lifecycle import supervisor as module
from patron_core.lifecycle.apply import apply
from patron_core.lifecycle.decide import ActionKind, decide
from patron_core.lifecycle.observe import look
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.states import TERMINAL, RunState
from patron_core.store import Run, Store, attempts, ledger, runs

RECLAIMED = Script(run_s=30, exit_code=None, signal=9, evidence={"instance_gone": True}, on_end=checkpoint(3))


def live_of(world: World, run: Run) -> list[str]:
    """Attempts whose workload runs on the machine, whatever the store thinks."""
    handles = [(a, world.machine.find(a.id)) for a in attempts.for_run(world.store, run.id)]
    return [a.id for a, handle in handles if handle and not world.machine.poll(handle).is_final]


def resume(world: World, run: Run) -> None:
    with world.store.begin() as conn:
        ledger.hold(conn, run, 500 * SECOND, key=f"more{world.now}", actor="ada", now=world.now)
        runs.transition(conn, run.id, old=RunState.PAUSED, new=RunState.FUNDED, actor="ada", now=world.now)
    verbs.launch(world.store, run.id, actor="ada", now=world.now)


@pytest.mark.parametrize("kind", [ActionKind.END, ActionKind.RELAUNCH, ActionKind.STARTED, ActionKind.SUBMIT])
def test_what_was_seen_before_a_sleep_never_touches_a_later_launch(world: World, kind: ActionKind) -> None:
    """Whatever it was about to do: attempts went by meanwhile, and the run looks the same again."""
    world.machine.script(*[RECLAIMED] * 3, Script())
    run = world.launched()
    asleep = []
    while len(made := attempts.for_run(world.store, run.id)) < 3 or world.state(run) is not RunState.RUNNING:
        scene = look(world.store, run.id, world.machine, now=world.now)
        action = decide(scene.situation)
        if len(made) == 1 and action.kind is kind:
            asleep.append((scene, action))
        if len(made) < 3 or not asleep:
            apply(world.store, scene, action, world.machine, now=world.now)
            world.now += 1
            world.machine.advance(1)
        else:
            world.tick()
    assert asleep
    before = attempts.for_run(world.store, run.id), runs.get_run(world.store, run.id)
    for scene, action in asleep:
        with pytest.raises(Conflict, match="what was judged"):
            apply(world.store, scene, action, world.machine, now=world.now)
    assert (attempts.for_run(world.store, run.id), runs.get_run(world.store, run.id)) == before
    assert live_of(world, run) == [before[0][-1].id]


def test_a_submit_that_comes_after_the_cancel_leaves_nothing_running(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept inside the submit itself, where no transaction can hold anybody back."""
    run = world.launched()
    submit = world.machine.submit

    def sleepy(job: Job) -> Handle:
        monkeypatch.setattr(world.machine, "submit", submit)
        verbs.cancel(world.store, run.id, actor="ada", now=world.now)
        second = Supervisor(store=world.store, executor_named=lambda name: world.machine)
        second.round(now=world.now)
        assert world.state(run) is RunState.CANCELLED
        return submit(job)

    monkeypatch.setattr(world.machine, "submit", sleepy)
    world.tick()
    world.tick(1)
    assert (world.state(run), live_of(world, run)) == (RunState.CANCELLED, [])


class Interrupted:
    """The scripted machine, where the other supervisor may do whole rounds in the middle of any call."""

    def __init__(self, machine: FakeExecutor, interrupt: Callable[[], None]):
        self.machine, self.interrupt = machine, interrupt
        self.name, self.recovers_itself = machine.name, machine.recovers_itself
        self.look_every_s = machine.look_every_s

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.machine, name)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            self.interrupt()
            answer = call(*args, **kwargs)
            self.interrupt()
            return answer

        return interrupted


@pytest.mark.parametrize("seed", range(12))
def test_two_who_interrupt_each_other_anywhere(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Also between look and apply. No write transaction may be open there, or the store itself would object."""
    chance = random.Random(seed)
    scripts = [replace(KILLED, run_s=chance.randint(5, 60), on_end=checkpoint(chance.randint(1, 9))) for _ in range(2)]
    world.machine.script(*chance.sample([*scripts, RECLAIMED], 2), Script(run_s=chance.randint(10, 120)))
    world.machine.default_script = ENDED
    first, second = world.launched(), world.launched(seed=7)
    depth = 0
    errors: list[str] = []

    def interrupt() -> None:
        nonlocal depth
        if depth < 2 and chance.random() < 0.2:
            depth += 1
            world.now += (seconds := chance.choice([0, 0, 1, 20]))
            world.machine.advance(seconds)
            errors.extend(others[chance.randrange(2)].round(now=world.now).errors)
            depth -= 1

    def slept(*args: Any, **kwargs: Any) -> None:
        interrupt()
        apply(*args, **kwargs)

    monkeypatch.setattr(module, "apply", slept)
    machine: Any = Interrupted(world.machine, interrupt)
    others = [Supervisor(store=world.store, executor_named=lambda name: machine) for _ in range(2)]
    wish = chance.choice([None, None, verbs.cancel, verbs.pause])
    for step in range(90):
        world.now += 5
        world.machine.advance(5)
        errors.extend(others[step % 2].round(now=world.now).errors)
        if wish and step == 10:
            with suppress(Refused):
                wish(world.store, first.id, actor="ada", now=world.now)
        for run in (first, second):
            if world.state(run) is RunState.PAUSED and step < 45:
                resume(world, run)
    assert errors == []
    for run in (first, second):
        assert world.state(run) in TERMINAL | {RunState.PAUSED}
        assert live_of(world, run) == []
        assert world.charged(run) <= round(world.machine_s(run) * SECOND) + len(attempts.for_run(world.store, run.id))
        assert world.charged(run) >= (world.machine_s(run) - 1) * SECOND
        assert world.held(run) == 0


class Slow:
    """The scripted machine behind a lock, in calls that take a moment, so that two who ask at once overlap."""

    def __init__(self, machine: FakeExecutor):
        self.machine, self.lock = machine, threading.Lock()
        self.name, self.recovers_itself = machine.name, machine.recovers_itself
        self.look_every_s = machine.look_every_s

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(random.random() * 0.004)
            with self.lock:
                answer = getattr(self.machine, name)(*args, **kwargs)
            time.sleep(random.random() * 0.004)
            return answer

        return call


def test_two_at_once_in_threads_charge_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, in_threads: Callable[..., list[Any]]
) -> None:
    """Both act the whole time: no lease keeps them apart."""
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    world = World(store=store, machine=FakeExecutor(name="local"))
    world.machine.script(replace(KILLED, on_end=checkpoint(5)), RECLAIMED)
    world.machine.default_script = ENDED
    made = [world.launched(seed=seed) for seed in range(2)]
    machine: Any = Slow(world.machine)

    def act(number: int) -> list[str]:
        supervisor = Supervisor(store=store, executor_named=lambda name: machine)
        errors: list[str] = []
        for _ in range(30):
            if number == 0:
                with machine.lock:
                    world.now += 10
                    world.machine.advance(10)
            errors += supervisor.round(now=world.now).errors
        return errors

    assert in_threads(act, 2) == [[], []]
    for run in made:
        assert world.state(run) is RunState.SUCCEEDED
        assert world.charged(run) == world.machine_s(run) * SECOND
    assert set(world.machine.starts.values()) == {1}
    assert ledger.verify(store) == []


def test_the_machine_says_what_it_cost(world: World) -> None:
    """The measure of the tests above: an observation, not what was charged."""
    world.machine.script(Script(run_s=50))
    run = world.launched()
    world.tick()
    world.machine.advance(20)
    assert world.machine_s(run) == 20
    handle = world.machine.find(attempts.for_run(world.store, run.id)[0].id)
    assert handle is not None
    assert isinstance(world.machine.poll(handle), Observation)
    assert world.charged(run) == 0
