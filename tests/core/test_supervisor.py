"""The supervisor on a scripted machine: every way a run can go, and what each costs, to the micro-dollar."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import ENDED, HOURLY, KILLED, SECOND, World, checkpoint

from patron_core import verbs
from patron_core.executors.base import Job
from patron_core.executors.fake import NEVER, FakeExecutor, Script
from patron_core.lifecycle import post
from patron_core.lifecycle.decide import BACK_OFF_S, FAILURE_BUDGET
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.money import cost_usd_micros
from patron_core.states import EndReason, RunState
from patron_core.store import attempts, leases, ledger, runs
from patron_core.ui import show
from trainer.contract.grace import kill_after_s


def test_a_run_goes_through_and_costs_what_it_ran(world: World) -> None:
    world.machine.script(ENDED)
    run = world.launched()
    world.tick()
    assert world.state(run) is RunState.RUNNING
    world.run_for(110)
    assert world.state(run) is RunState.SUCCEEDED
    assert world.machine_s(run) <= 100
    assert world.charged(run) == 100 * SECOND
    assert world.held(run) == 0
    assert ledger.wallet(world.store, "lab").available_usd_micros == 10_000_000 - 100 * SECOND


def test_a_run_that_ends_before_anybody_looks_still_succeeds(world: World) -> None:
    world.machine.script(Script(run_s=1))
    run = world.launched()
    world.tick()
    world.tick(500)
    assert (world.state(run), world.charged(run)) == (RunState.SUCCEEDED, SECOND)


def test_a_killed_run_resumes_from_its_checkpoint_and_every_attempt_is_charged(world: World) -> None:
    world.machine.script(replace(KILLED, on_end=checkpoint(5)), ENDED)
    run = world.launched()
    world.run_for(400)
    assert world.state(run) is RunState.SUCCEEDED
    assert [a.reason for a in attempts.for_run(world.store, run.id)] == [EndReason.LOST, EndReason.COMPLETED]
    assert world.charged(run) == 140 * SECOND


def test_an_unexplained_death_without_progress_ends_within_the_failure_budget(world: World) -> None:
    world.machine.default_script = KILLED
    run = world.launched(held_s=5000)
    world.run_for(FAILURE_BUDGET * 60 + sum(BACK_OFF_S[: FAILURE_BUDGET + 1]) + 60)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, EndReason.LOST)
    assert len(attempts.for_run(world.store, run.id)) == FAILURE_BUDGET
    assert world.held(run) == 0


def test_preemptions_are_free(world: World) -> None:
    reclaimed = Script(run_s=30, exit_code=None, signal=signal.SIGKILL.value, evidence={"instance_gone": True})
    world.machine.script(*[reclaimed] * 6, ENDED)
    run = world.launched()
    world.run_for(400)
    assert world.state(run) is RunState.SUCCEEDED
    assert world.charged(run) == (6 * 30 + 100) * SECOND


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("AWS (spot/instance-action: terminate at 2017-09-18T08:22:00Z)", EndReason.PREEMPTED),
        ("file", EndReason.PREEMPTED),
        ("SIGTERM", EndReason.LOST),
    ],
)
def test_a_kill_after_the_clouds_notice_is_a_preemption(world: World, source: str, reason: EndReason) -> None:
    def note(job: Job) -> None:
        event = {"seq": 1, "time": 1.0, "attempt": job.key, "kind": "notice", "step": 3, "source": source}
        folder = Path(job.run_dir) / "events"
        folder.mkdir(parents=True)
        (folder / f"{job.key}-000000.jsonl").write_text(json.dumps(event) + "\n")

    world.machine.script(replace(KILLED, on_start=note), ENDED)
    run = world.launched()
    world.run_for(400)
    assert world.state(run) is RunState.SUCCEEDED
    first = attempts.for_run(world.store, run.id)[0]
    assert first.reason is reason
    assert first.evidence.get("reclaim_notice") == (source if reason is EndReason.PREEMPTED else None)


@pytest.mark.parametrize(
    ("exit_code", "reason"), [(76, EndReason.CUDA_OOM), (77, EndReason.DIVERGED), (1, EndReason.USER_ERROR)]
)
def test_what_would_fail_again_is_never_retried(world: World, exit_code: int, reason: EndReason) -> None:
    world.machine.default_script = Script(run_s=20, exit_code=exit_code)
    run = world.launched()
    world.run_for(100)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, reason)
    assert world.machine.num_submits == 1
    assert (world.charged(run), world.held(run)) == (20 * SECOND, 0)


def test_what_the_attempt_knew_about_its_end_is_shown(world: World) -> None:
    memory = {"device_batch_size": 16, "fitting_device_batch_size": 8}

    def say(job: Job) -> None:
        last_word = {"attempt": job.key, "exit_code": 76, "reason": "host_oom", "message": "m", "memory": memory}
        (Path(job.run_dir) / "result.json").write_text(json.dumps(last_word))

    world.machine.default_script = Script(run_s=20, exit_code=76, on_end=say)
    run = world.launched()
    world.run_for(100)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, EndReason.HOST_OOM)
    seen = verbs.view(world.store, run.id)
    assert seen.sentence.endswith("It would fit with device_batch_size 8 instead of 16.")
    assert seen.to_dict()["attempts"][-1]["why"] == seen.sentence
    (column,) = (column for column in show.attempt_columns() if column.title == "why it ended")
    assert column.cell(seen.attempts[-1]) == seen.sentence


def test_money_that_runs_out_pauses_with_a_checkpoint_and_a_top_up_resumes(world: World) -> None:
    world.machine.script(Script(on_end=checkpoint(7)), ENDED)
    run = world.launched(held_s=100)
    world.run_for(200)
    assert (world.state(run), world.reason(run)) == (RunState.PAUSED, EndReason.OUT_OF_FUNDS)
    assert 100 - kill_after_s(run.run_dir) - 6 <= world.charged(run) / SECOND <= 100
    with world.store.begin() as conn:
        ledger.hold(conn, run, 200 * SECOND, key="more", actor="ada", now=world.now)
        runs.transition(conn, run.id, old=RunState.PAUSED, new=RunState.FUNDED, actor="ada", now=world.now)
    verbs.launch(world.store, run.id, actor="ada", now=world.now)
    world.run_for(150)
    assert world.state(run) is RunState.SUCCEEDED


def test_a_workload_that_ignores_the_stop_is_killed_and_never_costs_more_than_was_held(world: World) -> None:
    world.machine.script(Script(stop_s=NEVER))
    run = world.launched(held_s=100)
    world.run_for(300)
    assert (world.state(run), world.reason(run)) == (RunState.PAUSED, EndReason.OUT_OF_FUNDS)
    assert world.machine_s(run) <= 100  # the ledger takes no more than is held, whatever the machine goes on to cost
    assert world.charged(run) == world.machine_s(run) * SECOND


def test_a_supervisor_that_was_away_finds_the_machine_stopped_by_its_own_deadline(world: World) -> None:
    world.machine.script(Script(stop_s=NEVER))
    run = world.launched(held_s=100)
    world.tick()
    world.tick(50_000)
    assert world.state(run) is RunState.PAUSED
    assert world.charged(run) == 100 * SECOND
    assert world.held(run) == 0


def test_cancel_and_pause_wherever_they_come(world: World) -> None:
    running = world.launched()
    world.tick()
    verbs.cancel(world.store, running.id, actor="ada", now=world.now)
    verbs.cancel(world.store, running.id, actor="ada", now=world.now)
    world.run_for(10)
    assert (world.state(running), world.held(running)) == (RunState.CANCELLED, 0)

    funded = world.funded()
    assert verbs.cancel(world.store, funded.id, actor="ada", now=world.now).state is RunState.CANCELLED
    assert world.held(funded) == 0

    unsubmitted = world.launched()
    verbs.cancel(world.store, unsubmitted.id, actor="ada", now=world.now)
    world.tick()
    assert (world.state(unsubmitted), world.charged(unsubmitted)) == (RunState.CANCELLED, 0)

    paused = world.launched()
    world.tick()
    verbs.pause(world.store, paused.id, actor="ada", now=world.now)
    world.run_for(10)
    assert (world.state(paused), world.reason(paused)) == (RunState.PAUSED, EndReason.PAUSED)
    assert verbs.cancel(world.store, paused.id, actor="ada", now=world.now).state is RunState.CANCELLED


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_submit_never_starts_twice(world: World, moment: Any) -> None:
    world.machine.fail_next_submit = moment
    world.machine.script(ENDED)
    run = world.launched()
    assert world.tick().errors
    assert world.state(run) is RunState.LAUNCHING
    world.run_for(120)
    assert world.state(run) is RunState.SUCCEEDED
    assert sum(world.machine.starts.values()) == 1


def test_what_ran_before_its_submit_was_known_is_paid_for(world: World) -> None:
    """Whoever submitted died of it, and the next one came two minutes later: those minutes were machine time, too."""
    world.machine.fail_next_submit = "after"
    world.machine.script(Script(run_s=400.0))
    run = world.launched(held_s=900)
    assert world.tick().errors
    world.now += 130
    world.machine.advance(130)
    world.run_for(400)
    assert (world.state(run), world.charged(run)) == (RunState.SUCCEEDED, 400 * SECOND)


def test_a_cancel_after_a_lost_answer_stops_what_was_started(world: World) -> None:
    world.machine.fail_next_submit = "after"
    run = world.launched()
    world.tick()
    verbs.cancel(world.store, run.id, actor="ada", now=world.now)
    world.run_for(30)
    assert world.state(run) is RunState.CANCELLED
    assert world.charged(run) > 0


def test_unreachable_is_not_failed(world: World) -> None:
    world.machine.script(ENDED)
    run = world.launched()
    world.tick()
    world.machine.unreachable = True
    world.run_for(60)
    assert world.state(run) is RunState.RUNNING
    world.machine.unreachable = False
    world.run_for(60)
    assert (world.state(run), world.charged(run)) == (RunState.SUCCEEDED, 100 * SECOND)


def test_a_lost_run_directory_is_said_and_not_paid_for_twice(world: World) -> None:
    def lose(job: Job) -> None:
        for path in sorted(Path(job.run_dir).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Path(job.run_dir).rmdir()

    world.machine.script(replace(KILLED, on_end=checkpoint(5)), Script(run_s=10, exit_code=75, on_end=lose))
    run = world.launched()
    world.run_for(200)
    assert (world.state(run), world.reason(run)) == (RunState.FAILED, EndReason.LOST)
    assert "missing" in runs.get_run(world.store, run.id).detail


def test_two_supervisors_one_acts(world: World) -> None:
    run = world.launched()
    leases.acquire(world.store, post.SUPERVISOR.lease(), holder="other", ttl_s=0.2)
    assert not world.tick().acted
    assert world.state(run) is RunState.LAUNCHING
    while leases.current(world.store, post.SUPERVISOR.lease()) is not None:
        time.sleep(0.02)
    assert world.tick().acted
    assert world.state(run) is RunState.RUNNING


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_no_bill(world: World, jump_s: float) -> None:
    world.machine.script(replace(KILLED, on_end=checkpoint(5)), ENDED)
    run = world.launched()
    world.run_for(30)
    world.now += jump_s
    world.run_for(300)
    assert (world.state(run), world.charged(run)) == (RunState.SUCCEEDED, 140 * SECOND)


def test_a_run_whose_executor_breaks_does_not_stop_the_others(world: World) -> None:
    broken, fine = world.launched(), world.launched(seed=7)

    def executor_named(name: str) -> FakeExecutor:
        if not calls:
            calls.append(name)
            raise RuntimeError("boom")
        return world.machine

    calls: list[str] = []
    supervisor = Supervisor(store=world.store, executor_named=executor_named)
    seen = supervisor.tick(now=world.now)
    assert any("boom" in error for error in seen.errors)
    assert {world.state(broken), world.state(fine)} == {RunState.LAUNCHING, RunState.RUNNING}


def test_launching_twice_is_launching_once(world: World) -> None:
    run = world.launched()
    again = verbs.launch(world.store, run.id, actor="bob", now=world.now)
    assert again.state is RunState.LAUNCHING
    assert len(attempts.for_run(world.store, run.id)) == 1


def test_a_part_of_a_second_is_owed_in_full() -> None:
    assert cost_usd_micros(0.0001, HOURLY) == 1
