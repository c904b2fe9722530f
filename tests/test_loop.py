"""The whole loop for real: a real trainer in its own process, killed in the middle, on a real ledger and a real MLflow.

estimate -> dryrun -> fund -> launch -> SIGKILL of the supervisor, then of the trainer -> recovery -> finish -> settle
-> compare -> note.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from corpus import write_corpus
from record import all_events, curve

from patron_core import settings, verbs
from patron_core.errors import InvalidInput, Refused
from patron_core.lifecycle import decide
from patron_core.lifecycle.supervisor import Supervisor, ensure_running
from patron_core.mirror import tracking
from patron_core.mirror.due import due
from patron_core.money import cost_usd_micros
from patron_core.rundir.rundir import RunDir, lineage
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs

BUDGET_USD_MICROS = 500_000


SECRETS = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "GITHUB_TOKEN")  # of whoever runs a lab
PLANTED = "planted-secret-4711"


@pytest.fixture
def store(living_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in SECRETS:
        monkeypatch.setenv(name, PLANTED)
    settings.keep_private()  # as every script and notebook does
    found = Store.open()
    yield found
    found.close()


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, object]:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus, 60)
    return {
        "depth": 1,
        "sequence_len": 128,
        "vocab_size": 512,
        "batch_tokens": 2048,
        "device_batch_size": 16,
        "num_steps": 200,
        "data": f"path:{corpus}",
        "eval_tokens": 2048,
        "eval_every_steps": 50,
        "checkpoint_every_steps": 20,
    }


def drive(supervisor: Supervisor, run: Run, until: Callable[[Run], bool], timeout_s: float = 120.0) -> Run:
    """Tick until something is true of the run."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        supervisor.tick()
        seen = runs.get_run(supervisor.store, run.id)
        if until(seen):
            return seen
        time.sleep(0.1)
    raise AssertionError(f"{seen.id} is {seen.state} ({seen.reason}): {verbs.view(supervisor.store, run.id).to_dict()}")


