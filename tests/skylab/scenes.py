"""The scenes that the lab's tests judge, each a function that plays one to its end. They run beside each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import test_executors as contract
from lab import ROOT
from record import all_events, curve
from world import HOURLY, MACHINE, SECOND, TARGET, Core, SkyWorld, until

from patron_core import verbs
from patron_core.errors import Unavailable
from patron_core.executors import skypilot_client
from patron_core.executors.base import Job, ObservedStatus
from patron_core.executors.records import Records
from patron_core.executors.sky_task import job_name
from patron_core.executors.skypilot import SkyExecutor
from patron_core.lifecycle import orphans
from patron_core.lifecycle.decide import Situation
from patron_core.lifecycle.holds import TEARDOWN_S
from patron_core.lifecycle.verdict import StopCause, verdict
from patron_core.market.spot_policy import Machine, Terms
from patron_core.mirror import tracking
from patron_core.money import cost_usd_micros
from patron_core.rundir.rundir import RunDir, lineage
from patron_core.states import EndReason, RunState
from patron_core.store import attempts, labs, ledger, mirrors
from trainer.contract.ranks import WorldSize, torchrun

STEPS = 500


def the_whole_loop(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """estimate -> dryrun -> fund -> train -> a reclaim -> resumed -> succeeded; the bill, the curve, the losses."""
    store, lab = core.store, core.lab
    run = core.plan("whole", spec | {"num_steps": STEPS})
    assert run.estimate is not None
    assert run.estimate["device"] == "cpu"
    verbs.dryrun(store, run.id, actor="ada", burst_steps=4)
    run = core.until(run, RunState.AWAITING_FUNDING)
    assert run.dryrun is not None
    assert run.dryrun["rehearsal"]["ok"]
    verbs.fund(store, run.id, usd_micros=3000 * SECOND, actor="ada", key="go")
    verbs.launch(store, run.id, actor="ada")
    core.until(run, RunState.RUNNING)

    directory = RunDir(run.run_dir)
    until(lambda: checkpoint_step(directory) > 100, "a checkpoint")
    assert lab.reclaim(core.job_id(run)) == 1
    seen = core.until(run, RunState.RECOVERING)
    assert seen.reason is EndReason.PREEMPTED
    core.until(run, RunState.RUNNING, RunState.SUCCEEDED)
    run = core.until(run, RunState.SUCCEEDED)

    # one attempt, two machines; SkyPilot brought it back, the core never launched again
    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    assert [a.reason for a in made] == [EndReason.COMPLETED]
    assert made[0].evidence["recoveries"] == 1
    assert [start["exit_code"] for start in made[0].evidence["starts"]] == [None, 0]
    resumed = [e.data["resumed_step"] for e in all_events(directory) if e.kind == "start"]
    assert resumed[0] is None
    assert resumed[1] >= 100

    # the bill, to the micro-dollar: dryrun and training, and the end of the machine that each ended on
    money = ledger.run_money(store, run.id)
    assert money.charged_usd_micros == sum(
        cost_usd_micros(a.charged_s, HOURLY) + cost_usd_micros(TEARDOWN_S, HOURLY)
        for a in attempts.for_run(store, run.id)
    )
    assert money.held_usd_micros == 0
    assert made[0].charged_s > 10
    assert ledger.verify(store) == []

    # the curve: every step once; the losses: those of a run that nobody interrupted
    losses = dict(curve(lineage(all_events(directory)), "train/loss"))
    assert list(losses) == list(range(1, STEPS + 1))

    def is_mirrored() -> bool:
        tracking.sync(store, run, now=time.time())
        mirror = mirrors.get(store, run.id)
        return mirror is not None and bool(mirror.position.get("finished"))

    until(is_mirrored, "the mirror")
    mirrored = tracking.metrics_frame(store, [run.id], keys=["train/loss"])
    assert mirrored["step"].to_list() == list(losses)
    alone = folder / "alone"
    command = [sys.executable, "-m", "trainer.train", f"{run.run_dir}/spec.json", str(alone)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert dict(curve(lineage(all_events(RunDir(alone))), "train/loss")) == losses


def checkpoint_step(directory: RunDir) -> int:
    newest = directory.newest_checkpoint()
    return newest.step if newest else 0


def a_job_by_hand(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """The task file as the `sky` command takes it, with no core: submitted, reclaimed in the middle, resumed, done."""
    directory, asked = RunDir(folder / "by-hand"), folder / "by-hand.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(spec | {"num_steps": STEPS}))
    envs = {"RUN_DIR": directory.path, "SPEC": asked, "PYTHON": sys.executable}
    flags = [part for name, value in envs.items() for part in ("--env", f"PATRON_{name}={value}")]
    where = ["--infra", "slurm/lab/spot", "--gpus", "H100:1", "--no-use-spot"]
    task = str(ROOT / "skypilot" / "train.yaml")
    core.lab.sky("jobs", "launch", task, "-y", "-d", "-n", "by-hand", *where, *flags, timeout_s=240)
    until(lambda: directory.newest_checkpoint() is not None, "a checkpoint")
    records = Records(str(directory.path), "train-1")
    assert core.lab.reclaim(int(records.starts()[0]["job"])) == 1
    until(lambda: records.starts()[-1]["ended"], "the end")

    assert (directory.result() or {})["reason"] == "completed"
    starts = records.starts()
    assert [start["exit_code"] for start in starts] == [None, 0]
    resumed = [event.data["resumed_step"] for event in all_events(directory) if event.kind == "start"]
    assert resumed[0] is None
    assert resumed[1] > 0
    steps = [event.step for event in lineage(all_events(directory)) if event.kind == "metrics"]
    assert steps == list(range(1, STEPS + 1))


def a_cancel_while_it_recovers(core: Core, spec: dict[str, Any], folder: Path) -> None:
    run = core.launched("cancelled", spec | {"num_steps": STEPS})
    core.until(run, RunState.RUNNING)
    until(lambda: RunDir(run.run_dir).newest_checkpoint() is not None, "a checkpoint")
    assert core.lab.reclaim(core.job_id(run)) == 1
    core.until(run, RunState.RECOVERING)
    verbs.cancel(core.store, run.id, actor="ada")
    verbs.cancel(core.store, run.id, actor="ada")
    seen = core.until(run, RunState.CANCELLED)
    assert seen.reason is EndReason.CANCELLED
    assert ledger.run_money(core.store, run.id).held_usd_micros == 0
    assert ledger.run_money(core.store, run.id).charged_usd_micros > 0
    until(lambda: core.lab.allocations(core.job_id(run)) == [], "its machine to be given back")
    assert RunDir(run.run_dir).newest_checkpoint() is not None


def the_deadline_moves_it_to_on_demand(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """Its spot machine hangs until the slack is gone: one switch, both prices on the bill, every step once."""
    run = core.funded("in-time", spec | {"num_steps": STEPS}, held_s=6000)
    spot, on_demand = TARGET, replace(TARGET, spot=False, only="slurm/lab/urgent", usd_micros_per_hour=2 * HOURLY)
    terms = Terms(work_s=100, deadline_s=510, restart_s=150, decide_every_s=60, loss_s=40, spot_price_share=0.5)
    kept = {"at": time.time() + terms.deadline_s, "terms": asdict(terms), "machine": Machine.SPOT.value}
    core.launched_at(run, spot.quote() | {"finish": kept | {"other": on_demand.quote()}})

    def trains_on_demand() -> bool:
        return len(attempts.for_run(core.store, run.id)) == 2

    def is_training() -> bool:
        return RunDir(run.run_dir).newest_checkpoint() is not None or trains_on_demand()

    until(is_training, "a checkpoint")
    hung = [] if trains_on_demand() else core.lab.trainers(core.job_id(run))
    for process in hung:
        process.suspend()
    until(lambda: attempts.for_run(core.store, run.id)[0].stop_cause == StopCause.SWITCH, "the switch")
    for process in hung:
        process.resume()
    core.until(run, RunState.SUCCEEDED)

    made = attempts.for_run(core.store, run.id)
    assert [a.reason for a in made] == [EndReason.SWITCHED, EndReason.COMPLETED]
    assert [a.usd_micros_per_hour for a in made] == [HOURLY, 2 * HOURLY]
    assert (made[0].charged_s > 0) == bool(hung)
    assert ledger.run_money(core.store, run.id).charged_usd_micros == sum(
        cost_usd_micros(a.charged_s, a.usd_micros_per_hour) + cost_usd_micros(TEARDOWN_S, a.usd_micros_per_hour)
        for a in made
        if a.charged_s  # without a machine nothing is to be given back
    )
    steps = [event.step for event in lineage(all_events(RunDir(run.run_dir))) if event.kind == "metrics"]
    assert steps == list(range(1, STEPS + 1))


def one_of_two_machines_is_reclaimed(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """A training over two machines: it goes on over two, and its losses are those of one that lost none."""
    run = core.launched("pair", spec | {"num_steps": STEPS, "device_batch_size": 2}, held_s=9000, num_nodes=2)
    directory = RunDir(run.run_dir)
    until(lambda: checkpoint_step(directory) > 100, "a checkpoint")
    had = core.lab.allocations(core.job_id(run))
    assert len(core.lab.nodes(core.job_id(run))) == 2
    core.lab.reclaim_one(core.job_id(run))
    core.until(run, RunState.RECOVERING)
    until(lambda: len(core.lab.nodes(core.job_id(run))) == 2, "two machines again")
    assert core.lab.allocations(core.job_id(run)) != had
    core.until(run, RunState.SUCCEEDED)

    (attempt,) = attempts.for_run(core.store, run.id)
    assert (attempt.reason, attempt.evidence["recoveries"]) == (EndReason.COMPLETED, 1)
    assert attempt.usd_micros_per_hour == 2 * HOURLY
    events = all_events(directory)
    starts = [event for event in events if event.kind == "start"]
    assert [start.data["num_devices"] for start in starts] == [2, 2]
    assert starts[1].data["resumed_step"] >= 100
    losses = dict(curve(lineage(events), "train/loss"))
    assert list(losses) == list(range(1, STEPS + 1))

    alone = folder / "pair-alone"
    command = torchrun([sys.executable, "-m", "trainer.train", f"{run.run_dir}/spec.json", str(alone)])
    environ = os.environ | WorldSize(per_node=2).environ()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environ)
    assert dict(curve(lineage(all_events(RunDir(alone))), "train/loss")) == losses


def no_capacity_until_the_deadline(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """The only node of that partition is drained: the money stays held, and nothing was charged."""
    core.lab.drain("n4")
    run = core.launched("waiting", spec, held_s=500, wait_s=30.0, only="slurm/lab/full")
    seen = core.until(run, RunState.FUNDED)
    assert seen.reason is EndReason.NO_CAPACITY
    money = ledger.run_money(core.store, run.id)
    assert (money.held_usd_micros, money.charged_usd_micros) == (500 * SECOND, 0)


def job_of(folder: Path, name: str, code: str) -> Job:
    return Job(
        key=f"{name}-train-1",
        command=(sys.executable, "-S", "-c", code),
        run_dir=str(folder / name),
        deadline_s=300,
        grace_s=15,
        machine=MACHINE,
    )


def out_of_memory_is_not_tried_again(core: Core, spec: dict[str, Any], folder: Path) -> None:
    executor = SkyExecutor()
    job = job_of(folder, "oom", "print('CUDA out of memory'); raise SystemExit(76)")
    handle = executor.submit(job)
    until(lambda: executor.poll(handle).is_final, "the end", 2.0)
    end = executor.poll(handle)
    assert (end.status, end.exit_code) == (ObservedStatus.ENDED, 76)
    assert verdict(Situation(state=RunState.RUNNING), end) is EndReason.CUDA_OOM
    assert end.evidence["recoveries"] == 0
    assert len(Records(job.run_dir, job.key).starts()) == 1
    assert executor.logs(handle, 1) == "CUDA out of memory"


def a_core_that_dies_right_after_the_submit(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """Killed with its launch on the way. Whoever comes next finds the job, and starts no second."""
    job = job_of(folder, "dies", "print('ready')")
    code = f"from patron_core.executors.skypilot import *\nSkyExecutor().submit({job!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    client = skypilot_client.Client()
    name = job_name(job.lab, job.key)
    until(lambda: bool(client.launching(name)) or bool(client.jobs(name=name)), "the launch to be on its way", 0.1)
    process.kill()
    process.wait()
    executor = SkyExecutor()
    handle = None
    while handle is None:
        try:
            handle = executor.submit(job)
        except Unavailable as error:
            if "on its way" not in error.message:
                raise
            time.sleep(1)
    until(lambda: executor.poll(handle).is_final, "the end", 2.0)
    assert executor.poll(handle).exit_code == 0
    assert [each["job_id"] for each in client.jobs(name=name)] == [handle["job_id"]]
    assert len(Records(job.run_dir, job.key).starts()) == 1
    client.close()


def orphans_are_ended(core: Core, spec: dict[str, Any], folder: Path) -> None:
    """A job of this lab's name that no attempt owns."""
    world = SkyWorld(folder, "orphan")
    job = replace(world.job("stops"), lab=labs.lab_id(core.store))
    handle = world.executor.submit(job)
    client = skypilot_client.Client()
    until(lambda: world.executor.poll(handle).status is ObservedStatus.RUNNING, "it to run", 2.0)
    name = job_name(job.lab, job.key)
    found = [orphan for orphan in orphans.find_orphans(core.store, client) if orphan.name == name]
    assert [orphan.why for orphan in found] == ["no attempt of this lab has that name"]
    assert "unknown price" in found[0].sentence
    orphans.end_orphans(client, found)
    until(lambda: world.executor.poll(handle).is_final, "its end", 2.0)
    assert [o for o in orphans.find_orphans(core.store, client) if o.name == name] == []
    client.close()


