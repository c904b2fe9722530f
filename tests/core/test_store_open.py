"""Opening the store: migrations, several at once, and what a broken database says."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from patron_core import settings
from patron_core.errors import Busy, InternalError, InvalidInput, PatronError, Unavailable
from patron_core.states import RunState
from patron_core.store import Store, engine, notes, runs, upgrade
from patron_core.store.schema import APPEND_ONLY, metadata


def test_open_makes_the_home_and_the_database(home: Path) -> None:
    assert not home.exists()
    store = Store.open()
    assert runs.list_runs(store) == []
    assert (home / "patron.db").exists()
    with store.read() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    store.close()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "patron_core.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(_alembic()).get_current_head() == upgrade.HEAD


def test_migrations_only_add(tmp_path: Path) -> None:
    """Else checkouts of before break: make it additive, or raise READABLE_FROM in upgrade.py to its number."""
    url = f"sqlite:///{tmp_path}/x.db"
    before: dict[str, dict[str, Any]] = {}
    engine = sa.create_engine(url)
    config = _alembic()
    for version in sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions()):
        with engine.begin() as conn:
            config.attributes["connection"] = conn
            command.upgrade(config, version)
        inspector = sa.inspect(engine)
        now = {name: {c["name"]: c for c in inspector.get_columns(name)} for name in inspector.get_table_names()}
        for table, columns in before.items() if version > upgrade.READABLE_FROM else ():
            assert columns.keys() <= now[table].keys(), f"{version} takes columns of {table} away"
            for name, column in now[table].items():
                if name in columns:
                    assert str(column["type"]) == str(columns[name]["type"]), f"{version} changes {table}.{name}"
                else:
                    free = column["nullable"] or column["default"] is not None
                    assert free, f"{version}: {table}.{name} is neither null nor has a server default"
        before = now
    engine.dispose()


def test_migrations_make_the_schema(store: Store) -> None:
    """compare_metadata sees tables, columns, types, nullability, indexes and foreign keys."""
    with store.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []


def test_migrations_from_empty_on_postgresql(empty_postgres_url: str) -> None:
    first, second = Store.open(empty_postgres_url), Store.open(empty_postgres_url)
    assert runs.list_runs(first) == runs.list_runs(second) == []
    first.close()
    second.close()


def test_an_up_to_date_database_needs_no_alembic(sqlite_store: Store) -> None:
    code = "import sys; from patron_core.store import Store; Store.open(); print('alembic' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_a_forced_ascii_locale_stores_words_as_they_are(sqlite_store: Store) -> None:
    """Such as a cron job's: argv arrives as surrogates, and what was stored as "na??ve" stayed so for good."""
    code = (
        "import sys; from patron_core import verbs; from patron_core.store import Store;"
        "verbs.write_note(Store.open(), project='p', body=sys.argv[1], title='t', kind='result', actor='ada')"
    )
    forced = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    subprocess.run(
        [sys.executable, "-c", code, "naïve \N{GREEK SMALL LETTER ALPHA}"], check=True, env=os.environ | forced
    )
    (note,) = notes.list_notes(sqlite_store, project="p")
    assert note.body == "naïve α"


def _open_and_write(url: str, barrier: threading.Barrier, number: int) -> None:
    barrier.wait()
    store = Store.open(url)
    with store.begin() as conn:
        conn.exec_driver_sql(
            f"INSERT INTO leases (name, holder, expires_at, ttl_s) VALUES ('lease {number}', 'x', 1.0, 1.0)"
        )
    store.close()


