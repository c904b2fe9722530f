"""The guard on a machine that may be taken away: deadlines over starts, stops, deaths, and what SkyPilot is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from patron_core.executors.guard import Guard
from patron_core.executors.records import Records
from patron_core.executors.restarting import lost_in_a_row, what_to_say
from patron_core.lifecycle.decide import FAILURE_BUDGET
from patron_core.rundir.rundir import RunDir
from trainer.contract.exits import EXIT_KILLED, EXIT_STOPPED

KEY = "r1-train-1"
PATIENCE_S = 30.0
STOPS = (
    "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(75)); print('ready', flush=True); time.sleep(600)"
)
IGNORES = "import signal,time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


class World:
    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.records = Records(str(run_dir), KEY)

    def start(self, code: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "patron_core.executors.guard", "--key", KEY, "--run-dir", str(self.run_dir)]
        command += [*options, "--", sys.executable, "-S", "-c", code]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ready(self, code: str, *options: str) -> subprocess.Popen[str]:
        guard = self.start(code, *options)
        assert guard.stdout is not None
        assert guard.stdout.readline() == "ready\n"
        return guard

    def end(self, guard: subprocess.Popen[str]) -> int:
        guard.communicate(timeout=PATIENCE_S)
        return guard.returncode

    def last(self) -> dict[str, Any]:
        return self.records.starts()[-1]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


@pytest.mark.parametrize("exit_code", [0, 1, 76, 78])
def test_the_workloads_own_exit_code_passes_through(world: World, exit_code: int) -> None:
    guard = world.start(f"print('hello'); raise SystemExit({exit_code})")
    assert world.end(guard) == exit_code
    record = world.last()
    assert (record["exit_code"], record["signal"], record["ended"], record["tail"]) == (
        exit_code,
        None,
        True,
        ["hello"],
    )
    assert record["elapsed_s"] > 0


def test_a_machine_that_says_goodbye_is_left_with_75_before_its_grace_is_over(world: World) -> None:
    guard = world.ready(STOPS)
    begin = time.monotonic()
    guard.send_signal(signal.SIGTERM)
    assert world.end(guard) == 75
    assert time.monotonic() - begin < 14  # a grace is 15
    assert world.last()["evidence"]["reclaim_notice"]


def test_a_machine_that_booted_for_this_start_is_paid_for_from_its_boot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRON_SUBMITTED_AT", "0.0")
    uptime_s = time.time() - psutil.boot_time()
    assert world.end(world.start("pass", "--deadline-s", str(uptime_s + 600))) == 0
    assert world.last()["elapsed_s"] == pytest.approx(uptime_s, abs=30)
    assert world.end(world.start("pass")) == 0  # nobody's boot
    assert world.last()["elapsed_s"] < 30
    world.records = Records(str(world.run_dir / "late"), KEY)
    world.run_dir = world.run_dir / "late"
    assert world.end(world.start("pass", "--deadline-s", str(uptime_s / 2))) == EXIT_STOPPED
    assert world.last()["evidence"] == {"deadline_hit": True, "stopped_before_start": True}


def test_a_top_up_moves_the_deadline_of_all_starts_together(world: World) -> None:
    world.run_dir.mkdir(parents=True, exist_ok=True)
    RunDir(world.run_dir).move_deadline(KEY, 3.0)
    guard = world.ready(STOPS, "--deadline-s", "1")
    assert world.end(guard) == EXIT_STOPPED
    assert world.last()["evidence"]["deadline_hit"]
    assert world.last()["elapsed_s"] >= 3.0


def test_a_wish_to_stop_is_obeyed_and_ends_it_for_good(world: World) -> None:
    guard = world.ready(STOPS)
    world.records.write_stop({"at": time.time()})
    assert world.end(guard) == EXIT_STOPPED
    assert world.last()["exit_code"] == 75
    assert world.last()["evidence"]["cancelled"]
    assert world.end(world.start(STOPS)) == EXIT_STOPPED  # started again all the same: it does nothing
    assert world.last()["evidence"]["stopped_before_start"]


def test_two_guards_of_one_key_on_one_machine_do_not_kill_each_others_processes(world: World, tmp_path: Path) -> None:
    """As where two people of a shared machine start a task file by hand, with its own name for the attempt."""
    stays = world.ready(STOPS)
    other = World(tmp_path / "other")
    assert other.end(other.start("print('hello')")) == 0
    assert stays.poll() is None
    world.records.write_stop({"at": time.time()})
    assert world.end(stays) == EXIT_STOPPED
    assert world.last()["exit_code"] == 75


def test_what_does_not_listen_is_killed_after_its_grace(world: World) -> None:
    guard = world.ready(IGNORES)
    world.records.write_stop({"at": time.time(), "kill_after_s": 0.1})
    assert world.end(guard) == EXIT_KILLED
    assert (world.last()["exit_code"], world.last()["signal"]) == (None, signal.SIGKILL)
    assert world.last()["evidence"]["killed"]


def test_the_deadline_holds_over_all_starts_together(world: World) -> None:
    first = world.ready(STOPS, "--deadline-s", "600")
    first.send_signal(signal.SIGTERM)
    assert world.end(first) == 75
    used_s = world.last()["elapsed_s"]
    begin = time.monotonic()
    assert world.end(world.ready(STOPS, "--deadline-s", str(used_s + 1.5))) == EXIT_STOPPED
    assert 1.0 < time.monotonic() - begin < 60  # and not the 600 of the first
    assert world.last()["evidence"]["deadline_hit"]
    assert world.end(world.start(STOPS, "--deadline-s", "1")) == EXIT_STOPPED
    assert world.last()["evidence"]["stopped_before_start"]
    assert [record["number"] for record in world.records.starts()] == [1, 2, 3]


def test_what_a_bucket_says_of_earlier_machines_counts_for_no_more_than_has_passed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write there can neither give the run time, nor take more than there was."""
    monkeypatch.setenv("PATRON_SUBMITTED_AT", f"{time.time() - 100:.1f}")
    for number, elapsed_s in enumerate((-1e9, 1e8, 1e8), start=1):
        world.records.write_start(number, {"elapsed_s": elapsed_s, "at": 1.0, "ended": True})
    assert world.end(world.start("raise SystemExit(0)", "--deadline-s", "1000")) == 0
    assert world.end(world.start("raise SystemExit(0)", "--deadline-s", "100")) == EXIT_STOPPED