def process_with(home: str, module: str, **variables: str) -> psutil.Process:
    """The process of this test's home that runs a module."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ = process.info["environ"] or {}
        ours = all(environ.get(name) == value for name, value in {"PATRON_HOME": home, **variables}.items())
        if ours and "-m" in (line := process.info["cmdline"] or []) and line[line.index("-m") + 1] == module:
            return process
    raise AssertionError(f"no process of {module} found")


@pytest.mark.timeout(240)
def test_the_whole_loop_survives_kills_and_the_bill_is_right(
    store: Store, spec: dict[str, object], living_home: Path
) -> None:
    supervisor = Supervisor(store=store)  # quick ticks, so that the kill comes in the middle
    verbs.deposit(store, usd_micros=BUDGET_USD_MICROS, key="first", actor="ada")
    run = verbs.plan(store, spec=spec, max_usd_micros=BUDGET_USD_MICROS, actor="ada", key="one")
    again = verbs.plan(store, spec=spec, max_usd_micros=BUDGET_USD_MICROS, actor="ada", key="one")
    assert again.id == run.id

    with pytest.raises(Refused, match="draft"):
        verbs.fund(store, run.id, actor="ada", key="too early")
    verbs.dryrun(store, run.id, actor="ada", burst_steps=4)
    run = drive(supervisor, run, lambda seen: seen.state is not RunState.DRYRUN)
    assert run.state is RunState.AWAITING_FUNDING, attempts.for_run(store, run.id)
    assert run.dryrun is not None
    assert run.dryrun["rehearsal"]["ok"]
    assert run.dryrun["measured"]["step_s"] > 0

    # more than the upper bound: the tests' machine is busier with every test that runs beside this one
    verbs.fund(store, run.id, usd_micros=BUDGET_USD_MICROS // 2, actor="ada", key="go")
    verbs.fund(store, run.id, usd_micros=BUDGET_USD_MICROS // 2, actor="ada", key="go")
    held = ledger.run_money(store, run.id).held_usd_micros
    assert held == ledger.wallet(store, "lab").held_usd_micros
    verbs.launch(store, run.id, actor="ada")
    verbs.launch(store, run.id, actor="ada")

    # the supervisor in the background starts it, and is killed; whoever comes next goes on from the store
    assert ensure_running(store)
    end = time.monotonic() + 60
    while runs.get_run(store, run.id).state is not RunState.RUNNING:
        assert time.monotonic() < end
        time.sleep(0.1)
    process_with(str(living_home), "patron_core.lifecycle.supervisor").kill()

    directory = RunDir(run.run_dir)
    drive(supervisor, run, lambda seen: (c := directory.newest_checkpoint()) is not None and c.step >= 40)
    process_with(str(living_home), "trainer.train").send_signal(signal.SIGKILL)
    run = drive(supervisor, run, lambda seen: seen.state is RunState.SUCCEEDED)

    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    assert [a.reason for a in made] == [EndReason.LOST, EndReason.COMPLETED]
    assert run.result is not None
    assert run.result["step"] == 200

    # the bill: every attempt's seconds at its price, to the micro-dollar, and the rest given back
    money, wallet = ledger.run_money(store, run.id), ledger.wallet(store, "lab")
    everything = attempts.for_run(store, run.id)
    assert money.charged_usd_micros == sum(cost_usd_micros(a.charged_s, a.usd_micros_per_hour) for a in everything)
    assert money.held_usd_micros == 0
    assert wallet.available_usd_micros + wallet.spent_usd_micros == BUDGET_USD_MICROS
    assert wallet.spent_usd_micros == money.charged_usd_micros
    assert ledger.verify(store) == []

    # the curve: every step once, in MLflow as in the record
    drive(supervisor, run, lambda seen: due(store) == [])
    mirrored = tracking.metrics_frame(store, [run.id], keys=["train/loss"])
    assert Counter(mirrored["step"].to_list()) == Counter(range(1, 201))
    recorded = curve(lineage(all_events(directory)), "train/loss")
    assert sorted(zip(mirrored["step"], mirrored["value"], strict=True)) == recorded

    row = verbs.compare(store, [run.id])[0]
    assert row.val_bpb is not None
    assert row.predicted_bpb is not None
    assert row.train_usd_micros <= held
    note = verbs.write_note(store, project="lab", body="It came back.", run_id=run.id, kind="result", actor="ada")
    assert verbs.read_notes(store, project="lab", run_id=run.id) == [note]

    # nothing that was written, databases, logs, jobs, events, MLflow's tables, holds a secret of its owner's
    written = [path for path in living_home.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".db", ".log", ".json", ".jsonl"}
    assert [path for path in written if PLANTED.encode() in path.read_bytes()] == []
    made = [living_home, *living_home.rglob("*")]  # run directories too
    assert [path for path in made if not path.is_symlink() and path.lstat().st_mode & 0o077] == []


@pytest.mark.timeout(240)
def test_a_training_that_stands_still_is_stopped_resumed_and_counted(
    store: Store, spec: dict[str, object], living_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRON_STOP_WITHIN_S", "2")
    supervisor = Supervisor(store=store)
    verbs.deposit(store, usd_micros=BUDGET_USD_MICROS, key="first", actor="ada")
    run = verbs.plan(store, spec=spec, actor="ada")
    with store.begin() as conn:  # as if a dryrun had proven it
        ledger.hold(conn, run, BUDGET_USD_MICROS, key="hold", actor="ada", now=1.0)
        for state in (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED):
            run = runs.transition(conn, run.id, old=run.state, new=state, actor="ada", now=1.0)
    verbs.launch(store, run.id, actor="ada")
    directory = RunDir(run.run_dir)
    drive(supervisor, run, lambda seen: (c := directory.newest_checkpoint()) is not None and c.step >= 40)
    process_with(str(living_home), "trainer.train").send_signal(signal.SIGSTOP)
    with monkeypatch.context() as impatient:  # a start is silent for longer, while it imports
        impatient.setattr(decide, "SILENCE_S", 6.0)
        impatient.setattr(decide, "SILENCE_FACTOR", 0.0)
        drive(supervisor, run, lambda seen: attempts.for_run(store, seen.id)[0].state == "ended")
    run = drive(supervisor, run, lambda seen: seen.state is RunState.SUCCEEDED)
    first, second = attempts.for_run(store, run.id)
    assert (first.reason, second.reason) == (EndReason.HUNG, EndReason.COMPLETED)
    assert first.evidence["killed"]
    assert first.evidence["silent_s"] > 6
    assert first.evidence["checkpoint_step"] >= 40
    start = [event for event in directory.read_events()[0] if event.kind == "start"][-1]
    assert start.data["resumed_step"] == first.evidence["checkpoint_step"]
    told = [event for event in runs.events(store, run.id) if event.reason is EndReason.HUNG]
    assert [event.new for event in told] == [RunState.RECOVERING]


@pytest.mark.timeout(240)
def test_too_little_data_is_found_by_the_dryrun_and_costs_little(
    store: Store, spec: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was not found for nothing, as with more text than is counted beforehand."""
    monkeypatch.setattr("patron_core.verbs.free_checks.before_dryrun", lambda run: None)
    supervisor = Supervisor(store=store)
    verbs.deposit(store, usd_micros=BUDGET_USD_MICROS, key="first", actor="ada")
    run = verbs.plan(store, spec=spec | {"num_steps": 2000}, actor="ada")
    verbs.dryrun(store, run.id, actor="ada", burst_steps=4)
    run = drive(supervisor, run, lambda seen: seen.state is not RunState.DRYRUN)
    assert (run.state, run.reason) == (RunState.FAILED, EndReason.BAD_SPEC)
    money = ledger.run_money(store, run.id)
    assert (money.held_usd_micros, money.charged_usd_micros) < (1, BUDGET_USD_MICROS // 2)
    assert "tokens" in attempts.for_run(store, run.id)[0].evidence["log_tail"]
    with pytest.raises(Refused, match="failed"):
        verbs.fund(store, run.id, actor="ada", key="go")

    # the trainer's own sentence is what everybody says, and what is to be done next is a plan that fits
    seen = verbs.view(store, run.id)
    words = shlex.split(seen.next)
    steps = int(words[words.index("--steps") + 1])
    assert f"choose num_steps of at most {steps}, or" in seen.sentence
    assert seen.to_dict()["sentence"] == seen.sentence
    assert words[:2] == ["patron", "dryrun"]
    assert words[words.index("--data") + 1] == spec["data"]


@pytest.mark.timeout(240)
def test_two_ranks_are_proven_and_trained_and_one_that_is_lost_costs_nothing_but_time(
    store: Store, spec: dict[str, object], living_home: Path
) -> None:
    supervisor = Supervisor(store=store)
    verbs.deposit(store, usd_micros=BUDGET_USD_MICROS, key="first", actor="ada")
    two = verbs.Target(num_gpus=2)
    with pytest.raises(InvalidInput, match="cannot be divided over 2 processes"):
        verbs.plan(store, spec=spec, target=two, actor="ada")
    run = verbs.plan(store, spec=spec | {"num_steps": 80, "device_batch_size": 8}, target=two, actor="ada")
    assert run.estimate is not None
    assert (run.estimate["num_gpus"], run.estimate["device_batch_size"]) == (2, 8)
    verbs.dryrun(store, run.id, actor="ada", burst_steps=4)
    run = drive(supervisor, run, lambda seen: seen.state is not RunState.DRYRUN)
    assert run.dryrun is not None, attempts.for_run(store, run.id)
    assert run.dryrun["rehearsal"]["ok"]
    assert run.dryrun["calibration"]["world"] == "2"

    verbs.fund(store, run.id, usd_micros=BUDGET_USD_MICROS // 2, actor="ada", key="go")
    verbs.launch(store, run.id, actor="ada")
    directory = RunDir(run.run_dir)
    drive(supervisor, run, lambda _: any(e.kind == "metrics" and (e.step or 0) > 25 for e in all_events(directory)))
    process_with(str(living_home), "trainer.train", RANK="1").send_signal(signal.SIGKILL)
    run = drive(supervisor, run, lambda seen: seen.state is RunState.SUCCEEDED)

    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    assert [a.reason for a in made] == [EndReason.LOST, EndReason.COMPLETED]
    assert "no word from rank 1 of 2" in made[0].evidence["last_word"]["message"]
    assert (directory.environment() or {})["num_devices"] == 2
    losses: dict[int, list[float]] = {}
    for event in all_events(directory):
        if event.kind == "metrics" and event.step is not None:
            losses.setdefault(event.step, []).append(event.data["metrics"]["train/loss"])
    assert sorted(losses) == list(range(1, 81))
    assert any(len(values) == 2 for values in losses.values())  # after the checkpoint that it went on from
    assert all(len(set(values)) == 1 for values in losses.values())
    assert ledger.verify(store) == []
