"""The notebook that shows how one of your own is written: it spends nothing until it is told to, and is sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import labs

from patron_core import verbs
from patron_core.store import Store, ledger

FILE = labs.NOTEBOOKS[0].parent / "own" / "lr_study.py"


def test_it_says_what_it_would_take_and_spends_nothing(home: Path) -> None:
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, check=False, cwd=FILE.parents[2])
    assert done.returncode == 0, done.stderr
    assert "6 runs and 1 dryrun: about" in done.stdout
    store = Store.open()
    assert verbs.run_table(store) == []
    assert ledger.statement(store, "lab") == []
    store.close()