def _race_to_open(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    openers = [context.Process(target=_open_and_write, args=(url, barrier, number)) for number in range(3)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(timeout=60)
    assert [opener.exitcode for opener in openers] == [0] * 3
    store = Store.open(url)
    with store.read() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM leases")).scalar() == 3
        assert conn.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar() == 1
    store.close()


def test_processes_open_a_fresh_sqlite_file_at_once(home: Path) -> None:
    _race_to_open(settings.database_url())


def test_processes_open_a_fresh_postgresql_database_at_once(empty_postgres_url: str) -> None:
    _race_to_open(empty_postgres_url)


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    def fail_half_way() -> None:
        with store.begin() as conn:
            conn.execute(sa.text("INSERT INTO leases (name, holder, expires_at, ttl_s) VALUES ('a', 'b', 1.0, 1.0)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with store.read() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM leases")).scalar() == 0


def test_a_read_sees_one_moment_and_cannot_write(store: Store) -> None:
    insert = sa.text("INSERT INTO leases (name, holder, expires_at, ttl_s) VALUES ('a', 'b', 1.0, 1.0)")
    count = sa.text("SELECT count(*) FROM leases")
    with store.read() as reader:
        assert reader.execute(count).scalar() == 0
        with store.begin() as writer:
            writer.execute(insert)
        assert reader.execute(count).scalar() == 0
    with pytest.raises((PatronError, sa.exc.DBAPIError), match=r"(?i)read.?only"), store.read() as reader:
        reader.execute(insert)
    with store.begin() as writer:
        assert writer.execute(count).scalar() == 1


def test_a_nested_write_is_a_bug_and_says_so(store: Store) -> None:
    with store.begin(), pytest.raises(InternalError, match="inside another"), store.begin():
        pass
    with store.begin():  # and the flag is down again
        pass


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_append_only_tables_refuse_changes(store: Store, table: str) -> None:
    column = {"entries": "account", "transfers": "memo", "run_events": "actor"}.get(table, "time")
    with store.begin() as conn:
        _fill(conn)
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises((PatronError, sa.exc.DBAPIError), match="append-only"), store.begin() as conn:
            conn.execute(sa.text(statement))


def _fill(conn: sa.Connection) -> None:
    """A row in every append-only table: SQLite's triggers speak for each row."""
    run = {"id": "r1", "project": "p", "name": "n", "state": "draft", "detail": "", "workload": "w", "spec": {}}
    run |= {"spec_hash": "h", "executor": "local", "run_dir": "/r", "failures": 0, "actor": "a"}
    note = {"kind": "note", "title": "", "body": "", "links": {}, "actor": "a"}
    transfer = {"id": 1, "project": "p", "key": "k", "kind": "deposit", "usd_micros": 1, "asked_usd_micros": 1}
    transfer |= {"source": "outside:p", "target": "wallet:p", "memo": "", "actor": "a", "time": 1.0}
    made = {"created_at": 1.0, "updated_at": 1.0}
    rows = {
        "runs": {**run, **made},
        "run_events": {"run_id": "r1", "time": 1.0, "actor": "a", "kind": "k", "detail": {}},
        "notes": {"id": "n1", "project": "p", "revision": 1, **made, **note},
        "note_revisions": {"note_id": "n1", "revision": 1, "time": 1.0, **note},
        "transfers": transfer,
        "entries": {"transfer_id": 1, "account": "wallet:p", "project": "p", "book": "wallet", "usd_micros": 1},
        "searches": {"id": "s1", "project": "p", "key": "k", "question": {}, "state": "s", **made},
        "search_decisions": {"search_id": "s1", "number": 1, "decision": {}, "time": 1.0},
        "audit": {"time": 1.0, "actor": "a", "origin": "script", "verb": "v", "outcome": "done", "detail": {}},
    }
    for table, values in rows.items():
        conn.execute(sa.insert(metadata.tables[table]).values(**values))


def test_foreign_keys_hold(store: Store) -> None:
    values = {"run_id": "r-none", "mlflow_run_id": "m", "position": {}, "updated_at": 1.0}
    with pytest.raises(InternalError, match="refused a row"), store.begin() as conn:
        conn.execute(sa.insert(metadata.tables["mirrors"]).values(**values))


def test_a_locked_database_says_so(sqlite_store: Store) -> None:
    blocker = sqlite3.connect(str(sqlite_store.url.database), isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    impatient = Store.open(patience_s=0.01)
    with pytest.raises(Unavailable, match="busy") as caught, impatient.begin():
        pass
    assert "fuser" in caught.value.next
    assert runs.list_runs(impatient) == []  # readers don't wait for writers
    blocker.execute("ROLLBACK")
    blocker.close()
    with impatient.begin():
        pass
    impatient.close()


def test_a_lock_on_postgresql_is_not_waited_for_for_ever(postgres_store: Store, make_run) -> None:
    run = make_run(postgres_store)
    impatient = Store.open(str(postgres_store.url), patience_s=0.01)
    with postgres_store.begin() as holder:
        runs.lock(holder, run.id)
        with pytest.raises(Unavailable, match="busy"), impatient.begin() as conn:
            runs.lock(conn, run.id)
    impatient.close()


def test_a_client_that_froze_in_a_transaction_holds_nobody_up_for_long(
    postgres_store: Store, make_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that was closed in the middle of a write: PostgreSQL ends its transaction, in seconds by default."""
    assert engine.IDLE_IN_TRANSACTION_S <= 15
    monkeypatch.setattr(engine, "IDLE_IN_TRANSACTION_S", 0.3)
    run = make_run(postgres_store)
    frozen = Store.open(postgres_store.url.render_as_string(hide_password=False))
    begun, over = threading.Event(), threading.Event()
    raised: list[Exception] = []

    def freeze() -> None:
        try:
            with frozen.begin() as conn:
                runs.set_fields(conn, run.id, now=1.0, failures=7)
                begun.set()
                over.wait(60)
                runs.set_fields(conn, run.id, now=2.0, failures=8)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=freeze)
    thread.start()
    assert begun.wait(60)
    with postgres_store.begin() as conn:  # waits for the frozen one's lock, for a third of a second
        runs.set_fields(conn, run.id, now=3.0, failures=1)
    over.set()
    thread.join(60)
    assert runs.get_run(postgres_store, run.id).failures == 1
    assert [type(error) for error in raised] == [Busy]
    frozen.close()


def test_a_server_that_restarts_is_waited_for_once_it_has_answered(
    mortal_postgres, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql+psycopg://patron@/postgres?host={mortal_postgres.folder}"
    store = Store.open(url, patience_s=60)
    mortal_postgres.stop()
    again = threading.Timer(1.0, mortal_postgres.start)
    again.start()
    assert runs.list_runs(store) == []
    again.join()
    assert any("waited" in record.message for record in caplog.records)
    store.close()


def test_a_full_disk_says_so_and_loses_nothing(sqlite_store: Store, make_run) -> None:
    first = make_run(sqlite_store)

    def write_too_much() -> None:
        with sqlite_store.begin() as conn:
            pages = conn.exec_driver_sql("PRAGMA page_count").scalar()
            conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            runs.set_fields(conn, first.id, now=200.0, result={"text": "x" * 100_000})

    with pytest.raises(Unavailable, match="disk is full") as caught:
        write_too_much()
    assert "df" in caught.value.next
    assert runs.get_run(sqlite_store, first.id) == first


def test_not_a_database(home: Path) -> None:
    home.mkdir()
    (home / "patron.db").write_text("this is a letter to my grandmother " * 100)
    with pytest.raises(Unavailable, match="not a SQLite database"):
        Store.open()


def test_a_file_where_the_folder_should_be(home: Path) -> None:
    home.write_text("")
    with pytest.raises(Unavailable, match="cannot be made") as caught:
        Store.open()
    assert "PATRON_HOME" in caught.value.next


def test_a_folder_where_the_file_should_be(home: Path) -> None:
    (home / "patron.db").mkdir(parents=True)
    with pytest.raises(Unavailable, match="cannot be opened"):
        Store.open()


def test_no_server(home: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer") as caught:
        Store.open(f"postgresql://ada:secret@/lab?host={tmp_path}")
    assert "pg_isready" in caught.value.next
    assert "secret" not in str(caught.value.to_dict())


def test_a_dropped_connection_is_replaced(postgres_store: Store, make_run) -> None:
    make_run(postgres_store)
    with pytest.raises(Unavailable, match="does not answer"), postgres_store.begin() as conn:
        conn.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert len(runs.list_runs(postgres_store)) == 1


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:", ""])
def test_urls_that_no_store_takes(home: Path, url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store.open(url)
    assert "PATRON_DATABASE_URL" in caught.value.next


def test_a_forked_process_gets_connections_of_its_own(store: Store, make_run) -> None:
    make_run(store)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: make_run(store, name="of the child"))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert {run.name for run in runs.list_runs(store)} == {"a run", "of the child"}


def test_what_is_no_finite_number_becomes_null(store: Store, make_run) -> None:
    run = make_run(store)
    result = {"loss": float("nan"), "all": [1.5, float("inf")], "text": "a\x00b"}
    with store.begin() as conn:
        runs.set_fields(conn, run.id, now=1.0, result=result)
    assert runs.get_run(store, run.id).result == {"loss": None, "all": [1.5, None], "text": "a\x00b"}


def test_text_that_not_every_database_takes(store: Store, make_run) -> None:
    run = make_run(store)
    with store.begin() as conn:
        states = {"old": RunState.DRAFT, "new": RunState.FAILED, "actor": "ada", "now": 1.0}
        assert runs.transition(conn, run.id, **states, detail="a\x00b \ud800 ✓").detail == "ab ? ✓"


def test_threads_share_a_store(store: Store, make_run) -> None:
    def work(number: int) -> None:
        for step in range(5):
            make_run(store, name=f"{number}-{step}")
            runs.list_runs(store)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs.list_runs(store)) == 40


def test_a_copied_home_opens(sqlite_store: Store, make_run, tmp_path: Path) -> None:
    run = make_run(sqlite_store)
    sqlite_store.close()
    shutil.copytree(settings.home(), tmp_path / "copy")
    copy = Store.open(f"sqlite:///{tmp_path / 'copy' / 'patron.db'}")
    assert runs.get_run(copy, run.id) == run
    copy.close()
