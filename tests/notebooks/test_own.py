"""The notebook that shows how one of your own is written: it spends nothing until it is told to, and is sound."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import labs
import pytest

from patron_core import verbs
from patron_core.commands.reference import CHEAT_SHEET
from patron_core.store import Run, Store, ledger
from patron_core.store import tags as store_tags

FILE = labs.NOTEBOOKS[0].parent / "own" / "lr_study.py"


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FILE), *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=FILE.parents[2])


def test_the_lines_of_the_cheat_sheet_that_look_do_so(runs: dict[str, Run]) -> None:
    """Those that launch are the study's: tests/core/test_reference.py."""
    known: dict[str, Any] = {}
    exec(CHEAT_SHEET[: CHEAT_SHEET.index("sweep = ")], known)
    assert known["run"].id == runs["better"].id
    assert set(known["runs"].ids) == {run.id for run in runs.values()}
    lab = known["lab"]
    assert lab.metrics(known["run"], ["val/bpb"], x=["step", "usd"])["value"].len() == 6
    assert [note.run_id for note in verbs.notes_of(lab.store, runs["better"].id)] == [runs["better"].id]
    lab.close()


def test_told_to_it_launches_and_what_is_refused_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", "1000")  # no dryrun is to be had for what it may spend
    done = run("--yes")
    assert done.returncode != 0
    assert "Refused" in done.stderr
    store = Store.open()
    assert len(verbs.run_table(store)) == 6
    assert store_tags.counts(store)["lr-study"] == 6
    assert ledger.wallet(store, "lab").spent_usd_micros == 0
    store.close()


def test_it_says_what_it_would_take_and_spends_nothing(home: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert "6 runs and 1 dryrun: about" in done.stdout
    bound, cap = map(float, re.findall(r"\$([\d.]+\d)", done.stdout))
    assert 2 * bound < cap  # on a machine that is busy it holds more than is estimated
    store = Store.open()
    assert verbs.run_table(store) == []
    assert ledger.statement(store, "lab") == []
    store.close()
