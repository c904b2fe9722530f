"""A repository made for the origin platform, as it is: planned, proven, paid, killed in the middle, recorded once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import foreign
import pytest
from record import all_events, curve
from test_loop import PLANTED, SECRETS, drive, process_with

from patron_core import settings, verbs
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.mirror import tracking
from patron_core.mirror.due import due
from patron_core.rundir.rundir import RunDir, lineage
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger

STEPS = 60


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without its server, as on many machines."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "docker"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("without_docker")
def test_an_mlproject_runs_as_it_is_and_a_kill_loses_no_metric(
    living_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, PLANTED)
    settings.keep_private()
    repository = tmp_path / "toy"
    repository.mkdir()
    foreign.write(repository, {"MLproject": foreign.MLPROJECT, "train.py": foreign.TRAIN})
    commit = foreign.commit(repository)
    store = Store.open()
    supervisor = Supervisor(store=store)
    verbs.deposit(store, usd_micros=2_000_000, key="first", actor="ada")

    question = verbs.CodeQuestion(where=f"file://{repository}@main", parameters={"lr": "0.25"})
    run = verbs.plan_code(store, question=question, actor="ada", key="one")
    assert verbs.plan_code(store, question=question, actor="ada", key="one").id == run.id
    assert run.spec["origin"]["commit"] == commit
    assert run.spec["steps_parameter"] == "num_iterations"
    assert run.spec["parameters"] == {"num_iterations": STEPS, "lr": 0.25, "step_s": 0.1}
    assert "not known before its dryrun" in run.estimate["sentence"]

    verbs.dryrun(store, run.id, actor="ada", burst_steps=5)
    run = drive(supervisor, run, lambda seen: seen.state is not RunState.DRYRUN)
    assert run.state is RunState.AWAITING_FUNDING, verbs.log_tail(store, run.id)
    measured = run.dryrun["measured"]
    assert (measured["steps"], measured["unit"], measured["paced"]) == (5, "num_iterations", True)
    assert 0.1 <= measured["step_s"] < measured["wall_s"]
    offer = verbs.offer(store, run.id)
    assert offer.hold_usd_micros >= offer.estimate.cost_usd_micros.high > 0

    verbs.fund_and_launch(store, run.id, usd_micros=1_000_000, actor="ada", key="go")
    directory = RunDir(run.run_dir)
    drive(supervisor, run, lambda seen: verbs.view(store, run.id).step >= 40)
    process_with(str(living_home), "trainer.foreign.run").send_signal(signal.SIGKILL)
    run = drive(supervisor, run, lambda seen: seen.state is RunState.SUCCEEDED)
    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    assert [a.reason for a in made] == [EndReason.LOST, EndReason.COMPLETED]

    # each step once, in the record and in the mirror: what was logged up to the kill, and what came after it
    recorded = curve(lineage(all_events(directory)), "loss")
    assert recorded == [(step, 1 / step) for step in range(1, STEPS + 1)]
    starts = [event.data["resumed_step"] for event in all_events(directory) if event.kind == "start"]
    assert starts[0] is None
    assert starts[1] == 40
    drive(supervisor, run, lambda seen: due(store) == [])
    mirrored = tracking.metrics_frame(store, [run.id], keys=["loss"])
    assert Counter(mirrored["step"].to_list()) == Counter(range(1, STEPS + 1))

    # what it says of itself stands beside the run, its words are data, and it knows no secret of ours
    seen = verbs.view(store, run.id)
    assert seen.logged["params"] == {"steps": str(STEPS), "lr": "0.25"}
    assert seen.logged["artifacts"] == {"notes/end.txt": 4}
    assert seen.logged["tags"]["secrets"] == "PATRON_JOB"
    assert any("no docker answers here" in warning for warning in seen.warnings)
    assert "\x1b" not in verbs.log_tail(store, run.id)
    assert "starting at" in verbs.log_tail(store, run.id)
    row = verbs.compare(store, [run.id])[0]
    assert (row.workload, row.depth) == ("toy", None)
    assert row.train_usd_micros <= ledger.run_money(store, run.id).funded_usd_micros
    assert ledger.verify(store) == []
    store.close()


def test_nothing_of_it_runs_before_it_is_asked_to(home: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    repository = tmp_path / "toy"
    repository.mkdir()
    foreign.write(
        repository,
        {"MLproject": foreign.MLPROJECT.replace("echo preparing", f"touch {marker}"), "train.py": foreign.TRAIN},
    )
    foreign.commit(repository)
    hook = f"#!/bin/sh\ntouch {marker}\n"
    for name in ("post-checkout", "post-merge", "fsmonitor"):
        (repository / ".git" / "hooks" / name).write_text(hook)
        (repository / ".git" / "hooks" / name).chmod(0o755)
    foreign.git(repository, "config", "core.fsmonitor", str(repository / ".git" / "hooks" / "fsmonitor"))
    foreign.git(repository, "config", "filter.evil.smudge", f"touch {marker}; cat")
    foreign.git(repository, "config", "filter.evil.clean", f"touch {marker}; cat")
    (repository / ".gitattributes").write_text("* filter=evil\n")
    store = Store.open()
    for where in (str(repository), f"file://{repository}", f"{repository}@main"):
        verbs.plan_code(store, question=verbs.CodeQuestion(where=where), actor="ada")
    store.close()
    time.sleep(0.2)
    assert not marker.exists()
