"""What finished runs were late by is in the next interval: by a factor, by seconds, of this machine alone."""

import json
import math
import random
from pathlib import Path

import pytest
from scripted import World

from patron_core import verbs
from patron_core.estimate import Calibration
from patron_core.estimate.calibration import START
from patron_core.estimate.lateness import AROUND, ON_TIME, Lateness, Timing
from patron_core.executors.base import Job
from patron_core.executors.fake import Script
from patron_core.interval import Interval, total
from patron_core.machines.this_machine import machine_key
from patron_core.states import RunState
from patron_core.store import calibrations, runs
from patron_core.verbs.measured import lateness
from trainer.contract.spec import TrainSpec

SAID = {AROUND: 15.0, "steps": 100.0, "evals": 10.0, "checkpoints": 2.0}
STARTUP = {"data": Interval(0.0, 1.0, 2.0), START: Interval(10.0, 14.0, 20.0)}
STEP = Interval(1 / 1.1, 1.0, 1.1)


def took(**seconds: float) -> Timing:
    return Timing(said_s=SAID, taken_s=SAID | seconds)


def test_one_run_that_took_43_s_to_start_is_in_the_next_interval():
    said = total(STARTUP.values())
    assert said.high < 43
    late = Lateness.of([took(around=43.0)])
    start = total(late.started(STARTUP).values())
    assert start.low <= 43 <= start.high
    assert start.mid > (15 + 43) / 2
    assert set(late.started(STARTUP)) == set(STARTUP)
    assert "1 finished run here" in late.sentence


def test_five_runs_alike_leave_an_error_of_less_than_5_percent():
    late = Lateness.of([took(around=43.0, steps=130.0)] * 5)
    assert total(late.started(STARTUP).values()).mid == pytest.approx(43, rel=0.05)
    assert late.steps.factored(STEP).mid == pytest.approx(1.3, rel=0.05)
    assert late.evals.factored(STEP).mid == pytest.approx(1.0)
    once = Lateness.of([took(steps=130.0)]).steps.factored(STEP)
    five = late.steps.factored(STEP)
    assert five.high / five.low < once.high / once.low


def test_without_runs_nothing_changes():
    assert Lateness.of([]) == ON_TIME
    assert ON_TIME.started(STARTUP) == STARTUP
    assert ON_TIME.steps.factored(STEP) == STEP
    assert ON_TIME.sentence == ""


@pytest.mark.parametrize("count", [1, 3, 10])
def test_nine_in_ten_next_runs_are_inside(count):
    """In 300 machines, each late by a factor of its own, about which its runs scatter as the interval says."""
    inside = 0
    for seed in range(300):
        rng = random.Random(seed)
        slow = rng.gauss(0.1, 0.15)
        runs_s = [100 * math.exp(rng.gauss(slow, 0.06)) for _ in range(count + 1)]
        interval = Lateness.of([took(steps=s) for s in runs_s[1:]]).steps.factored(STEP)
        inside += interval.low <= runs_s[0] / 100 <= interval.high
    assert 0.83 <= inside / 300 <= 0.98


def test_a_run_that_hung_pulls_no_further_than_four_times():
    late = Lateness.of([took(), took(), took(steps=100_000.0)])
    assert late.steps.factored(STEP).mid < 1.6


def trained(train_s: float, eval_s: float):
    """What a trainer of ten steps leaves."""

    def write(job: Job) -> None:
        folder = Path(job.run_dir)
        (folder / "events").mkdir(parents=True, exist_ok=True)
        lines = [{"kind": "start", "resumed_step": None}, {"kind": "phase", "name": "eval", "seconds": eval_s}]
        lines += [{"kind": "phase", "name": "checkpoint", "seconds": 0.5}]
        text = "".join(
            json.dumps({"seq": n, "time": 1.0, "attempt": job.key} | e) + "\n" for n, e in enumerate(lines, 1)
        )
        (folder / "events" / f"{job.key}-000000.jsonl").write_text(text)
        word = {"attempt": job.key, "exit_code": 0, "reason": "completed", "step": 10, "val_bpb": 3.0}
        (folder / "result.json").write_text(json.dumps(word | {"train_s": train_s, "resumed_step": None}))

    return write


def test_a_finished_run_moves_the_next_estimate_of_this_machine(world: World):
    """Said: 20 s of steps and 15 s of start. Taken: 26 s, and 43 s around."""
    spec = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}
    checked = TrainSpec.from_dict(spec)
    with world.store.begin() as conn:
        measured = Calibration.from_spec(
            checked, device="cpu", source="dryrun a", step_s=2.0, eval_s=1.0, eval_tokens=checked.eval_tokens,
            startup_s={START: 15.0}, checkpoint_s=0.5, checkpoint_stall_s=0.1,
        )  # fmt: skip
        calibrations.record(conn, machine=machine_key(), kind="dryrun", values=measured.to_dict(), now=1.0)
    run = world.launched()
    before = runs.get_run(world.store, run.id).estimate or {}
    assert before["said_s"]["steps"] == pytest.approx(20.0)
    world.machine.script(Script(run_s=70.5, on_end=trained(26.0, 1.0)))
    world.run_for(120)
    assert world.state(run) is RunState.SUCCEEDED
    (row,) = calibrations.latest(world.store, machine_key(), kind="timing")
    assert row.values["taken_s"] == pytest.approx({"steps": 26.0, "evals": 1.0, "checkpoints": 0.5, AROUND: 43.0})
    after = verbs.plan(world.store, spec=spec, actor="ada").estimate or {}
    assert after["said_s"] == before["said_s"]  # lateness is always against what is said without it
    assert after["wall_s"]["low"] <= 70.5 <= after["wall_s"]["high"]
    assert abs(after["wall_s"]["mid"] - 70.5) < 0.3 * abs(before["wall_s"]["mid"] - 70.5)
    assert any("Corrected by 1 finished run here" in sentence for sentence in after["assumptions"])
    assert lateness(world.store, "another machine") == ON_TIME