def test_a_run_directory_that_is_gone_at_the_end_does_not_change_the_exit_code(world: World) -> None:
    code = f"import shutil; shutil.rmtree({str(world.run_dir)!r}); open({str(world.run_dir)!r}, 'w')"
    guard = world.start(f"{code}; raise SystemExit(75)")
    said, _ = guard.communicate(timeout=PATIENCE_S)
    assert (guard.returncode, "Traceback" in said) == (75, False)
    assert "the end is not written" in said


def test_a_second_launch_of_a_key_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYPILOT_MANAGED_JOB_ID", "7")
    assert world.end(world.start("raise SystemExit(1)")) == 1
    monkeypatch.setenv("SKYPILOT_MANAGED_JOB_ID", "8")
    second = world.start("print('never')")
    said, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == EXIT_STOPPED
    assert "job 7 of SkyPilot owns r1-train-1" in said
    monkeypatch.setenv("SKYPILOT_MANAGED_JOB_ID", "7")
    assert world.end(world.start("print('again')")) == 0
    assert [record["job"] for record in world.records.starts()] == ["7", "7"]


def test_a_deadline_that_is_ignored_ends_in_a_kill(world: World) -> None:
    assert world.end(world.ready(IGNORES, "--deadline-s", "1", "--grace-s", "0.1")) == EXIT_KILLED
    assert world.last()["evidence"]["deadline_hit"]


def test_a_workload_that_knows_a_shorter_deadline_is_not_started_again(world: World) -> None:
    result = json.dumps({"attempt": KEY, "reason": "deadline", "exit_code": 75})
    code = f"open({str(world.run_dir / 'result.json')!r}, 'w').write({result!r}); raise SystemExit(75)"
    assert world.end(world.start(code)) == EXIT_STOPPED
    assert world.last()["evidence"]["deadline_hit"]


def test_unexplained_deaths_are_started_again_within_the_failure_budget(world: World) -> None:
    code = "import os; os.kill(os.getpid(), 9)"
    codes = [world.end(world.start(code)) for _ in range(FAILURE_BUDGET)]
    assert codes == [75] * (FAILURE_BUDGET - 1) + [EXIT_KILLED]


