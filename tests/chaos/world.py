"""One world: made from a seed, shaken, and left in peace; then everything rests, and the bill is right."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import Connection, event

from patron_core import verbs
from patron_core.errors import PatronError
from patron_core.executors.base import Handle, Job
from patron_core.executors.fake import NEVER, FakeExecutor, Script
from patron_core.lifecycle import apply as applying
from patron_core.lifecycle import supervisor as supervising
from patron_core.lifecycle.decide import ActionKind
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.machines.target import Target
from patron_core.states import TERMINAL, RunState
from patron_core.store import Run, Store, ledger, runs

from .promises import Broken, at_any_moment, at_the_end
from .stage import Actor, Crash

SECOND = 1_000  # micro-dollars: a thousandth of a dollar a second
START = 1_000_000.0
STEPS = (50, 120)
MOST_RUNS = 5
SLEEP_SHARE = {"before an action": 0.4, "before submit": 0.3}  # where it matters most that others go on meanwhile
CALM_ROUNDS, CALM_STEP_S = 120, 30.0
RENTED = {"machine": {"spot": True}}  # what is paid for beside machine time, in every third world
BUCKET = {"transfer": {
    "egress_usd_micros_per_gb": {}, "dearest_usd_micros_per_gb": 90_000, "storage_usd_micros_per_gb_month": 23_000,
    "usd_micros_per_hour": 36_000, "set_aside_usd_micros": 1_000,
}}  # fmt: skip
UPLOADED = {"uploaded_bytes": 10_000_000, "stored_bytes": 4_000_000}
SPEC = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}
ON_THE_WAY = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED)


class World:
    """`play` returns what happened, as counts; raises Broken."""

    def __init__(self, seed: int, folder: Path, template: Path):
        self.seed, self.folder = seed, folder
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.now = START
        self.actors: list[Actor] = []
        self.acting: Actor | None = None
        self.asleep: dict[Actor, int] = {}  # until so many rounds of others
        self.statements_left = -1  # until the acting process is killed
        self.crash_share = self.chance.choice([0.0, 0.003, 0.01, 0.03])
        self.bustle = self.chance.choice([1, 1, 4])  # of the person, beside a supervisor's 4
        self.machine = FakeExecutor(name="local", recovers_itself=self.chance.random() < 0.2)
        shutil.copy(template, folder / "patron.db")
        self.store = PointedStore.open(f"sqlite:///{folder / 'patron.db'}")
        self.store.world = self
        event.listen(self.store._engine, "connect", _no_waiting_for_the_disk)
        event.listen(self.store._engine, "before_cursor_execute", self._statement)
        self.executor: Any = PointedExecutor(self)
        self.made: list[Run] = []
        self.rents = seed % 3 == 0

    def play(self) -> Counter[str]:
        try:
            with mock.patch.object(supervising, "apply", self._late(supervising.apply)), self._renting():
                self._shake()
                self._calm_down()
            at_the_end(self)
        except Broken as broken:
            raise Broken(f"seed {self.seed}: {broken}") from broken
        finally:
            for actor in self.actors:
                actor.kill()
            self.store.close()
        self.counts["attempts started"] = self.machine.starts.total()
        for run in self.made:
            self.counts[f"ended {runs.get_run(self.store, run.id).state.value}"] += 1
        return self.counts

    @contextmanager
    def _renting(self) -> Iterator[None]:
        """Machines have an end to pay for, and checkpoints go to a bucket."""
        if not self.rents:
            yield
            return
        quote = Target.quote
        rented = mock.patch.object(Target, "quote", lambda target, **kw: quote(target, **kw) | RENTED | BUCKET)
        with rented, mock.patch.object(applying, "_moved", return_value=UPLOADED):
            yield

    def _shake(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            self._found()
        self._employ("supervisor", self._supervise)
        self._employ("supervisor", self._supervise)
        self._employ("person", self._wish)
        for _ in range(self.chance.randint(*STEPS)):
            if self.chance.random() < 0.2 and self._all_rest() and len(self.made) < MOST_RUNS:
                self._found()
            self._happen()
            at_any_moment(self, thoroughly=self.chance.random() < 0.05)

    def _all_rest(self) -> bool:
        return all(runs.get_run(self.store, run.id).state in TERMINAL for run in self.made)

    def _happen(self) -> None:
        kind = self.chance.random()
        if kind < 0.80:
            awake = [each for each in self.actors if self.asleep.get(each, 0) <= self.counts["rounds"]]
            actor = self.chance.choices(awake, [4 if a.name == "supervisor" else self.bustle for a in awake])[0]
            for _ in range(self.chance.choice([1, 2, 5, 20])):
                if not actor.is_over:
                    self._let_act(actor)
        elif kind < 0.95:
            self.advance(self.chance.choice([0.5, 2.0, 5.0, 15.0, 60.0]))
        elif kind < 0.97:
            self.counts["clock jumps"] += 1
            self.now += self.chance.choice([-1, 1]) * self.chance.choice([10.0, 3600.0, 86_400.0])
        elif kind < 0.99:
            self.machine.unreachable = self.chance.random() < 0.5
        else:
            self.machine.fail_next_submit = self.chance.choice(["before", "after", None])

    def _let_act(self, actor: Actor) -> None:
        self.acting = actor
        actor.go_on()
        self.acting = None
        self.counts["turns"] += 1
        if actor.error is not None:
            raise Broken(f"{actor.name} failed at {actor.place}: {actor.error!r}")
        if actor.is_over:
            self.actors.remove(actor)
            self.asleep.pop(actor, None)
            self._employ(actor.name, self._supervise if actor.name == "supervisor" else self._wish)

    def _calm_down(self) -> None:
        """No more faults, and one supervisor: in the end every run rests."""
        self.crash_share = 0.0
        for actor in self.actors:
            self.acting = actor  # none of its last words is a point
            actor.kill()
        self.actors, self.acting, self.statements_left = [], None, -1
        self.machine.unreachable, self.machine.fail_next_submit = False, None
        last = self._supervisor()
        for _ in range(CALM_ROUNDS):
            if last.round(now=self.now).live == 0:
                return
            self.advance(CALM_STEP_S)
            at_any_moment(self, thoroughly=False)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.machine.advance(seconds)

    def point(self, place: str) -> None:
        """Here whoever acts may be left standing for long, or be killed."""
        actor = self.acting
        if actor is None or actor.is_over:
            return
        if self.chance.random() < self.crash_share:
            self.counts["crashes between transactions"] += 1
            raise Crash
        if self.chance.random() < self.crash_share:
            self.statements_left = self.chance.randint(0, 12)
        others_wake = all(until <= self.counts["rounds"] for until in self.asleep.values())
        if others_wake and actor.name == "supervisor" and self.chance.random() < SLEEP_SHARE.get(place, 0.003):
            self.counts["long sleeps"] += 1  # as a laptop does, while the other supervisor goes on
            self.asleep[actor] = self.counts["rounds"] + self.chance.choice([1, 3, 6, 12])
        actor.stand(place)

    def _statement(self, *_: Any) -> None:
        if self.acting is not None and self.statements_left >= 0:
            self.statements_left -= 1
            if self.statements_left < 0:
                self.counts["crashes at a statement"] += 1
                raise Crash

    def _employ(self, name: str, work: Callable[[], None]) -> None:
        self.actors.append(Actor(name, work))

    def _supervisor(self) -> Supervisor:
        return Supervisor(store=self.store, executor_named=lambda name: self.executor)

    def _supervise(self) -> None:
        """Without asking for a lease: two that both believe to have it are what a lease cannot rule out."""
        mine = self._supervisor()
        while True:
            errors = mine.round(now=self.now).errors
            self.counts["rounds"] += 1
            for error in errors:
                self.counts["errors"] += 1
                if "Error" in error.split(": ")[1]:  # not in Patron's words
                    raise Broken(f"a round said: {error}")

    def _late(self, apply: Callable[..., None]) -> Callable[..., None]:
        def late(*args: Any, **kwargs: Any) -> None:
            action = args[2]
            self.point(f"before {'nothing' if action.kind is ActionKind.WAIT else 'an action'}")
            apply(*args, **kwargs)

        return late

    def _found(self) -> None:
        """A run whose money is held and that is launched, without the dryrun that would prove it."""
        held = self.chance.choice([60, 150, 400, 900]) * SECOND
        cap = self.chance.choice([None, held, 2 * held])
        with self.store.begin() as conn:
            deposit = held + self.chance.choice([0, 3000, 3000]) * SECOND
            key = f"deposit {len(self.made)}"
            ledger.deposit(conn, project="lab", usd_micros=deposit, key=key, actor="ada", now=self.now)
        spec = SPEC | {"seed": len(self.made)}
        run = verbs.plan(self.store, spec=spec, project="lab", max_usd_micros=cap, actor="ada", now=self.now)
        with self.store.begin() as conn:
            ledger.hold(conn, run, held, key=f"hold:{run.id}", actor="ada", now=self.now)
            runs.set_fields(conn, run.id, now=self.now, dryrun={"spec_hash": "another", "environment_hash": "e"})
            for new in ON_THE_WAY:
                run = runs.transition(conn, run.id, old=run.state, new=new, actor="ada", now=self.now)
        self.made.append(run)
        with suppress(PatronError):
            verbs.launch(self.store, run.id, actor="ada", now=self.now)
        self.machine.script(*(self._fate() for _ in range(6)))
        self.now += 1

    def _fate(self) -> Script:
        """How a process goes: to its end, into a fault, reclaimed, hung; heeding a stop, late, or not at all."""
        killed = {"exit_code": None, "signal": int(signal.SIGKILL)}
        ends: list[dict[str, Any]] = [
            {"exit_code": 0},
            {"exit_code": self.chance.choice([1, 75, 75, 75, 76, 78])},
            killed,
            killed | {"evidence": {"instance_gone": True}},
            killed | {"evidence": {"instance_gone": True}, "run_s": 5.0},
            {"exit_code": 75, "run_s": 5.0},
            killed | {"evidence": {"oom_kills": 1}},
            {"vanishes": True},
            {"run_s": NEVER, "silent_after_s": self.chance.choice([0.0, 50.0, NEVER])},
        ]
        step = self.chance.choice([None, 2, 4, 6, 8])
        usual = {
            "start_after_s": self.chance.choice([0.0, 0.0, 5.0, 90.0]),
            "run_s": self.chance.choice([1.0, 10.0, 40.0, 200.0]),
            "stop_s": self.chance.choice([0.5, 1.0, 8.0, 40.0, NEVER]),
            "on_end": None if step is None else lambda job: _checkpoint(job, step),
        }
        return Script(**usual | self.chance.choice(ends))

    def _wish(self) -> None:
        """What people do: launch again, stop, give more money; at the wrong moment, too."""
        seldom: list[Callable[..., Any]] = [verbs.cancel]
        wishes = [self._resume] * 8 + [self._top_up] * 4 + [verbs.pause] * 3 + seldom
        while True:
            self.point("thinking")
            run = self.chance.choice(self.made)
            with suppress(PatronError):
                if self.chance.random() < 0.6:
                    continue
                is_paused = runs.get_run(self.store, run.id).state is RunState.PAUSED
                wish = self._resume if is_paused else self.chance.choice(wishes)
                wish(self.store, run.id, actor="ada", now=self.now)

    def _top_up(self, store: Store, run_id: str, *, actor: str, now: float) -> None:
        self.counts["wishes to top up"] += 1
        usd_micros = self.chance.choice([10, 100, 1000]) * SECOND
        key = f"more {self.counts['wishes to top up']}"
        verbs.fund(store, run_id, usd_micros=usd_micros, actor=actor, key=key, now=now)

    def _resume(self, store: Store, run_id: str, *, actor: str, now: float) -> None:
        """Fund a paused run, without the proof of its environment that the verb asks for."""
        if runs.get_run(store, run_id).state is RunState.PAUSED:
            self.counts["resumed"] += 1
            with store.begin() as conn:
                run = runs.lock(conn, run_id)
                if run.state is RunState.PAUSED:
                    key = f"again {self.counts['resumed']}"
                    ledger.hold(conn, run, 200 * SECOND, key=key, actor=actor, now=now)
                    runs.transition(conn, run.id, old=run.state, new=RunState.FUNDED, actor=actor, now=now)
        verbs.launch(store, run_id, actor=actor, now=now)


class PointedStore(Store):
    """A store with points before and after each transaction."""

    world: World | None = None

    @contextmanager
    def begin(self, **how: Any) -> Iterator[Connection]:
        self._point("before a write")
        with super().begin(**how) as conn:
            yield conn
        self._point("after a write")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self._point("before a read")
        with super().read() as conn:
            yield conn

    def _point(self, place: str) -> None:
        if self.world is not None:
            self.world.point(place)


class PointedExecutor:
    """The scripted machine with points before and after each call."""

    def __init__(self, world: World):
        self._world, self._machine = world, world.machine
        self.name, self.recovers_itself = world.machine.name, world.machine.recovers_itself
        self.look_every_s = world.machine.look_every_s

    def submit(self, job: Job) -> Handle:
        return self._call("submit", job)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(name, *args, **kwargs)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._world.point(f"before {name}")
        answer = getattr(self._machine, name)(*args, **kwargs)
        self._world.point(f"after {name}")
        return answer


def _checkpoint(job: Job, step: int) -> None:
    folder = Path(job.run_dir) / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").write_bytes(b"1234")
    (folder / "manifest.json").write_text(json.dumps({"step": step, "files": {"model.pt": {"bytes": 4}}}))


def _no_waiting_for_the_disk(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def play(seeds: range, *, to_the_first_broken: bool = False) -> tuple[Counter[str], list[str]]:
    """What happened in these worlds in all, and what broke, with its seed."""
    total: Counter[str] = Counter()
    broken: list[str] = []
    quick = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="patron-chaos-", dir=quick if quick.is_dir() else None) as place:
        template = Path(place) / "template.db"
        Store.open(f"sqlite:///{template}").close()
        for seed in seeds:
            folder = Path(place) / str(seed)
            folder.mkdir()
            settings = {"PATRON_HOME": str(folder), "PATRON_LOCAL_USD_PER_HOUR": "3.60"}
            with mock.patch.dict(os.environ, settings):
                try:
                    total += World(seed, folder, template).play()
                except Broken as error:
                    broken.append(str(error))
            total["worlds"] += 1
            shutil.rmtree(folder)
            if broken and to_the_first_broken:
                break
    return total, broken
