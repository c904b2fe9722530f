"""A database of another version: what can be done there, what is refused, and how it is migrated."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from patron_core import verbs
from patron_core.errors import Refused, Unavailable
from patron_core.lifecycle import post, supervisor
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, backup, labs, leases, ledger, notes, runs, upgrade
from patron_core.verbs.migrate import migrate

PATRON = (sys.executable, "-m", "patron_core.commands")


def _alembic(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "patron_core.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    return config


VERSIONS = sorted(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())
OLDER = [version for version in VERSIONS[:-1] if version >= upgrade.READABLE_FROM]
RELEASED = "0003"  # of 0.3.0


def made(url: str, version: str) -> str:
    """The URL of a database that a Patron of that version made."""
    engine = sa.create_engine(url)
    with engine.begin() as conn:
        command.upgrade(_alembic(conn), version)
    engine.dispose()
    return url


def version_of(store: Store) -> str | None:
    with store.read() as conn:
        return upgrade.version(conn)


@pytest.fixture(
    params=[(kind, version) for kind in ("sqlite", "postgresql") for version in sorted({RELEASED, OLDER[-1]})]
)
def older(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A database of before, opened by this checkout."""
    kind, version = request.param
    home.mkdir()
    url = f"sqlite:///{home}/patron.db" if kind == "sqlite" else request.getfixturevalue("empty_postgres_url")
    monkeypatch.setenv("PATRON_DATABASE_URL", made(url, version))
    store = Store.open()
    assert store.version == version
    yield store
    store.close()


def living_run(store: Store, make_run: Callable[..., Run], *, name: str = "a run") -> Run:
    """A run with a live attempt and money held, as the checkout of that version had made it."""
    with store.begin(any_version=True) as conn:
        run = make_run(conn, name=name)
        ledger.deposit(conn, project=run.project, usd_micros=5_000_000, key=f"d-{run.id}", actor="ada", now=100.0)
        for old, new in [
            (RunState.DRAFT, RunState.DRYRUN),
            (RunState.DRYRUN, RunState.AWAITING_FUNDING),
            (RunState.AWAITING_FUNDING, RunState.FUNDED),
            (RunState.FUNDED, RunState.LAUNCHING),
        ]:
            runs.transition(conn, run.id, old=old, new=new, actor="ada", now=101.0)
        ledger.hold(conn, run, 1_000_000, key=f"h-{run.id}", actor="ada", now=101.0)
        attempts.create(conn, run, kind="train", usd_micros_per_hour=1_000_000, price={}, now=102.0)
    return runs.get_run(store, run.id)


def refusals(store: Store, run: Run) -> Iterator[Callable[[], Any]]:
    """Everything that is not looking, pausing or cancelling, by one of each kind."""
    who = {"actor": "ada"}
    yield lambda: verbs.deposit(store, project="p", usd_micros=1_000_000, key="d", **who)
    yield lambda: verbs.fund(store, run.id, usd_micros=1_000_000, key="f", **who)
    yield lambda: verbs.plan(store, spec={"depth": 1, "num_steps": 2, "data": "stdlib", "vocab_size": 512}, **who)
    yield lambda: verbs.write_note(store, project="p", body="b", **who)
    yield lambda: leases.acquire(store, "supervisor", holder="h", ttl_s=30.0)


def test_an_older_database_is_read_and_runs_are_paused_and_cancelled_there(
    older: Store, make_run: Callable[..., Run]
) -> None:
    run, other = living_run(older, make_run), living_run(older, make_run, name="another")
    assert [each.run.name for each in [verbs.view(older, run.id), verbs.view(older, other.id)]] == ["a run", "another"]
    assert {each.id for each in verbs.overview(older)} == {run.id, other.id}
    seen = verbs.lab(older, "p")
    assert seen.wallet.held_usd_micros == 2_000_000
    assert seen.problems == []
    assert verbs.statement(older, "p")
    assert notes.list_notes(older, project="p") == []
    assert verbs.pause(older, run.id, actor="ada").stop_requested == "pause"
    assert verbs.cancel(older, other.id, actor="ada").stop_requested == "cancel"
    with older.begin(any_version=True) as conn:
        resting = make_run(conn, name="resting")
    assert verbs.cancel(older, resting.id, actor="ada").state is RunState.CANCELLED
    for ask in refusals(older, run):
        with pytest.raises(Refused, match=f"at version {older.version}") as caught:
            ask()
        assert caught.value.next == "patron migrate"
    assert not supervisor.ensure_running(older)
    assert version_of(older) == older.version


