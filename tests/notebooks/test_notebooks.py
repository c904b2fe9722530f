"""Every notebook: sound to marimo, alive on an empty lab and on a full one, and honest as a script."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from labs import NOTEBOOKS

from patron_core import verbs
from patron_core.errors import Refused
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger
from patron_core.store import runs as store_runs
from patron_core.ui import background
from patron_core.ui.script import Arguments, Session, parse_arguments

ERROR_SHOWN = re.compile(r"<marimo-callout[^>]*danger")
NAMES = [path.stem for path in NOTEBOOKS]
ROOT = NOTEBOOKS[0].parents[1]
Load = Callable[[str], ModuleType]


def as_script(name: str, *argv: str) -> int:
    """Run a notebook as the program, in this process: its exit code."""
    path = str(ROOT / "notebooks" / f"{name}.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *argv])
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "excepthook", sys.excepthook)
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object, and nothing beside it."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1, out
    value: dict[str, Any] = json.loads(out)
    return value


def test_there_is_a_notebook_for_every_step() -> None:
    assert NAMES == [
        "0_lab",
        "1_estimate",
        "2_dryrun",
        "3_launch",
        "4_watch",
        "5_compare",
        "6_journal",
        "7_forecasts",
        "doctor",
        "search",
        "sweep",
    ]


def test_marimo_finds_nothing_wrong() -> None:
    command = [sys.executable, "-m", "marimo", "check", "--strict", str(ROOT / "notebooks")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_it_is_for(name: str, notebook: Load, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    module = notebook(name)
    kinds = [
        v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Arguments) and v is not Arguments
    ]
    (kind,) = kinds
    with pytest.raises(SystemExit) as ended:
        parse_arguments(kind, ["--help"], prog=name, description="")
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out
    assert all(field.description for field in kind.model_fields.values())
    assert not home.exists()


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_on_an_empty_lab(name: str, notebook: Load, home: Path) -> None:
    shown = opened(notebook(name))
    assert "<h1" in shown
    assert not ERROR_SHOWN.search(shown)


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_on_a_lab_with_a_past(name: str, notebook: Load, runs: dict[str, Run]) -> None:
    shown = opened(notebook(name))
    assert not ERROR_SHOWN.search(shown)
    told = {
        "0_lab": "d8-oom",
        "3_launch": "d6-proven",
        "4_watch": "d1-draft",
        "5_compare": "d4-better",
        "7_forecasts": "d4-better",
    }
    assert told.get(name, "<h1") in shown


def test_what_somebody_was_refused_once_is_no_news_on_the_page_of_the_run(notebook: Load, runs: dict[str, Run]) -> None:
    def refuse(_: background.Work) -> None:
        raise Refused("the reader may not", next="patron lab")

    before = background.start(f"dryrun:{runs['proven'].id}", refuse)
    while not before.done:
        time.sleep(0.01)
    module = notebook("2_dryrun")
    session = Session(module.DryrunArguments(run=runs["proven"].id), is_script=False, out=sys.stderr)
    outputs, defs = module.app.run(defs={"args": session.args, "session": session})
    defs["store"].close()
    shown = "".join(getattr(output, "text", "") for output in outputs)
    assert "d6-proven" in shown
    assert "the reader may not" not in shown


def opened(module: ModuleType) -> str:
    """What a page would show, as an app on its defaults."""
    outputs, defs = module.app.run()
    if defs.get("store") is not None:
        defs["store"].close()
    return "".join(getattr(output, "text", "") for output in outputs)


def test_estimate_answers_the_readmes_question_and_makes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_script("1_estimate", "--json") == 0
    rows = answer(capsys)["estimates"]
    assert [(row["depth"], row["device"]) for row in rows] == [(d, "A100-40GB") for d in (6, 8, 10, 12)]
    assert [row["verdict"] for row in rows][2:] == ["sweet_spot", "over_budget"]
    assert not home.exists()


def test_estimate_shows_every_verdict_in_words(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("1_estimate", "--depths", "2,4", "--devices", "local,L4", "--data", "stdlib") == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") > 6
    assert "L4" in shown


def test_estimate_says_where_to_run_and_why_not_elsewhere(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--devices", "A100-40GB,H100", "--depths", "8,30", "--fallback-prices", "--max-usd-per-hour", "5"]
    assert as_script("1_estimate", *given, "--json") == 0
    found = answer(capsys)
    assert found["prices"]["source"] == "fallback table"
    fits, too_large = found["placements"]
    assert fits["placement"]["chosen"]["price"]["usd_micros_per_hour"] <= 5_000_000
    reasons = {option["refused_for"]: option["why_not"] for option in fits["placement"]["refused"]}
    assert "above the cap of $5.00" in reasons["hourly cap"]
    assert too_large["placement"] is None
    assert too_large["error"]["code"] == "refused"
    assert as_script("1_estimate", *given) == 0
    assert "dated table" in capsys.readouterr().out


def test_an_unknown_device_is_refused_with_the_names_there_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("1_estimate", "--devices", "abacus", "--json") == 2
    assert "A100-40GB" in answer(capsys)["error"]["message"]


def test_lab_says_what_waits_and_what_it_costs(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("0_lab", "--json") == 0
    said = answer(capsys)
    assert set(said["attention"]) == {runs["proven"].id, runs["oom"].id}
    (failed,) = [one for one in said["waiting"] if one["run"] == runs["oom"].id]  # its last word knows no better
    assert failed["why"].endswith("Write down what was learnt.")
    assert said["problems"] == []
    assert said["burn_usd_micros_per_hour"] == 100_000


def test_watch_ends_with_0_only_when_the_run_succeeded(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_script("4_watch", "--run", runs["better"].id, "--json") == 0
    assert answer(capsys)["val_bpb"] == pytest.approx(1.741, abs=0.1)
    assert as_script("4_watch", "--run", runs["oom"].id, "--json") == 6
    said = answer(capsys)
    assert (said["state"], said["reason"]) == ("failed", "cuda_oom")
    assert said["next"]


def test_watch_shows_what_the_model_says(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("4_watch", "--run", runs["better"].id, "--json") == 0
    first, second = answer(capsys)["samples"]
    assert first == {"prompt": "import ", "text": "os\nimport sys", "end": "end of document"}
    assert second["text"] == ")é" * 80
    assert as_script("4_watch", "--run", runs["better"].id) == 0
    shown = capsys.readouterr().out
    assert "os⏎import sys" in shown
    assert f"{')é' * 54})…" in shown
    assert as_script("4_watch", "--run", runs["running"].id, "--no-follow", "--json") == 0
    assert answer(capsys)["samples"] == []


def test_watch_looks_once_or_for_a_while(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("4_watch", "--run", runs["running"].id, "--no-follow", "--json") == 0
    assert answer(capsys)["step"] == 150
    assert as_script("4_watch", "--run", runs["running"].id, "--timeout-s", "0.01") == 7
    assert "step 150 of 400" in capsys.readouterr().out


def test_cancelling_needs_a_yes(runs: dict[str, Run], store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    draft = runs["draft"].id
    assert as_script("4_watch", "--run", draft, "--cancel", "--json") == 4
    assert answer(capsys)["error"]["code"] == "confirmation_needed"
    assert store_runs.get_run(store, draft).state is RunState.DRAFT
    assert as_script("4_watch", "--run", draft, "--cancel", "--yes", "--no-follow", "--json") == 0
    assert answer(capsys)["state"] == "cancelled"


def test_launching_without_a_yes_holds_nothing(
    runs: dict[str, Run], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ledger.wallet(store, "lab")
    assert as_script("3_launch", "--run", runs["proven"].id, "--json") == 4
    assert "would be held" in answer(capsys)["error"]["message"]
    assert ledger.wallet(store, "lab") == before
    assert len(attempts.for_run(store, runs["proven"].id)) == 1


def test_a_run_past_launching_is_refused(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("3_launch", "--run", runs["better"].id, "--json") == 3
    assert as_script("3_launch", "--run", "nobody", "--yes") == 2
    assert as_script("3_launch", "--json") == 2
    capsys.readouterr()


def test_dryrun_shows_measured_beside_estimated(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("2_dryrun", "--run", runs["proven"].id, "--json") == 0
    said = answer(capsys)
    assert said["dryrun"]["measured"]["step_s"] == 0.21
    assert said["estimate"]["step_s"]["mid"] == pytest.approx(0.21)
    assert as_script("2_dryrun", "--run", runs["proven"].id) == 0
    assert "a checkpoint" in capsys.readouterr().out


def test_a_dryrun_needs_a_yes_and_plans_nothing_without(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("2_dryrun", "--depth", "1", "--json") == 4
    rented = ("--on", "sky", "--device", "cpu", "--usd-per-hour", "0.5")
    capsys.readouterr()
    assert as_script("2_dryrun", "--depth", "1", *rented, "--json") == 4  # priced by hand
    assert answer(capsys)["error"]["next"].endswith("--yes")
    store = Store.open()
    assert store_runs.list_runs(store) == []
    store.close()


def test_compare_puts_predictions_beside_outcomes(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("5_compare", "--json") == 0
    said = answer(capsys)
    assert {row["run"] for row in said["runs"]} == {runs["finished"].id, runs["better"].id}
    assert all(row["bpb_error"] is not None for row in said["runs"])
    assert said["where_next"]
    assert as_script("5_compare", "--runs", f"d4-better,{runs['oom'].id}") == 0
    assert "d8-oom" in capsys.readouterr().out


def test_the_journal_finds_what_failed_and_keeps_what_is_added(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--kind", "failed", "--title", "Too fast", "--run", runs["oom"].id)
    assert as_script("6_journal", "--add", "NaN at step 80", *given, "--json") == 0
    (added,) = answer(capsys)["notes"]
    assert (added["run_id"], added["kind"]) == (runs["oom"].id, "failed")
    assert as_script("6_journal", "--kind", "failed", "--text", "nan at", "--json") == 0
    assert [note["title"] for note in answer(capsys)["notes"]] == ["Too fast"]


def test_search_refuses_an_impossible_question_before_it_spends(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("search", "--minutes", "10", "--time-limit-minutes", "5", "--json") == 2
    assert "time limit" in answer(capsys)["error"]["message"]


def test_as_real_programs_they_keep_stdout_clean_and_start_without_matplotlib(runs: dict[str, Run]) -> None:
    """A few in processes of their own, at once: what cannot be seen from inside this one."""
    commands = {
        ("1_estimate.py", "--json"): 0,
        ("search.py", "--", "--budget", "-1", "--depths", "0", "--json"): 2,
        ("4_watch.py", "--run", runs["finished"].id, "--json"): 0,
    }

    def start(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-X", "importtime", str(ROOT / "notebooks" / command[0]), *command[1:]]
        return subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)

    with ThreadPoolExecutor(2) as pool:
        for done, code in zip(pool.map(start, commands), commands.values(), strict=True):
            assert done.returncode == code, done.stderr[-2000:]
            assert done.stdout.count("\n") == 1
            json.loads(done.stdout)
            loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
            assert not loaded & {"matplotlib", "polars", "altair", "torch", "mlflow"}


def test_without_a_project_the_one_that_has_runs_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_script("0_lab", "--json") == 0
    assert answer(capsys)["project"] == "lab"
    spec = {"depth": 1, "sequence_len": 64, "vocab_size": 512, "batch_tokens": 256, "num_steps": 20}
    run = verbs.plan(store, spec=spec, project="elsewhere", actor="ada")
    assert as_script("0_lab", "--json") == 0
    said = answer(capsys)
    assert (said["project"], [row["run"] for row in said["runs"]]) == ("elsewhere", [run.id])
    assert as_script("6_journal", "--add", "seen", "--json") == 0
    assert answer(capsys)["project"] == "elsewhere"
    assert as_script("6_journal", "--run", run.id, "--json") == 0
    assert answer(capsys)["project"] == "elsewhere"
    assert as_script("0_lab", "--deposit", "1", "--yes", "--json") == 0  # not into what happens to be shown
    assert answer(capsys)["project"] == "lab"
    assert as_script("0_lab", "--project", "lab", "--json") == 0
    assert answer(capsys)["runs"] == []
