"""What work costs, counted, not timed: it must not grow with the number of runs, their history, or who watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from scripted import World

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.executors import skypilot
from patron_core.executors.base import Handle, Job, Observation
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.lifecycle import bill, ownership, post
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.states import RunState
from patron_core.store import Run, Store, books, leases, ledger, runs
from patron_core.verbs import shared


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Those that the database is asked for meanwhile, without the beginnings and ends of transactions."""
    seen: list[str] = []

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("PRAGMA", "BEGIN")):
            seen.append(statement)

    sa.event.listen(store._engine, "before_cursor_execute", count)
    yield seen
    sa.event.remove(store._engine, "before_cursor_execute", count)


@contextmanager
def database_steps(store: Store) -> Iterator[list[int]]:
    """One entry for each hundred instructions of SQLite's machine meanwhile: what queries cost, and no clock."""
    steps: list[int] = []
    with store.read() as conn:
        connection = conn.connection.driver_connection
    assert connection is not None
    connection.set_progress_handler(lambda: steps.append(1), 100)
    yield steps
    connection.set_progress_handler(None, 0)


def test_who_waits_for_a_person_is_a_query_without_a_limit(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [make_run(sqlite_store, name=f"old {number}", now=float(number)) for number in range(5)]
    with sqlite_store.begin() as conn:
        for run in waiting:
            runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="a", now=1.0)
            runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.AWAITING_FUNDING, actor="a", now=1.0)
    for number in range(5):
        make_run(sqlite_store, name=f"new {number}", now=100.0 + number)
    seen = verbs.lab(sqlite_store, "p", limit=3)
    assert [run.name for run in seen.runs] == ["new 4", "new 3", "new 2"]
    assert {run.id for run in seen.attention} == {run.id for run in waiting}
    assert {one.run.id for one in seen.waiting} == {run.id for run in waiting}


def test_the_lab_asks_as_much_for_many_runs_as_for_few(sqlite_store: Store, make_run: Callable[..., Run]) -> None:
    make_run(sqlite_store)
    proven = [make_run(sqlite_store, name=f"proven {number}") for number in range(6)]
    for number, run in enumerate(proven):
        with sqlite_store.begin() as conn:
            runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="a", now=1.0)
            runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.AWAITING_FUNDING, actor="a", now=1.0)
        if number == 0:
            with statements(sqlite_store) as few:
                verbs.lab(sqlite_store, "p")
    for number in range(40):
        make_run(sqlite_store, name=f"run {number}")
    with statements(sqlite_store) as many:
        verbs.lab(sqlite_store, "p")
    assert len(many) == len(few)


def test_money_is_summed_from_what_was_checked_on(sqlite_store: Store, make_run: Callable[..., Run]) -> None:
    """Lab, wallet, a run's money and a charge: the same work after 1,100 transfers as after 100."""
    run = make_run(sqlite_store)

    def work() -> int:
        books.check_on(sqlite_store)
        with database_steps(sqlite_store) as steps:
            verbs.lab(sqlite_store, "p")
            ledger.run_money(sqlite_store, run.id)
            with sqlite_store.begin() as conn:
                books.balance(conn, f"hold:{run.id}")
        return len(steps)

    def charge(first: int, count: int) -> None:
        with sqlite_store.begin() as conn:
            for number in range(first, first + count):
                ledger.charge(conn, run, None, 1, key=f"c{number}", now=1.0)

    with sqlite_store.begin() as conn:
        ledger.deposit(conn, project="p", usd_micros=10**6, key="d", actor="ada", now=1.0)
        ledger.hold(conn, run, 10**5, key="h", actor="ada", now=1.0)
    charge(0, 100)
    few = work()
    charge(100, 1000)
    with database_steps(sqlite_store) as unchecked:
        verbs.lab(sqlite_store, "p")
    assert work() < few + 30 < len(unchecked)
    assert ledger.run_money(sqlite_store, run.id).charged_usd_micros == 1100