def test_a_killed_guard_takes_its_workload_along(world: World, until: Callable[[Callable[[], bool]], None]) -> None:
    guard = world.start("import os,time; print(os.getpid(), flush=True); time.sleep(600)")
    assert guard.stdout is not None
    pid = int(guard.stdout.readline())
    until(lambda: world.records.starts() != [])
    guard.kill()
    guard.wait()

    def is_gone() -> bool:
        try:
            return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
        except FileNotFoundError:
            return True

    until(is_gone)
    assert world.last()["ended"] is False


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    def wait(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


@pytest.mark.parametrize(
    ("exit_code", "signum", "evidence", "lost", "said"),
    [
        (0, None, {}, 0, 0),
        (75, None, {}, 0, 75),
        (75, None, {"reclaim_notice": True}, 0, 75),
        (75, None, {"deadline_hit": True}, 0, EXIT_STOPPED),
        (75, None, {"cancelled": True}, 0, EXIT_STOPPED),
        (75, None, {"source_unreachable": True}, 1, 75),
        (75, None, {"source_unreachable": True}, FAILURE_BUDGET, EXIT_STOPPED),
        (76, None, {}, 0, 76),
        (None, 9, {}, 1, 75),
        (None, 9, {}, FAILURE_BUDGET, EXIT_KILLED),
        (None, 9, {"oom_kills": 1}, 1, EXIT_KILLED),
        (None, 9, {"oom_kills": 0}, 1, 75),
        (None, 9, {"cancelled": True, "killed": True}, 1, EXIT_KILLED),
        (None, 11, {}, 1, EXIT_KILLED),
        (None, 15, {"reclaim_notice": True}, 0, 75),
    ],
)
def test_what_skypilot_is_told(
    exit_code: int | None, signum: int | None, evidence: dict[str, Any], lost: int, said: int
) -> None:
    assert what_to_say(exit_code, signum, evidence, lost_in_a_row=lost) == said


def test_a_new_checkpoint_forgives_deaths() -> None:
    def death(step: int | None) -> dict[str, Any]:
        return {"ended": True, "signal": 9, "checkpoint_step": step, "evidence": {}}

    assert lost_in_a_row([death(None), death(None)]) == 2
    assert lost_in_a_row([death(None), death(None), death(10)]) == 1
    assert lost_in_a_row([death(10), death(10), death(10)]) == 3
    dead_source = {"ended": True, "exit_code": 75, "evidence": {"source_unreachable": True}}
    assert lost_in_a_row([death(None), dead_source, dead_source]) == 3
    assert lost_in_a_row([death(10), {**death(20), "signal": None, "exit_code": 75}, death(20)]) == 1


def test_of_several_machines_the_first_one_judges_and_the_others_say_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SkyPilot takes the code of whoever ends badly first: here a machine whose ranks only lost the others."""
    monkeypatch.setenv("PET_NNODES", "2")
    first = world.ready("import time; print('ready', flush=True); time.sleep(2); raise SystemExit(76)")
    monkeypatch.setenv("PET_NODE_RANK", "1")
    other = world.start("import os; os.kill(os.getpid(), 9)")
    assert (world.end(other), world.end(first)) == (76, 76)
    assert Records(str(world.run_dir), KEY, node=1).starts()[-1]["signal"] == signal.SIGKILL


def test_the_first_machine_keeps_the_deadline_and_the_others_are_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    monkeypatch.setenv("PATRON_SUBMITTED_AT", "0.0")  # it booted for this, long ago; the first has only just begun
    own = Guard(key=KEY, run_dir=str(world.run_dir), command=["true"], deadline_s=5.0, grace_s=30.0)
    monkeypatch.setenv("PET_NODE_RANK", "0")
    first = Guard(key=KEY, run_dir=str(world.run_dir), command=["true"], deadline_s=5.0, grace_s=30.0)
    assert (own.watcher.is_over(), first.watcher.is_over()) == (False, True)


def test_a_process_killed_for_memory_on_another_machine_is_not_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    first = world.ready("import os,time; print('ready', flush=True); time.sleep(1); os.kill(os.getpid(), 9)")
    other = Records(str(world.run_dir), KEY, node=1)
    other.write_start(1, {"elapsed_s": 1.0, "at": time.time(), "ended": True, "evidence": {"oom_kills": 1}})
    assert world.end(first) == EXIT_KILLED
