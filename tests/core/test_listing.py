"""`patron runs`: the list with its filters, and metrics, logs, checkpoints and ledger of runs, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patron_core import verbs
from patron_core.commands import main
from patron_core.states import RunState
from patron_core.store import Run, Store, ledger, runs, tags


@pytest.fixture
def patron(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.setattr("patron_core.lifecycle.supervisor.ensure_running", lambda store: None)

    def call(*argv: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", sys.stdout)  # a command with --json keeps it for itself
            assert main(["runs", *argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def made(sqlite_store: Store, make_run: Callable[..., Run], tmp_path: Path) -> list[Run]:
    found = [make_run(sqlite_store, name=f"run-{number}", now=100.0 + number) for number in range(3)]
    tags.add(sqlite_store, found[0].id, ["lr", "night"])
    tags.add(sqlite_store, found[1].id, ["lr"])
    with sqlite_store.begin() as conn:
        runs.transition(conn, found[1].id, old=RunState.DRAFT, new=RunState.CANCELLED, actor="ada", now=200.0)
        conn.exec_driver_sql("UPDATE runs SET run_dir = ? WHERE id = ?", (str(tmp_path / "run"), found[0].id))
        ledger.deposit(conn, project="p", usd_micros=500, key="d", actor="ada", now=1.0)
        ledger.hold(conn, found[0], 100, key="h", actor="ada", now=2.0)
    return found


def names(answer: Any) -> list[str]:
    return [run["name"] for run in answer["runs"]]


def test_lists_are_filtered_and_paged(made: list[Run], patron: Callable[..., Any]) -> None:
    assert names(patron()) == ["run-2", "run-1", "run-0"]
    assert names(patron("--tag", "lr")) == ["run-1", "run-0"]
    assert names(patron("--tag", "lr,night")) == ["run-0"]
    assert names(patron("--state", "cancelled,failed")) == ["run-1"]
    assert names(patron("--text", "N-2", "--project", "p")) == ["run-2"]
    first = patron("--limit", "2")
    assert (first["cursor"], names(patron("--limit", "2", "--cursor", "2"))) == (2, ["run-0"])
    assert patron("--limit", "1", "--fields", "cursor") == {"cursor": 1}


def test_metrics_log_checkpoints_and_ledger_of_a_run(
    made: list[Run], patron: Callable[..., Any], tmp_path: Path
) -> None:
    attempt = f"{made[0].id}-train-1"
    lines: list[dict[str, Any]] = [{"kind": "start", "seq": 0, "step": None, "num_steps": 5}]
    lines += [{"kind": "metrics", "seq": n, "step": n, "metrics": {"train/loss": 3.0 - n}} for n in range(1, 6)]
    folder = tmp_path / "run" / "events"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line | {"attempt": attempt, "time": 1.0}) + "\n" for line in lines)
    (folder / f"{attempt}-000000.jsonl").write_text(text)
    seen = patron("--run", "run-0", "--keys", "train/loss", "--since-step", "3")["runs"]["run-0"]
    assert [point[:2] for point in seen["metrics"]["train/loss"]] == [[4, -1.0], [5, -2.0]]
    seen = patron("--run", "run-0", "--ledger", "--checkpoints", "--log", "5")["runs"]["run-0"]
    assert [line["usd_micros"] for line in seen["transfers"]] == [100]
    assert (seen["checkpoints"], seen["log"], "metrics" in seen) == ([], [], False)
    assert [line["kind"] for line in patron("--ledger", "--project", "p")["transfers"]] == ["hold", "deposit"]


def test_progress_is_json_lines_of_figures_said_once(
    sqlite_store: Store, made: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from patron_core.ui.script import Arguments, open_command

    monkeypatch.setattr(sys, "stdout", sys.stdout)
    session = open_command(Arguments, ["--json"], prog="watch", description="")
    seen = verbs.view(sqlite_store, made[0].id)
    session.follow("it begins", seen)
    session.progress(seen)
    said, figures = map(json.loads, capsys.readouterr().err.splitlines())
    assert said == {"said": "it begins"}
    assert (figures["run"], figures["state"], figures["step"]) == (made[0].id, "draft", 0)