def test_a_newer_checkout_that_only_looks_changes_nothing(home: Path) -> None:
    home.mkdir()
    made(f"sqlite:///{home}/patron.db", RELEASED)
    schema = "SELECT * FROM sqlite_master ORDER BY name"
    before = sqlite3.connect(home / "patron.db").execute(schema).fetchall()
    done = subprocess.run([*PATRON, "lab", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["lab"] == labs.BEFORE_IDS
    assert done.stderr.endswith("next: patron migrate\n")
    refused = subprocess.run([*PATRON, "lab", "--deposit", "1", "--yes", "--json"], capture_output=True, text=True)
    assert refused.returncode == Refused.exit_code
    assert json.loads(refused.stdout)["error"]["next"] == "patron migrate"
    connection = sqlite3.connect(home / "patron.db")
    assert connection.execute(schema).fetchall() == before
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(RELEASED,)]


def test_a_newer_database_is_read_and_runs_are_paused_and_cancelled_there(
    store: Store, make_run: Callable[..., Run]
) -> None:
    run, other = living_run(store, make_run), living_run(store, make_run, name="another")
    with store.begin() as conn:  # what a migration of tomorrow may do
        conn.execute(sa.text("ALTER TABLE runs ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'"))
        conn.execute(sa.text("CREATE TABLE tomorrow (id TEXT)"))
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    url = store.url.render_as_string(hide_password=False)
    again = Store.open(url)
    for at_work in (store, again):  # a process that was there before, and one that comes now
        assert {each.id for each in verbs.overview(at_work)} == {run.id, other.id}
        for ask in refusals(at_work, run):
            with pytest.raises(Refused, match="at version 9999, newer than this Patron") as caught:
                ask()
            assert caught.value.next == "git pull"
    assert verbs.pause(again, run.id, actor="ada").stop_requested == "pause"
    assert verbs.cancel(store, other.id, actor="ada").stop_requested == "cancel"
    assert not supervisor.ensure_running(again)
    with store.begin(any_version=True) as conn:
        conn.execute(sa.text("UPDATE lab SET readable_from = '9000'"))
    with pytest.raises(Unavailable, match=f"9999, this Patron knows versions up to {upgrade.HEAD}"):
        Store.open(url)
    again.close()


def test_who_is_at_a_post_leaves_it_when_the_database_moves_on(sqlite_store: Store) -> None:
    watch = post.Watch(post=post.SUPERVISOR, store=sqlite_store, lock=None)

    def migrated_meanwhile() -> bool:
        with sqlite_store.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with sqlite_store.begin():
            pass
        return True

    post.serve(watch, migrated_meanwhile, is_needed=lambda: True, every_s=0.0)  # returns


def test_migrating_is_refused_while_attempts_live_and_keeps_a_backup(
    older: Store, make_run: Callable[..., Run], home: Path
) -> None:
    run = living_run(older, make_run)
    with pytest.raises(Refused, match=rf"1 attempts are live, of a run \({run.id}\)") as caught:
        migrate()
    assert caught.value.next == f"patron watch --run {run.id} --pause --yes"
    assert version_of(older) == older.version
    with older.begin(any_version=True) as conn:
        conn.execute(sa.text("UPDATE attempts SET state = 'ended'"))
    done = migrate()
    assert (done.old, done.new) == (older.version, upgrade.HEAD)
    assert done.backup is not None
    assert done.backup.stat().st_size > 1000
    if older.dialect == "sqlite":
        kept = Store.open(f"sqlite:///{done.backup}")
        assert kept.version == older.version
        assert runs.get_run(kept, run.id).name == "a run"
        kept.close()
    new = Store.open()
    assert runs.get_run(new, run.id).name == "a run"
    if older.version < "0005":
        assert labs.lab_id(new) != labs.BEFORE_IDS
    verbs.deposit(new, project="p", usd_micros=1_000_000, key="after", actor="ada")
    assert migrate().backup is None  # there is nothing to do
    new.close()


def test_what_nobody_supervises_any_more_is_handed_on_when_asked(home: Path, make_run: Callable[..., Run]) -> None:
    home.mkdir()
    made(f"sqlite:///{home}/patron.db", RELEASED)
    before = Store.open()
    run = living_run(before, make_run)
    assert migrate(live=True, backup=False).backup is None
    new = Store.open()
    assert leases.acquire(new, "supervisor", holder="h", ttl_s=30.0)
    assert runs.get_run(new, run.id).state is RunState.LAUNCHING
    before.close()
    new.close()


def test_without_pg_dump_the_command_is_said(
    empty_postgres_url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRON_DATABASE_URL", made(empty_postgres_url, RELEASED))
    monkeypatch.setattr(backup, "_pg_dump", lambda: None)
    with pytest.raises(Refused, match=r"pg_dump --format=custom --file .* --dbname ") as caught:
        migrate()
    assert caught.value.next == "patron migrate --no-backup"
    assert migrate(backup=False).new == upgrade.HEAD


def test_a_migration_waits_for_writers_and_no_writer_of_before_writes_after_it(
    empty_postgres_url: str, home: Path, monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]
) -> None:
    """A checkout of before is in the middle of a launch: the migration sees it, or the launch is refused."""
    monkeypatch.setenv("PATRON_DATABASE_URL", made(empty_postgres_url, OLDER[-1]))
    before = Store.open()
    monkeypatch.setattr(upgrade, "check_writable", _of_before(upgrade.check_writable))
    said: list[BaseException] = []

    def migrating() -> None:
        try:
            migrate(backup=False)
        except Refused as error:
            said.append(error)

    thread = threading.Thread(target=migrating)
    with before.begin() as conn:
        run = make_run(conn)
        thread.start()
        _wait_for_lock(empty_postgres_url, thread)
        attempts.create(conn, run, kind="train", usd_micros_per_hour=1, price={}, now=1.0)
    thread.join(60)
    assert "1 attempts are live" in str(said[0])
    with before.begin() as conn:
        conn.execute(sa.text("UPDATE attempts SET state = 'ended'"))
    assert migrate(backup=False).new == upgrade.HEAD
    with pytest.raises(upgrade.OtherVersion), before.begin():
        pass
    before.close()


def _of_before(check: Callable[[Connection], None]) -> Callable[[Connection], None]:
    """`check_writable` as the checkout of the version before has it."""

    def checked(conn: Connection) -> None:
        if upgrade.version(conn) != OLDER[-1]:
            check(conn)
            raise upgrade.OtherVersion("9999")

    return checked


def _wait_for_lock(url: str, waits: threading.Thread) -> None:
    engine = sa.create_engine(url)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'alembic_version'::regclass")
    with engine.connect() as conn:
        while waits.is_alive() and not conn.execute(waiting).scalar():
            conn.rollback()
    engine.dispose()


def test_one_lab_has_one_id_however_it_is_spelled(
    sqlite_store: Store, postgres_store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    folder = postgres_store.url.query["host"]
    tunnels = f"postgresql://patron:x@/{postgres_store.url.database}?host={folder}&application_name=tunnel"
    for store, spelled in ((sqlite_store, "sqlite:///./patron.db"), (postgres_store, tunnels)):
        other = Store.open(spelled)
        assert labs.lab_id(other) == labs.lab_id(store) != labs.BEFORE_IDS
        other.close()
    assert Store.open(f"sqlite:///{home}/another.db").version == upgrade.HEAD
    assert labs.lab_id(Store.open(f"sqlite:///{home}/another.db")) != labs.lab_id(sqlite_store)
    with pytest.raises(Exception, match=r"(?i)constraint|refused a row"), sqlite_store.begin() as conn:
        conn.execute(sa.text("INSERT INTO lab VALUES (2, 'x', '0001', 1.0)"))


def test_backup_while_somebody_writes(store: Store, make_run: Callable[..., Run], home: Path) -> None:
    run = make_run(store)
    environ = os.environ | {"PATRON_DATABASE_URL": store.url.render_as_string(hide_password=False)}
    with store.begin() as conn:
        make_run(conn, name="not committed yet")
        command = [*PATRON, "backup", "--to", str(home / "copy"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert json.loads(done.stdout) == {"backup": str(home / "copy")}
    assert (home / "copy").stat().st_mode & 0o077 == 0
    again = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert "is there already" in json.loads(again.stdout)["error"]["message"]
    if store.dialect == "sqlite":
        copy = Store.open(f"sqlite:///{home}/copy")
        assert [each.id for each in runs.list_runs(copy)] == [run.id]
        copy.close()
