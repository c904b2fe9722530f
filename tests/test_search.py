"""The README's first command in small: the script is killed in the middle, started again, and answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patron_core import verbs
from patron_core.store import Store, ledger, runs, searches

ROOT = Path(__file__).parents[1]
BUDGET_USD_MICROS = 800_000
FLAGS = (
    *("--minutes", "0.8", "--budget", "0.8", "--depths", "1,2", "--max-dryruns", "2", "--max-runs", "2"),
    *("--time-limit-minutes", "8", "--min-gain-bpb", "0", "--vocab-size", "512", "--sequence-len", "64"),
    *("--batch-tokens", "1024", "--eval-tokens", "4096", "--key", "night", "--json"),
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Real text that is quick to prepare: some of the standard library's own sources."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in sorted(Path(os.__file__).parent.glob("*.py"))[:160]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def start(corpus: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "notebooks" / "search.py"), *FLAGS, "--data", f"path:{corpus}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_alive(process: subprocess.Popen[str], deadline: float) -> bool:
    return process.poll() is None and time.monotonic() < deadline


@pytest.mark.timeout(500)
def test_a_search_that_is_killed_goes_on_under_its_key(living_home: Path, corpus: Path) -> None:
    first = start(corpus)
    deadline = time.monotonic() + 180
    while not (living_home / "patron.db").exists():
        assert is_alive(first, deadline), first.communicate()
        time.sleep(0.2)
    store = Store.open()
    try:
        while (found := searches.find(store, project="lab", key="night")) is None or len(found.decisions) < 4:
            assert is_alive(first, deadline), first.communicate()
            time.sleep(0.2)
        first.send_signal(signal.SIGKILL)
        first.communicate()

        out, err = (second := start(corpus)).communicate(timeout=300)
        assert second.returncode == 0, err
        report = json.loads(out)  # exactly one JSON object, and nothing else
        assert report["search"] == found.id
        assert report["decisions"][: len(found.decisions)] == found.decisions
        assert report["best_run"] in [row["run"] for row in report["runs"]]
        hopeless = {said["run"] for said in report["decisions"] if said["kind"] == "stop_early"}
        assert report["best_run"] not in hopeless
        for row in report["runs"]:
            assert row["state"] == ("cancelled" if row["run"] in hopeless else "succeeded"), err
            assert row["predicted_bpb_low"] < row["predicted_bpb"] < row["predicted_bpb_high"]
        assert len(runs.list_runs(store, project="lab")) == 2  # a depth is planned once, however often it is asked

        wallet = verbs.wallet(store)
        assert report["spent_usd_micros"] == wallet.spent_usd_micros <= BUDGET_USD_MICROS
        assert wallet.deposited_usd_micros == BUDGET_USD_MICROS
        assert wallet.held_usd_micros == 0
        assert ledger.verify(store) == []
        kinds = [note.kind for note in verbs.read_notes(store, project="lab")]
        assert (kinds.count("result"), kinds.count("hypothesis") >= 1) == (1, True)
    finally:
        store.close()
