"""Scripts as programs of their own where something is not there: one JSON object, the right code, and UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patron_core.store import Run, Store, notes
from patron_core.ui.commands import is_command

ROOT = Path(__file__).parents[2]


def run(name: str, *argv: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "notebooks" / f"{name}.py"), *argv]
    return subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=os.environ | environ)


def error(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert done.stdout.count(b"\n") == 1, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    said: dict[str, Any] = json.loads(done.stdout)["error"]
    assert is_command(said["next"])
    return said


@pytest.mark.parametrize("name", ["0_lab", "1_estimate"])
def test_a_home_that_cannot_be_used(name: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(name, "--json", PATRON_HOME=str(tmp_path / "file" / "lab"))
    if name == "1_estimate":
        assert done.returncode == 0  # it asks no store where there is none
        return
    assert done.returncode == 3
    assert error(done)["next"].startswith("export PATRON_HOME=")
    in_text = run(name, PATRON_HOME=str(tmp_path / "file" / "lab"))
    assert in_text.stderr.startswith(b"unavailable: ")
    assert b"\nnext: export PATRON_HOME=" in in_text.stderr


def test_a_database_that_is_down(home: Path) -> None:
    done = run("4_watch", "--run", "r1", "--json", PATRON_DATABASE_URL="postgresql+psycopg://ada@127.0.0.1:1/lab")
    assert done.returncode == 5
    said = error(done)
    assert (said["code"], said["retryable"]) == ("busy", True)
    assert said["next"] == "pg_isready -h 127.0.0.1"


def test_a_locale_that_forces_ascii(runs: dict[str, Run], store: Store) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    added = run("6_journal", "--add", "na\u00efve, \u6587", "--run", runs["oom"].id, **ascii_only)
    assert added.returncode == 0, added.stderr
    (note,) = notes.list_notes(store, project="lab", run_id=runs["oom"].id)
    assert note.body == "na\u00efve, \u6587"
    shown = run("6_journal", "--run", runs["oom"].id, **ascii_only)
    assert "na\u00efve, \u6587" in shown.stdout.decode("utf-8")


def test_a_locale_that_forces_ascii_and_folders_with_letters_of_their_own(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "k\u00f6r\u6587"
    there.mkdir()
    (there / "a.txt").write_text("word " * 200_000)
    forced = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATRON_HOME": str(there / "home")}
    size = ("--depth", "1", "--steps", "10", "--vocab-size", "512", "--sequence-len", "64")
    asked = run("2_dryrun", *size, "--data", f"path:{there}", "--name", "\u6587", "--json", **forced)
    assert error(asked)["code"] == "confirmation_needed", asked.stderr
    assert run("0_lab", "--deposit", "1", "--yes", "--json", **forced).returncode == 0
    assert (there / "home" / "patron.db").exists()
    refused = run("2_dryrun", *size, "--data", f"path:{there}/none", "--yes", "--deposit", "1", "--json", **forced)
    assert f"path:{there}/none" in error(refused)["message"]