def contract_once(core: Core, spec: dict[str, Any], folder: Path) -> None:
    contract.test_a_key_starts_once_and_is_found_for_ever(SkyWorld(folder, "once"))


def contract_stop(core: Core, spec: dict[str, Any], folder: Path) -> None:
    contract.test_cancel_gives_it_its_grace(SkyWorld(folder, "stop"))


def contract_kill(core: Core, spec: dict[str, Any], folder: Path) -> None:
    contract.test_cancel_kills_what_does_not_listen(SkyWorld(folder, "kill"))


def contract_deadline(core: Core, spec: dict[str, Any], folder: Path) -> None:
    contract.test_the_deadline_stops_what_listens(SkyWorld(folder, "deadline"))


SCENES = [  # the longest first
    the_whole_loop,
    a_job_by_hand,
    one_of_two_machines_is_reclaimed,
    a_cancel_while_it_recovers,
    the_deadline_moves_it_to_on_demand,
    no_capacity_until_the_deadline,
    out_of_memory_is_not_tried_again,
    a_core_that_dies_right_after_the_submit,
    orphans_are_ended,
    contract_once,
    contract_stop,
    contract_kill,
    contract_deadline,
]
# What is played unless PATRON_LAB=all: SkyPilot takes about a minute of a core to start a job, and again to look at it.
DAILY = [
    the_whole_loop,
    a_cancel_while_it_recovers,
    the_deadline_moves_it_to_on_demand,
    no_capacity_until_the_deadline,
    orphans_are_ended,
    contract_once,
]
