"""Posts: one supervisor and one mirror a lab, started by whoever finds none, whatever fails."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from patron_core import settings
from patron_core.errors import Busy
from patron_core.executors import processes
from patron_core.lifecycle import post, supervisor
from patron_core.machines.host import this_host
from patron_core.states import RunState
from patron_core.store import Run, Store, leases, patience, runs

HEAVY = "mlflow polars numpy pydantic marimo torch sky alembic pandas"


def at(module: str, home: Path) -> list[psutil.Process]:
    """The processes of this home that run a module."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        ours = (process.info["environ"] or {}).get("PATRON_HOME") == str(home)
        if ours and module in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def until(holds: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def held_by(store: Store, which: post.Post) -> str | None:
    lease = leases.current(store, which.name)
    return lease.holder.split("/")[1] if lease else None


@pytest.fixture
def live(store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run that needs a supervisor for ever: it is to start at an executor that nobody has."""
    monkeypatch.setenv("PATRON_DATABASE_URL", store.url.render_as_string(hide_password=False))
    settings.home().mkdir(exist_ok=True)
    run = make_run(store, executor="nowhere")
    steps = [RunState.DRAFT, RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING]
    with store.begin() as conn:
        for old, new in pairwise(steps):
            run = runs.transition(conn, run.id, old=old, new=new, actor="ada", now=1.0)
    yield run
    for which in (post.SUPERVISOR, post.MIRROR):
        for process in at(which.module, settings.home()):
            process.kill()
            process.wait(10)


def cancel(store: Store, run: Run) -> None:
    with store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.LAUNCHING, new=RunState.CANCELLED, actor="ada", now=2.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BACK_OFF_S", (0.01,))
    monkeypatch.setattr(post, "jittered_s", lambda failures: 0.01)


def watch_of(store: Store) -> post.Watch:
    return post.Watch(post=post.SUPERVISOR, store=store, lock=None)


def test_any_number_who_look_at_once_start_one_of_each(store: Store, live: Run, in_threads) -> None:
    code = "from patron_core.store import Store; from patron_core.lifecycle import supervisor\n"
    code += "print(int(supervisor.ensure_running(Store.open())))"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    in_threads(lambda _: supervisor.ensure_running(store), 8)
    for other in others:
        assert other.wait(60) == 0
        assert other.stdout is not None
        other.stdout.close()
    home = settings.home()
    for which in (post.SUPERVISOR, post.MIRROR):
        until(lambda which=which: held_by(store, which), f"no {which.name}")
        (process,) = at(which.module, home)
        assert held_by(store, which) == str(process.pid)
    cancel(store, live)
    for which in (post.SUPERVISOR, post.MIRROR):
        until(lambda which=which: not at(which.module, home), f"the {which.name} has nothing to do and stays")
        assert leases.current(store, which.name) is None


def test_a_killed_one_is_replaced_at_once_and_a_stuck_one_ended(store: Store, live: Run) -> None:
    home = settings.home()
    for which in (post.MIRROR, post.SUPERVISOR):  # in this order: a supervisor would start the mirror by itself
        assert post.ensure(which, store)
        until(lambda which=which: held_by(store, which), f"no {which.name}")
        (process,) = at(which.module, home)
        process.kill()
        process.wait(60)  # a dying one has no command line any more, and the lock still
        assert leases.current(store, which.name) is not None  # of one who is dead
        assert post.ensure(which, store)
        until(lambda which=which, old=process: held_by(store, which) not in (None, str(old.pid)), "no other came")

    (process,) = at(post.SUPERVISOR.module, home)
    process.suspend()
    with store.begin() as conn:
        conn.execute(sa.text("UPDATE leases SET expires_at = 0"))
    assert not post.ensure(post.SUPERVISOR, store)  # it may be slow: as many as look, there is one
    assert at(post.SUPERVISOR.module, home) == [process]
    os.utime(post.SUPERVISOR.lock_file(), (1.0, 1.0))
    assert not post.ensure(post.SUPERVISOR, store)
    process.wait(60)
    assert post.ensure(post.SUPERVISOR, store)
    until(lambda: held_by(store, post.SUPERVISOR), "no other came")


@pytest.mark.parametrize("moment", ["work", "release", "close", "look", "gone"])
def test_a_launch_at_any_moment_of_its_leaving_has_a_supervisor(
    sqlite_store: Store, quick: None, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It is given back before the last look, so that one of the two sees the other."""
    asked: list[str] = []
    seen_after: list[bool] = []
    started: list[int] = []
    monkeypatch.setattr(post, "_start", lambda which, lock: started.append(lock))

    def launch(now: str) -> None:
        if now == moment and not asked:
            asked.append(now)
            post.ensure(post.SUPERVISOR, sqlite_store)

    def work() -> bool:
        seen_after.append(bool(asked))
        launch("work")
        return bool(asked) and len(seen_after) < 20

    def look() -> bool:
        found = bool(asked)
        launch("look")
        return found and True not in seen_after

    release, close = leases.release, os.close
    monkeypatch.setattr(leases, "release", lambda *a, **k: (launch("release"), release(*a, **k))[1])
    monkeypatch.setattr(post.os, "close", lambda fd: (launch("close"), close(fd))[1])
    post.serve(watch_of(sqlite_store), work, is_needed=look, every_s=0.0)
    launch("gone")
    assert True in seen_after or started


def test_what_fails_is_said_backed_off_and_carried_on(
    sqlite_store: Store, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception] = [
        Busy("the database is busy", next="wait"),
        sa.exc.OperationalError("x", {}, sqlite3.OperationalError("database is locked")),
        OSError(28, "No space left on device"),
        ConnectionResetError(),
    ]
    remaining = iter(faults)
    rounds: list[int] = []

    def work() -> bool:
        for fault in remaining:
            raise fault
        rounds.append(1)
        return False

    post.serve(watch_of(sqlite_store), work, is_needed=lambda: False, every_s=0.0)
    assert len(rounds) == post.IDLE_ROUNDS
    said = [record for record in caplog.records if record.name == "patron.post"]
    assert len(said) == len(faults)
    assert leases.current(sqlite_store, post.SUPERVISOR.lease()) is None


def test_waiting_grows_and_differs_between_those_who_wait() -> None:
    waits = [[patience.jittered_s(failures) for failures in range(1, 12)] for _ in range(50)]
    for failures, delay_s in enumerate((*patience.BACK_OFF_S, *[patience.BACK_OFF_S[-1]] * 4)):
        column = [each[failures] for each in waits]
        assert all(0.5 * delay_s <= wait_s <= 1.5 * delay_s for wait_s in column)
        assert len(set(column)) > 10


def test_it_goes_on_when_postgresql_is_back(
    mortal_postgres, home: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is away in the middle, for longer than anybody is patient inside a round."""
    url = f"postgresql+psycopg://patron@/postgres?host={mortal_postgres.folder}"
    store = Store.open(url, patience_s=0.2)
    home.mkdir()
    run = make_run(store, executor="nowhere")
    with store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    monkeypatch.setattr(post, "ensure", lambda which, store: False)
    loop = threading.Thread(target=supervisor.run_loop, args=(watch_of(store),))
    loop.start()
    until(lambda: held_by(store, post.SUPERVISOR), "it never began")
    mortal_postgres.stop()
    time.sleep(1.5)
    assert loop.is_alive()
    mortal_postgres.start()
    with store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.CANCELLED, actor="ada", now=1.0)
    loop.join(60)
    assert not loop.is_alive()  # it saw that nothing is left to do
    store.close()


def test_it_goes_on_when_sqlite_is_free_again(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sqlite_store, executor="nowhere")
    with sqlite_store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    monkeypatch.setattr(post, "ensure", lambda which, store: False)
    impatient = Store.open(patience_s=0.1)
    failed = threading.Event()
    monkeypatch.setattr(post, "_say", lambda *a: failed.set())
    loop = threading.Thread(target=supervisor.run_loop, args=(watch_of(impatient),))
    loop.start()
    until(lambda: held_by(sqlite_store, post.SUPERVISOR), "it never began")
    blocker = sqlite3.connect(str(sqlite_store.url.database), isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert failed.wait(30)
    assert loop.is_alive()
    blocker.execute("ROLLBACK")
    blocker.close()
    with sqlite_store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.CANCELLED, actor="ada", now=1.0)
    loop.join(60)
    assert not loop.is_alive()
    impatient.close()


def test_a_long_round_keeps_its_lease_and_a_stuck_one_does_not(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may answer after minutes; one that never does must not be waited for by other machines."""
    monkeypatch.setattr(post, "LEASE_TTL_S", 0.3)
    in_round, over = threading.Event(), threading.Event()

    def work() -> bool:
        in_round.set()
        over.wait(60)
        return False

    watch = watch_of(sqlite_store)
    args = {"is_needed": lambda: False, "every_s": 0.0}
    loop = threading.Thread(target=post.serve, args=(watch, work), kwargs=args)
    loop.start()
    assert in_round.wait(30)
    name = post.SUPERVISOR.lease()
    first = leases.current(sqlite_store, name)
    assert first is not None
    until(lambda: (now := leases.current(sqlite_store, name)) and now.expires_at > first.expires_at, "lapsed")
    monkeypatch.setattr(post, "STUCK_S", 0.0)
    until(lambda: leases.current(sqlite_store, name) is None, "it is kept for ever")
    over.set()
    loop.join(30)
    assert not loop.is_alive()


def test_two_homes_have_a_supervisor_each_and_share_the_labs_lease(
    postgres_store: Store, make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local runs are their home's alone; a rented one is seen to by one of them, and by the other when that goes."""
    started: list[str] = []
    monkeypatch.setattr(post, "_start", lambda which, lock: started.append(settings.home().name))
    homes = {name: tmp_path / name for name in ("one", "two")}
    watches = {}
    for name, folder in homes.items():
        monkeypatch.setenv("PATRON_HOME", str(folder))
        watches[name] = watch_of(postgres_store)
        assert watches[name].keep()
    assert watches["one"].keep_lab()
    assert not watches["two"].keep_lab()

    def live(executor: str, host_id: str | None) -> None:
        run = make_run(postgres_store, executor=executor, host_id=host_id)
        with postgres_store.begin() as conn:
            runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)

    def needed_at(name: str) -> bool:
        monkeypatch.setenv("PATRON_HOME", str(homes[name]))
        return supervisor.is_needed(postgres_store)

    live("nowhere", None)
    assert not needed_at("two")  # a rented run that the other sees to
    monkeypatch.setenv("PATRON_HOME", str(homes["one"]))
    watches["one"].step_down()
    assert needed_at("two")
    assert watches["two"].keep_lab()
    assert not needed_at("one")
    monkeypatch.setenv("PATRON_HOME", str(homes["two"]))
    live("local", this_host().id)
    assert not needed_at("one")
    assert needed_at("two")
    watches["two"].step_down()
    assert needed_at("two")
    assert post.ensure(post.SUPERVISOR, postgres_store)
    assert started == ["two"]


def test_what_lasts_is_said_now_and_then(
    sqlite_store: Store, make_run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(sqlite_store, executor="nowhere")
    with sqlite_store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    which = supervisor.Supervisor(store=sqlite_store)
    assert [len(which.round().errors) for _ in range(5)] == [1] * 5
    assert len([record for record in caplog.records if run.id in record.message]) == 1


def test_a_mirror_that_cannot_be_started_does_not_slow_supervision_down(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    run = make_run(sqlite_store, executor="nowhere")
    with sqlite_store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    tried: list[str] = []

    def full(which: post.Post, store: Store) -> bool:
        tried.append(which.name)
        if len(tried) == 3:
            with store.begin() as conn:
                runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.CANCELLED, actor="ada", now=1.0)
        raise OSError(28, "No space left on device")

    faults: list[Exception] = []
    monkeypatch.setattr(post, "ensure", full)
    monkeypatch.setattr(post, "_say", lambda error, *more: faults.append(error))
    monkeypatch.setattr(supervisor, "TICK_EVERY_S", 0.01)
    supervisor.run_loop(watch_of(sqlite_store))
    assert len(tried) >= 3
    assert faults == []


def test_a_deleted_lab_needs_nobody(sqlite_store: Store, quick: None) -> None:
    def work() -> bool:
        Path(str(sqlite_store.url.database)).unlink()
        return True

    post.serve(watch_of(sqlite_store), work, is_needed=lambda: True, every_s=0.0)


def test_a_supervisor_is_small(home: Path) -> None:
    """Neither MLflow nor polars: on a machine of 1 GB it must fit beside the training."""
    code = "import sys, patron_core.lifecycle.supervisor, patron_core.executors.local\n"
    code += f"print(*[name for name in {HEAVY.split()!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_the_unit_has_the_settings_and_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PATRON_") and name != "PATRON_HOME"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATRON_RUNS", 's3://bucket/100%"x')
    command = [sys.executable, "-m", "patron_core.lifecycle.supervisor", "--install"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f'Environment="PATRON_HOME={home}"' in plain
    assert 'Environment="PATRON_RUNS=s3://bucket/100%%\\"x"' in plain
    assert f"ExecStart={sys.executable} -P -m patron_core.lifecycle.supervisor\n" in plain
    assert "EnvironmentFile" not in plain
    monkeypatch.setenv("PATRON_DATABASE_URL", "postgresql+psycopg://ada:hunter2@db/lab")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:hunter3@mlflow/")
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "hunter" not in told
    assert f"EnvironmentFile={home}/secrets.env" in told
    assert "MLFLOW_TRACKING_URI, PATRON_DATABASE_URL" in told
    if shutil.which("systemd-analyze"):  # what systemd says of it
        (unit := home.parent / "patron.service").write_text(told)
        said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (said.returncode, said.stderr) == (0, "")


def test_a_holder_of_this_machine_that_is_no_more_is_dead() -> None:
    mine = post.new_holder()
    assert not post._is_dead(mine)
    host, number, its_mark, host_id, _ = mine.split("/")
    assert post._is_dead(f"{host}/{number}/{its_mark}0/{host_id}/x")  # its number was given to another
    for other in (f"{its_mark}0/another/x", f"another:boot0/{host_id}/x"):  # a copy of this home, on another machine
        assert not post._is_dead(f"{host}/{number}/{other}")
    child = subprocess.Popen(["sleep", "60"])
    its = f"{host}/{child.pid}/{processes.mark(child.pid)}/{host_id}/x"
    assert not post._is_dead(its)
    child.send_signal(signal.SIGKILL)
    until(lambda: post._is_dead(its), "a zombie counts as alive")
    child.wait()
    for strange in ("tests", "", "elsewhere/1/x/y", f"{host}/x/y/{host_id}/z"):
        assert not post._is_dead(strange)