def test_one_look_serves_all_sessions(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sqlite_store)
    looks: list[str] = []
    real = shared.view

    def counted(store: Store, run_id: str) -> verbs.RunView:
        looks.append(run_id)
        return real(store, run_id)

    monkeypatch.setattr(shared, "view", counted)
    monkeypatch.setattr(shared, "FRESH_S", 3600.0)
    sessions = [threading.Thread(target=verbs.shared_view, args=(sqlite_store, run.id)) for _ in range(6)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert looks == [run.id]
    with sqlite_store.begin() as conn:
        runs.set_fields(conn, run.id, now=200.0, stop_requested="cancel")
    assert verbs.shared_view(sqlite_store, run.id).run.stop_requested == "cancel"
    monkeypatch.setattr(shared, "FRESH_S", 0.0)
    verbs.shared_view(sqlite_store, run.id)
    assert len(looks) == 3


def test_a_round_asks_as_much_for_many_runs_as_for_few(world: World) -> None:
    """Of the database; each run's machine is asked once."""
    world.machine.default_script = Script(run_s=1e9)

    def quiet_round() -> tuple[int, int]:
        for _ in range(3):
            world.tick()
        polls = world.machine.num_polls
        with statements(world.store) as seen:
            assert not world.tick().errors
        return len(seen), world.machine.num_polls - polls

    for _ in range(3):
        world.launched(held_s=1000)
    few, polls = quiet_round()
    assert polls == 3
    for _ in range(12):
        world.launched(held_s=100)
    many, polls = quiet_round()
    assert polls == 15
    assert many <= few + 12  # the plain tick renews its lease before each run; a post has a clock for that


def test_a_lost_lease_ends_the_round(world: World) -> None:
    """A tick that lasted longer than its lease let several supervisors act at once."""
    for _ in range(3):
        world.launched(held_s=1000)
    world.tick()
    polls = world.machine.num_polls
    mine, other = post.SUPERVISOR.lease(), Supervisor(store=world.store)
    poll = world.machine.poll

    def slow(handle: Handle) -> Observation:
        leases.release(world.store, mine, holder=world.supervisor.holder)
        assert leases.acquire(world.store, mine, holder=other.holder, ttl_s=30.0)
        return poll(handle)

    world.machine.poll = slow  # type: ignore[method-assign]
    tick = world.tick()
    assert world.machine.num_polls == polls + 1
    assert "lease was lost" in tick.errors[-1]
    current = leases.current(world.store, mine)
    assert current is not None
    assert current.holder == other.holder


def test_what_was_loaded_for_many_is_looked_at_again_before_it_is_acted_on(world: World) -> None:
    """A run that was cancelled while those before it were started is not started."""
    found = [world.launched(held_s=1000) for _ in range(2)]
    submit = world.machine.submit

    def slow(job: Job) -> Handle:
        for run in found:
            if not job.key.startswith(run.id) and runs.get_run(world.store, run.id).stop_requested is None:
                verbs.cancel(world.store, run.id, actor="ada")
        return submit(job)

    world.machine.submit = slow  # type: ignore[method-assign]
    world.tick()
    assert world.machine.num_submits == 1


def test_one_executor_that_nobody_knows_leaves_the_other_runs_alone(world: World) -> None:
    """What another checkout launched: its runs are in the errors, the rest is supervised."""
    found = [world.launched(held_s=1000) for _ in range(2)]
    world.tick()
    with world.store.begin() as conn:
        conn.execute(sa.text("UPDATE runs SET executor = 'elsewhere' WHERE id = :r"), {"r": found[0].id})

    def named(name: str) -> FakeExecutor:
        if name == "elsewhere":
            raise InvalidInput([name], next="patron lab")
        return world.machine

    world.supervisor = Supervisor(store=world.store, executor_named=named)
    polls, tick = world.machine.num_polls, world.tick()
    assert [error.split(":")[0] for error in tick.errors] == [found[0].id]
    assert world.machine.num_polls == polls + 1


def test_a_post_knows_that_its_lease_went(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = post.Watch(post=post.SUPERVISOR, store=sqlite_store, lock=None)
    assert watch.keep()
    with statements(sqlite_store) as seen:
        assert all(watch.still_here() for _ in range(100))
    assert seen == []
    leases.release(sqlite_store, post.SUPERVISOR.lease(), holder=watch.holder)
    assert leases.acquire(sqlite_store, post.SUPERVISOR.lease(), holder="another/1/m/host/x", ttl_s=30.0)
    monkeypatch.setattr(post, "FRESH_S", 0.0)
    assert not watch.still_here()
    watch.step_down()


def test_charges_are_spread_over_ticks_and_each_is_as_often() -> None:
    ids = [f"r{number:010d}" for number in range(1000)]
    charged = dict.fromkeys(ids, 0.0)
    at_once = []
    for second in range(1, 61):
        due = [run for run in ids if bill.is_due(run_id=run, charged_s=charged[run], uptime_s=float(second))]
        charged |= dict.fromkeys(due, float(second))
        at_once.append(len(due))
    assert sum(at_once) == 4 * len(ids)
    assert max(at_once) < 2 * len(ids) / bill.CHARGE_EVERY_S
    assert bill.is_due(run_id="r1", charged_s=0.0, uptime_s=bill.CHARGE_EVERY_S)


class Jobs:
    """SkyPilot's queue, which answers about those jobs that it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def jobs(self, *, job_ids: list[int]) -> list[dict[str, Any]]:
        self.asked.append(job_ids)
        return [{"job_id": job_id, "status": "RUNNING"} for job_id in job_ids if job_id != 7]


def test_skypilot_is_asked_once_for_all_jobs() -> None:
    queue = Jobs()
    watch = skypilot.Watch(queue)  # type: ignore[arg-type]
    ids = list(range(100))
    watch.expect(ids)
    found = [watch.job(job_id, max_age_s=60.0) for job_id in ids]
    assert [job["job_id"] for job in found if job] == [job_id for job_id in ids if job_id != 7]
    assert watch.job(7, max_age_s=60.0) is None
    assert queue.asked == [ids]
    assert watch.job(100, max_age_s=60.0) is not None
    assert len(queue.asked) == 2


def test_rented_runs_are_looked_at_side_by_side_and_no_oftener_than_they_have_news(
    world: World, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at each in the time of an answer's age, whatever the tick; a wish is seen at once."""
    monkeypatch.setattr(ownership, "is_local", lambda run: False)
    world.machine.default_script = Script(run_s=1e9)
    found = [world.launched(held_s=1000) for _ in range(8)]
    with world.store.begin() as conn:
        for run in found:
            conn.execute(
                sa.text("UPDATE runs SET run_dir = :d WHERE id = :r"), {"d": f"{bucket}/{run.id}", "r": run.id}
            )
    for _ in range(3):
        world.tick()
    world.machine.look_every_s = 10.0
    world.tick(10.0)
    polls, together = world.machine.num_polls, threading.Barrier(8, timeout=20.0)
    poll = world.machine.poll

    def meeting(handle: Handle) -> Observation:
        together.wait()
        return poll(handle)

    world.machine.poll = meeting  # type: ignore[method-assign]
    for _ in range(4):
        world.tick(3.0)
    assert world.machine.num_polls == polls + 8
    world.machine.poll = poll  # type: ignore[method-assign]
    verbs.pause(world.store, found[3].id, actor="ada")
    world.tick(1.0)
    assert world.machine.num_polls > polls + 8
