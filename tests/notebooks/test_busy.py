"""Scripts and a database that is busy: they wait, say so, and in the end say it in the one shape."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from patron_core import verbs
from patron_core.store import Store

LAB = Path(__file__).parents[2] / "notebooks" / "0_lab.py"


@pytest.fixture
def blocker(home: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who writes, and does not stop."""
    Store.open().close()
    connection = sqlite3.connect(home / "patron.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def script(*flags: str, wait_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(LAB), *flags, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATRON_DATABASE_WAIT_S": str(wait_s)},
    )


def test_a_busy_database_is_waited_for_and_then_exit_5(blocker: sqlite3.Connection) -> None:
    said, err = (process := script("--deposit", "1", "--key", "k", "--yes", wait_s=1.5)).communicate(timeout=100)
    assert process.returncode == 5
    error = json.loads(said)["error"]
    assert (error["code"], error["retryable"]) == ("busy", True)
    assert "busy" in error["message"]
    assert "waited" in err
    assert "Traceback" not in err


def test_what_was_waited_for_is_done_when_its_turn_comes(blocker: sqlite3.Connection, home: Path) -> None:
    process = script("--deposit", "1", "--key", "k", "--yes", wait_s=100)
    assert process.stderr is not None
    waiting = process.stderr.readline()  # it says that it waits, before it has what it wants
    assert "waited" in waiting
    blocker.execute("ROLLBACK")
    said, err = process.communicate(timeout=100)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert json.loads(said)["wallet"]["available_usd_micros"] == 1_000_000


def test_a_server_that_does_not_answer_is_said_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRON_DATABASE_URL", "postgresql://ada@127.0.0.1:1/lab")
    said, err = (process := script(wait_s=100)).communicate(timeout=100)
    assert process.returncode == 5
    assert json.loads(said)["error"]["retryable"] is True
    assert "Traceback" not in err


def test_opening_a_lab_brings_its_supervisor_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot nothing else would."""
    opened: list[Store] = []
    monkeypatch.setattr("patron_core.lifecycle.supervisor.ensure_running", opened.append)
    assert verbs.open_lab(make=False) is None
    assert opened == []
    store = verbs.open_lab()
    assert [each.url for each in opened] == [store.url]
    again = verbs.open_lab(make=False)
    assert again is not None
    assert len(opened) == 2
    for each in opened:
        each.close()


def test_every_notebook_opens_the_lab_by_this_door() -> None:
    for notebook in LAB.parent.glob("*.py"):
        text = notebook.read_text(encoding="utf-8")
        assert "session.open_lab(" in text or "store" not in text  # the doctor needs no lab
        assert "Store.open" not in text
