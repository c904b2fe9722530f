"""What finished runs were late by is in the next interval: by a factor, by seconds, of this machine alone."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import World

from patron_core import verbs
from patron_core.estimate import Calibration, estimate
from patron_core.estimate.calibration import START
from patron_core.estimate.lateness import AROUND, ON_TIME, Lateness, Timing
from patron_core.executors.base import Job
from patron_core.executors.fake import Script
from patron_core.interval import Interval, total
from patron_core.machines.this_machine import machine_key
from patron_core.prices import local_price
from patron_core.states import RunState
from patron_core.store import calibrations, runs
from patron_core.verbs.measured import lateness
from trainer.contract.devices import cpu_device
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


@pytest.mark.parametrize(("steady", "scatter"), [(0.0, 0.2), (0.5, 0.4), (0.9, 0.4)])
@pytest.mark.parametrize("count", [3, 20])
def test_loads_that_come_and_go_are_in_the_interval(steady, scatter, count):
    """A machine three times as slow as undisturbed, on average; each run's load is like the one's before it."""
    inside = 0
    for seed in range(300):
        rng = random.Random(seed)
        loads = [rng.gauss(1.1, scatter)]
        for _ in range(count):
            new = rng.gauss(0.0, scatter * math.sqrt(1 - steady**2))
            loads.append(1.1 + steady * (loads[-1] - 1.1) + new)
        *known, last = [100 * math.exp(load) for load in loads]
        interval = Lateness.of([took(steps=s) for s in reversed(known)]).steps.factored(STEP)
        inside += interval.low <= last / 100 <= interval.high
    assert 0.82 <= inside / 300 < 1.0  # three runs that hang together know least


def test_the_newest_runs_say_most():
    before, after = [took(steps=300.0)] * 8, [took()] * 8
    assert Lateness.of([*after, *before]).steps.factored(STEP).mid < 1.4
    assert Lateness.of([*before, *after]).steps.factored(STEP).mid > 2.1


def test_a_burst_on_a_busy_machine_says_what_steps_take_undisturbed_and_here():
    """A quarter of the cores: 4 s a step, of which others took 3. With idle runs since then, a step is 1 s again."""
    spec = TrainSpec.from_dict(
        {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 100, "batch_tokens": 64}
    )
    quarter = Calibration.from_spec(spec, device="cpu", source="a", step_s=4.0, step_spread=0.15, core_share=0.25)
    device, price = cpu_device(), local_price(1_000_000, as_of="today")
    alone = estimate(spec, device, price=price, calibration=quarter)
    assert alone.step_s.mid == pytest.approx(4.0)
    assert alone.said_s["steps"] == pytest.approx(100.0)
    assert 1.3 < alone.step_s.high / alone.step_s.mid < 2.0  # one burst does not know how long others go on
    barely = replace(quarter, core_share=0.9)
    assert estimate(spec, device, price=price, calibration=barely).step_s.high < 1.4 * 4.0
    idle = replace(quarter, late=Lateness.of([took()] * 12 + [Timing.of_burst(0.25)]))
    assert estimate(spec, device, price=price, calibration=idle).step_s.mid == pytest.approx(1.0, rel=0.06)


def test_outcomes_outside_widen_the_next_intervals_of_this_machine():
    """Seconds, bytes and dollars, each by its own outcomes; nothing before ten, and nothing narrower."""
    spec = TrainSpec.from_dict(
        {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 100, "batch_tokens": 64}
    )
    measured = Calibration.from_spec(spec, device="cpu", source="a", step_s=1.0, peak_memory_bytes=10**9)

    def told(runs: int, **away: float):
        late = Lateness.of([replace(took(), away=away)] * runs)
        return estimate(
            spec, cpu_device(), price=local_price(1_000_000, as_of="today"), calibration=replace(measured, late=late)
        )

    plain, narrow, few = told(0), told(12, wall_s=0.1), told(9, wall_s=2.0)
    within = told(12)
    wide = told(12, wall_s=2.0, peak_memory_bytes=3.0, cost_usd_micros=1.5)
    assert narrow.wall_s == within.wall_s
    assert few.stretch["wall_s"] == 1.0
    assert wide.wall_s.mid == within.wall_s.mid
    assert wide.wall_s.high / wide.wall_s.mid == pytest.approx((within.wall_s.high / within.wall_s.mid) ** 2)
    assert wide.wall_s.low / wide.wall_s.mid == pytest.approx((within.wall_s.low / within.wall_s.mid) ** 2)
    assert total(wide.phases_s.values()) == pytest.approx(wide.wall_s)
    cost, before = wide.cost_usd_micros, within.cost_usd_micros
    assert cost.high / cost.mid == pytest.approx((before.high / before.mid) ** 1.5, rel=1e-3)
    assert wide.memory.peak_bytes.high == pytest.approx(10**9 * 1.04**3)
    assert plain.memory.peak_bytes.high == pytest.approx(10**9 * 1.04)


def trained(train_s: float, eval_s: float, *more: dict, resumed_step: int | None = None):
    """What a trainer of ten steps leaves."""

    def write(job: Job) -> None:
        folder = Path(job.run_dir)
        (folder / "events").mkdir(parents=True, exist_ok=True)
        lines = [
            {"kind": "start", "resumed_step": resumed_step},
            *more,
            {"kind": "phase", "name": "eval", "seconds": eval_s},
        ]
        lines += [{"kind": "phase", "name": "checkpoint", "seconds": 0.5}]
        text = "".join(
            json.dumps({"seq": n, "time": 1.0, "attempt": job.key} | e) + "\n" for n, e in enumerate(lines, 1)
        )
        (folder / "events" / f"{job.key}-000000.jsonl").write_text(text)
        word = {"attempt": job.key, "exit_code": 0, "reason": "completed", "step": 10, "val_bpb": 3.0}
        (folder / "result.json").write_text(json.dumps(word | {"train_s": train_s, "resumed_step": resumed_step}))

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


def planned_on(world: World, **measured) -> dict:
    spec = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}
    checked = TrainSpec.from_dict(spec)
    with world.store.begin() as conn:
        found = Calibration.from_spec(
            checked, device="cpu", source="dryrun a", step_s=2.0, eval_s=1.0, eval_tokens=checked.eval_tokens,
            startup_s={START: 15.0}, checkpoint_s=0.5, checkpoint_stall_s=0.1, **measured,
        )  # fmt: skip
        calibrations.record(conn, machine=machine_key(), kind="dryrun", values=found.to_dict(), now=1.0)
    return spec


def test_a_finished_run_moves_the_upload_of_the_next_one(world: World):
    """Said: a checkpoint at 10 MB/s. Taken: a third as fast."""
    spec = planned_on(world, upload_bytes_per_s=10e6)
    before = runs.get_run(world.store, world.launched().id).estimate or {}
    assert before["said_s"]["upload"] == pytest.approx(100.0)
    gone_up = {"kind": "uploaded", "step": 10, "bytes": 30_000_000, "seconds": 9.0}
    world.machine.script(Script(run_s=51.5, on_end=trained(26.0, 1.0, gone_up)))
    world.run_for(120)
    (row,) = calibrations.latest(world.store, machine_key(), kind="timing")
    assert row.values["taken_s"]["upload"] == pytest.approx(300.0)
    assert row.values["taken_s"][AROUND] == pytest.approx(15.0)  # the last upload is none of start and end
    after = verbs.plan(world.store, spec=spec, actor="ada").estimate or {}
    assert after["phases_s"]["upload"]["mid"] == pytest.approx(3 * before["phases_s"]["upload"]["mid"])
    assert lateness(world.store, "skypilot A100-40GB").upload.runs == 0  # each machine, and each executor, has its own


def test_a_run_that_came_back_moves_what_a_reclaim_is_said_to_take(world: World):
    spec = planned_on(world)
    before = runs.get_run(world.store, world.launched().id).estimate or {}
    world.machine.script(Script(run_s=142.5, on_end=trained(26.0, 1.0, resumed_step=5)))
    world.run_for(240)
    (row,) = calibrations.latest(world.store, machine_key(), kind="timing")
    assert row.values["taken_s"] == pytest.approx({"steps": 26.0, "recovery": 100.0})
    late = lateness(world.store, machine_key())
    assert math.exp(late.recovery.mean) == pytest.approx(100.0 / before["said_s"]["recovery"])
    measured = Calibration.from_dict(calibrations.latest(world.store, machine_key(), kind="dryrun")[0].values)
    spot = replace(local_price(1_000_000, as_of="today"), spot=True)
    said, learned = (
        estimate(TrainSpec.from_dict(spec), cpu_device(), price=spot, calibration=one).phases_s["recovery"]
        for one in (measured, replace(measured, late=replace(ON_TIME, recovery=late.recovery)))
    )
    assert learned.mid == pytest.approx(said.mid * 100.0 / before["said_s"]["recovery"], rel=0.02)
    assert learned.low == 0.0
