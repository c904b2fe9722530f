"""The contract of executors, against a real machine and the fake one; then what only the local one must survive.

A world makes jobs of a kind, and lets time pass until something holds: really for the local executor, in the script for
the fake one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from patron_core.errors import Conflict, InvalidInput, Unavailable
from patron_core.executors import executor_names, get_executor, local, local_view, processes, runner
from patron_core.executors.base import Executor, Handle, Job, Observation, ObservedStatus
from patron_core.executors.fake import NEVER, FakeExecutor, Script
from patron_core.executors.local import LocalExecutor
from patron_core.rundir.files import write_json
from patron_core.rundir.rundir import RunDir

PATIENCE_S = 30.0
KEY = f"r1-train-{os.getpid()}"  # what is left of a job is found by its key, on all of the machine

# every workload leaves a line in `starts`, says "ready" once it is, and goes by its kind
_PRELUDE = """
import os, signal, subprocess, sys, time
open("{run_dir}/starts", "a").write("started\\n")
"""
_KINDS = {
    "exits_0": "print('ready')",
    "exits_3": "print('ready'); sys.exit(3)",
    "kills_itself": "print('ready', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "stops": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('ready', flush=True); time.sleep(600)",
    "ignores": "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
    "leaves_children": (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('ready')"
    ),
    "shows_env": "print('ready', os.environ['COLOUR'], os.environ['PATRON_JOB'])",
}


def _make_job(tmp_path: Path, kind: str, key: str, deadline_s: float, grace_s: float) -> Job:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    code = _PRELUDE.format(run_dir=run_dir) + _KINDS[kind]
    return Job(
        key=key,
        command=(sys.executable, "-S", "-c", code),
        run_dir=str(run_dir),
        env={"COLOUR": "blue"},
        deadline_s=deadline_s,
        grace_s=grace_s,
    )


class LocalWorld:
    def __init__(self, tmp_path: Path):
        self.tmp_path = tmp_path
        self.executor = LocalExecutor()

    def job(self, kind: str, key: str = KEY, *, deadline_s: float = 300, grace_s: float = 60) -> Job:
        return _make_job(self.tmp_path, kind, key, deadline_s, grace_s)

    def reopened(self) -> Executor:
        return LocalExecutor()

    def until(self, holds: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < give_up_at, "it never came true"
            time.sleep(0.01)

    def num_starts(self) -> int:
        starts = self.tmp_path / "run" / "starts"
        return len(starts.read_text().splitlines()) if starts.exists() else 0


class FakeWorld:
    _SCRIPTS = {  # noqa: RUF012
        "exits_0": Script(run_s=1, log="ready"),
        "exits_3": Script(run_s=1, exit_code=3, log="ready"),
        "kills_itself": Script(run_s=1, signal=9, log="ready"),
        "stops": Script(log="ready"),
        "ignores": Script(stop_s=NEVER, log="ready"),
    }

    def __init__(self, tmp_path: Path):
        self.tmp_path = tmp_path
        self.executor = FakeExecutor()

    def job(self, kind: str, key: str = KEY, *, deadline_s: float = 300, grace_s: float = 60) -> Job:
        self.executor.script(self._SCRIPTS[kind])
        return _make_job(self.tmp_path, kind, key, deadline_s, grace_s)

    def reopened(self) -> Executor:
        return self.executor

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if holds():
                return
            self.executor.advance(0.1)
        pytest.fail("it never came true")

    def num_starts(self) -> int:
        return self.executor.starts.total()


World = LocalWorld | FakeWorld


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; nothing that a test started outlives it."""
    monkeypatch.setenv("PATRON_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for job_dir in (tmp_path / "home" / "jobs").glob("*"):
        processes.kill_processes_of(job_dir.name)


@pytest.fixture(params=[LocalWorld, FakeWorld])
def world(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> World:
    made: World = request.param(tmp_path)
    return made


@pytest.fixture
def here(tmp_path: Path, home: Path) -> LocalWorld:
    return LocalWorld(tmp_path)


def _ready(world: World, job: Job) -> Handle:
    handle = world.executor.submit(job)
    world.until(lambda: "ready" in world.executor.logs(handle, 10))
    return handle


def _end(world: World, handle: Handle) -> Observation:
    world.until(lambda: world.executor.poll(handle).is_final)
    return world.executor.poll(handle)


# --- the contract


@pytest.mark.parametrize(
    ("kind", "exit_code", "signum"), [("exits_0", 0, None), ("exits_3", 3, None), ("kills_itself", None, 9)]
)
def test_the_end_is_seen_as_it_was_and_stays(
    world: World, kind: str, exit_code: int | None, signum: int | None
) -> None:
    handle = world.executor.submit(world.job(kind))
    end = _end(world, handle)
    assert (end.status, end.exit_code, end.signal) == (ObservedStatus.ENDED, exit_code, signum)
    assert end.uptime_s is not None
    assert end.uptime_s > 0
    assert world.executor.poll(handle) == end
    assert "cancelled" not in end.evidence


def test_a_key_starts_once_and_is_found_for_ever(world: World) -> None:
    job = world.job("exits_0")
    assert world.executor.find(job.key) is None
    handle = world.executor.submit(job)
    assert world.executor.submit(job) == handle
    end = _end(world, handle)
    assert world.executor.submit(job) == handle
    found = world.reopened().find(job.key)
    assert found == handle
    assert json.loads(json.dumps(handle)) == handle
    assert handle["key"] == job.key
    assert world.reopened().poll(found) == end
    assert world.num_starts() == 1


def test_two_keys_are_two_jobs(world: World) -> None:
    first = world.executor.submit(world.job("exits_3", KEY))
    second = world.executor.submit(world.job("exits_0", f"{KEY}-2"))
    assert _end(world, first).exit_code == 3
    assert _end(world, second).exit_code == 0


def test_uptime_grows_while_it_runs(world: World) -> None:
    handle = _ready(world, world.job("stops"))
    first = world.executor.poll(handle)
    assert first.status is ObservedStatus.RUNNING
    assert first.uptime_s is not None
    world.until(lambda: (world.executor.poll(handle).uptime_s or 0) > (first.uptime_s or 0))


def test_cancel_gives_it_its_grace(world: World) -> None:
    handle = _ready(world, world.job("stops"))
    world.executor.cancel(handle, grace_s=60)
    world.executor.cancel(handle, grace_s=60)
    end = _end(world, handle)
    assert (end.exit_code, end.signal) == (75, None)
    assert end.evidence["cancelled"]
    assert "killed" not in end.evidence
    world.executor.cancel(handle, grace_s=0)
    assert world.executor.poll(handle) == end


def test_cancel_kills_what_does_not_listen(world: World) -> None:
    handle = _ready(world, world.job("ignores"))
    world.executor.cancel(handle, grace_s=0.2)
    end = _end(world, handle)
    assert (end.exit_code, end.signal) == (None, 9)
    assert end.evidence["killed"]


def test_a_shorter_grace_shortens_the_wait_and_a_longer_one_does_not_lengthen_it(world: World) -> None:
    handle = _ready(world, world.job("ignores"))
    world.executor.cancel(handle, grace_s=10_000)
    world.executor.cancel(handle, grace_s=0.1)
    world.executor.cancel(handle, grace_s=10_000)
    assert _end(world, handle).signal == 9


def test_the_deadline_stops_what_listens(world: World) -> None:
    handle = _ready(world, world.job("stops", deadline_s=3))
    end = _end(world, handle)
    assert end.exit_code == 75
    assert end.evidence["deadline_hit"]
    assert end.uptime_s is not None
    assert end.uptime_s >= 3


def test_a_deadline_that_was_moved_is_kept_later(world: World) -> None:
    job = world.job("stops", deadline_s=2)
    RunDir(job.run_dir).move_deadline(job.key, 3.5)
    end = _end(world, _ready(world, job))
    assert end.exit_code == 75
    assert end.evidence["deadline_hit"]
    assert end.uptime_s is not None
    assert end.uptime_s >= 3.5


def test_the_deadline_kills_what_does_not_listen(world: World) -> None:
    handle = _ready(world, world.job("ignores", deadline_s=1, grace_s=0.1))
    end = _end(world, handle)
    assert end.signal == 9
    assert end.evidence["deadline_hit"]
    assert end.evidence["killed"]


def test_what_is_forbidden_never_starts(world: World) -> None:
    job = world.job("exits_0")
    assert world.executor.forbid(job.key, job.run_dir) is None
    assert world.executor.forbid(job.key, job.run_dir) is None
    handle = world.executor.submit(job)
    end = _end(world, handle)
    assert (end.status, end.exit_code, end.signal, end.uptime_s) == (ObservedStatus.ENDED, None, None, 0.0)
    assert end.evidence["stopped_before_start"]
    assert world.num_starts() == 0


def test_what_was_submitted_cannot_be_forbidden_any_more(world: World) -> None:
    job = world.job("exits_0")
    handle = world.executor.submit(job)
    assert world.executor.forbid(job.key, job.run_dir) == handle
    assert _end(world, handle).exit_code == 0


def test_logs_are_the_last_lines(world: World) -> None:
    handle = _ready(world, world.job("exits_0"))
    assert world.executor.logs(handle, 1) == "ready"
    assert world.executor.logs(handle, 0) == ""


@pytest.mark.parametrize(
    "change",
    [{"key": "../up"}, {"key": ""}, {"command": ()}, {"deadline_s": 0}, {"deadline_s": NEVER}, {"grace_s": -1}],
)
def test_a_job_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    good = {"key": KEY, "command": ("true",), "run_dir": "run", "deadline_s": 1, "grace_s": 1}
    Job(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="job"):
        Job(**good | change)  # type: ignore[arg-type]


def test_executors_go_by_name() -> None:
    for name in executor_names():
        assert get_executor(name).name == name
    assert not get_executor("local").recovers_itself
    with pytest.raises(InvalidInput, match="'fake'; allowed local"):
        get_executor("fake")


# --- the local one: what a crash, a kill or a reboot leaves


def test_the_command_gets_its_environment(here: LocalWorld) -> None:
    handle = here.executor.submit(here.job("shows_env"))
    _end(here, handle)
    assert here.executor.logs(handle, 1) == f"ready blue {KEY}"


def test_a_command_that_is_not_there_ends_with_127(here: LocalWorld, tmp_path: Path) -> None:
    job = Job(key=KEY, command=("/no/such",), run_dir=str(tmp_path), deadline_s=9, grace_s=1)
    end = _end(here, here.executor.submit(job))
    assert end.exit_code == 127
    assert "/no/such" in end.evidence["error"]


def test_a_key_is_for_one_run_only(here: LocalWorld, tmp_path: Path) -> None:
    job = here.job("exits_0")
    here.executor.submit(job)
    other = Job(key=job.key, command=job.command, run_dir=str(tmp_path / "other"), deadline_s=9, grace_s=1)
    with pytest.raises(Conflict, match="submitted before"):
        here.executor.submit(other)


def test_many_submits_at_once_start_it_once(here: LocalWorld) -> None:
    job = here.job("exits_0")
    handles: list[Handle] = []
    threads = [threading.Thread(target=lambda: handles.append(LocalExecutor().submit(job))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 4
    assert all(handle == handles[0] for handle in handles)
    _end(here, handles[0])
    assert here.num_starts() == 1


def test_it_outlives_who_submitted_it_and_keeps_its_deadline(here: LocalWorld, home: Path) -> None:
    job = here.job("ignores", deadline_s=3, grace_s=0.1)
    code = (
        "from patron_core.executors.local import LocalExecutor; from patron_core.executors.base import Job;"
        f"LocalExecutor().submit({job!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True)
    handle = here.executor.find(job.key)
    assert handle is not None
    assert here.executor.poll(handle).status is ObservedStatus.RUNNING
    runner_pid = _started(handle)["runner"]["pid"]
    assert os.getsid(runner_pid) != os.getsid(0)
    assert _end(here, handle).evidence["deadline_hit"]


def test_the_runner_is_nobodys_zombie(here: LocalWorld) -> None:
    handle = _ready(here, here.job("exits_0"))
    _end(here, handle)
    pid = _started(handle)["runner"]["pid"]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_nothing_that_it_started_burns_on(here: LocalWorld) -> None:
    handle = here.executor.submit(here.job("leaves_children"))
    assert _end(here, handle).exit_code == 0
    assert processes.processes_of(KEY) == []


def test_a_killed_runner_takes_its_workload_along(here: LocalWorld) -> None:
    handle = _ready(here, here.job("ignores"))
    here.until(lambda: (Path(handle["job_dir"]) / "heartbeat.json").exists())
    os.kill(_started(handle)["runner"]["pid"], signal.SIGKILL)
    end = _end(here, handle)
    assert end.status is ObservedStatus.GONE
    assert (end.exit_code, end.signal) == (None, None)
    assert end.evidence["runner_killed"]
    assert end.evidence["memory"]["rss_bytes"] > 0
    assert end.uptime_s is not None
    assert processes.processes_of(KEY) == []
    assert here.executor.poll(handle) == end
    here.executor.cancel(handle, grace_s=0)
    assert here.executor.submit(here.job("ignores")) == handle
    assert here.num_starts() == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the next poll does it")
def test_the_workload_of_a_killed_runner_dies_even_if_nobody_looks(here: LocalWorld) -> None:
    handle = _ready(here, here.job("ignores"))
    assert processes.processes_of(KEY)
    os.kill(_started(handle)["runner"]["pid"], signal.SIGKILL)
    here.until(lambda: not processes.processes_of(KEY))


def test_a_sigterm_to_the_runner_is_a_notice(here: LocalWorld) -> None:
    handle = _ready(here, here.job("stops"))
    os.kill(_started(handle)["runner"]["pid"], signal.SIGTERM)
    end = _end(here, handle)
    assert end.exit_code == 75
    assert end.evidence["reclaim_notice"]
    assert "cancelled" not in end.evidence


@pytest.fixture
def stopped_runner(here: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    """A job whose runner was stopped with SIGSTOP, on a machine that waits for a runner only a moment."""
    monkeypatch.setattr(local_view, "DEAF_AFTER_S", 0.3)
    handle = _ready(here, here.job("stops", deadline_s=4, grace_s=0.1))
    here.until(lambda: (Path(handle["job_dir"]) / "heartbeat.json").exists())
    pid = _started(handle)["runner"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    yield handle
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_stopped_runner_makes_no_cancel_deaf(here: LocalWorld, stopped_runner: Handle) -> None:
    here.executor.cancel(stopped_runner, grace_s=0.2)
    assert processes.processes_of(KEY)
    end = _end(here, stopped_runner)
    assert (end.status, end.evidence["cancelled"], end.evidence["killed"]) == (ObservedStatus.GONE, True, True)
    assert end.evidence["runner_deaf"]
    assert "deadline_hit" not in end.evidence
    assert processes.processes_of(KEY) == []
    assert here.executor.poll(stopped_runner) == end


def test_a_stopped_runner_does_not_outlive_its_deadline(here: LocalWorld, stopped_runner: Handle) -> None:
    end = _end(here, stopped_runner)
    assert (end.status, end.evidence["deadline_hit"]) == (ObservedStatus.GONE, True)
    assert end.uptime_s is not None
    assert 4.4 <= end.uptime_s < 4 + PATIENCE_S
    assert processes.processes_of(KEY) == []


def test_a_workload_that_is_stopped_falls_silent(here: LocalWorld) -> None:
    handle = _ready(here, here.job("stops"))
    (worker,) = [pid for pid, _ in processes.processes_of(KEY) if pid != _started(handle)["runner"]["pid"]]
    os.kill(worker, signal.SIGSTOP)
    here.until(lambda: here.executor.poll(handle).evidence.get("silent_s", 0.0) > 1.5)
    here.executor.cancel(handle, grace_s=0.2)  # what is stopped hears no SIGTERM
    end = _end(here, handle)
    assert (end.status, end.signal) == (ObservedStatus.ENDED, 9)


class Crash(BaseException):
    pass


@pytest.fixture
def claimed(here: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A job that was claimed by somebody who died before starting its runner."""

    def crash(job_dir: Path) -> None:
        raise Crash

    job = here.job("exits_0")
    with monkeypatch.context() as patch:
        patch.setattr(local, "_start_runner", crash)
        with pytest.raises(Crash):
            here.executor.submit(job)
    handle = here.executor.find(job.key)
    assert handle is not None
    assert here.executor.poll(handle).status is ObservedStatus.PENDING
    return handle


def test_a_crash_between_claim_and_start_is_finished_by_the_next_submit(here: LocalWorld, claimed: Handle) -> None:
    assert here.executor.submit(here.job("exits_0")) == claimed
    assert _end(here, claimed).exit_code == 0
    assert here.num_starts() == 1


def test_what_is_stopped_before_its_start_never_starts(here: LocalWorld, claimed: Handle) -> None:
    here.executor.cancel(claimed, grace_s=9)
    end = here.executor.poll(claimed)
    assert (end.status, end.exit_code, end.signal, end.uptime_s) == (ObservedStatus.ENDED, None, None, 0.0)
    assert end.evidence["stopped_before_start"]
    here.executor.submit(here.job("exits_0"))
    assert here.num_starts() == 0


def test_what_never_started_is_gone_and_a_late_runner_does_not_start_it(here: LocalWorld, claimed: Handle) -> None:
    _edit(claimed, "job.json", submitted_monotonic=time.monotonic() - 61)
    end = here.executor.poll(claimed)
    assert (end.status, end.uptime_s) == (ObservedStatus.GONE, 0.0)
    assert end.evidence["never_started"]
    subprocess.run([sys.executable, "-m", "patron_core.executors.runner", claimed["job_dir"]], check=True)
    assert not (Path(claimed["job_dir"]) / "started.json").exists()
    assert here.num_starts() == 0


def test_a_request_that_came_before_the_runner_is_obeyed(here: LocalWorld, claimed: Handle) -> None:
    write_json(Path(claimed["job_dir"]) / "cancel.json", {"grace_s": 9})
    here.executor.submit(here.job("exits_0"))
    assert _end(here, claimed).evidence["stopped_before_start"]
    assert here.num_starts() == 0


def test_a_runner_that_cannot_start_is_told(here: LocalWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="did not start"):
        here.executor.submit(here.job("exits_0"))


@pytest.fixture
def dead(here: LocalWorld, claimed: Handle) -> Handle:
    """A job whose runner is no more and said nothing; its last heartbeat was at 12.5 s."""
    job_dir = Path(claimed["job_dir"])
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    process.wait()
    started = {
        "runner": {"pid": process.pid, "mark": f"{processes.boot_id()}:1"},
        "boot_id": processes.boot_id(),
        "host": os.uname().nodename,
        "started_at": time.time(),
        "started_monotonic": time.monotonic(),
        "oom_kills_before": 0,
    }
    write_json(job_dir / "started.json", started)
    write_json(job_dir / "heartbeat.json", {"elapsed_s": 12.5, "evidence": {"reclaim_notice": True}})
    return claimed


def test_a_pid_given_again_is_not_taken_for_the_runner(here: LocalWorld, dead: Handle) -> None:
    _edit(dead, "started.json", runner={"pid": os.getpid(), "mark": f"{processes.boot_id()}:1"})
    end = here.executor.poll(dead)
    assert (end.status, end.uptime_s) == (ObservedStatus.GONE, 12.5)
    assert end.evidence["runner_killed"]
    assert end.evidence["reclaim_notice"]
    here.executor.cancel(dead, grace_s=0)  # and this process is not signalled: it would end here


def test_a_reboot_is_seen(here: LocalWorld, dead: Handle) -> None:
    _edit(dead, "started.json", boot_id="another", runner={"pid": os.getpid(), "mark": "another:1"})
    end = here.executor.poll(dead)
    assert (end.status, end.uptime_s) == (ObservedStatus.GONE, 12.5)
    assert end.evidence["rebooted"]
    assert end.evidence["instance_gone"]
    assert "runner_killed" not in end.evidence


def test_another_machines_job_is_unreachable_until_its_own_guard_has_ended_it(here: LocalWorld, dead: Handle) -> None:
    _edit(dead, "started.json", boot_id="another", host="elsewhere")
    seen = here.executor.poll(dead)
    assert seen.status is ObservedStatus.UNREACHABLE
    assert "elsewhere" in seen.evidence["error"]
    _edit(dead, "started.json", started_at=time.time() - 300 - 60 - 61)
    gone = here.executor.poll(dead)
    assert gone.status is ObservedStatus.GONE
    assert "rebooted" not in gone.evidence


def test_whoever_holds_the_lock_lives(here: LocalWorld, dead: Handle) -> None:
    _edit(dead, "started.json", boot_id="another", host="elsewhere")
    lock = runner.take_lock(Path(dead["job_dir"]))
    assert lock is not None
    with lock:
        seen = here.executor.poll(dead)
        assert (seen.status, seen.uptime_s) == (ObservedStatus.RUNNING, 12.5)


def test_a_jump_of_the_wall_clock_is_no_uptime(here: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = _ready(here, here.job("stops"))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    seen = here.executor.poll(handle)
    assert seen.status is ObservedStatus.RUNNING
    assert seen.uptime_s is not None
    assert seen.uptime_s < 1000


def test_a_job_whose_folder_was_deleted_is_ended(here: LocalWorld, home: Path) -> None:
    handle = _ready(here, here.job("ignores"))
    job_dir = Path(handle["job_dir"])
    job_dir.rename(home / "moved")
    assert _end(here, handle).status is ObservedStatus.GONE
    assert processes.processes_of(KEY) == []
    here.executor.cancel(handle, grace_s=0)


def test_a_home_that_is_not_there_is_unreachable(here: LocalWorld, home: Path, claimed: Handle) -> None:
    home.rename(home.with_name("unmounted"))
    assert here.executor.poll(claimed).status is ObservedStatus.UNREACHABLE
    with pytest.raises(Unavailable, match="cannot be reached"):
        here.executor.cancel(claimed, grace_s=0)
    home.with_name("unmounted").rename(home)


@pytest.mark.parametrize(
    ("name", "content", "kills"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\n", 2),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
    ],
)
def test_oom_kills_are_read_from_either_cgroup_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, kills: int
) -> None:
    (tmp_path / name).write_text(content)
    monkeypatch.setattr(processes, "_memory_cgroup", lambda: tmp_path)
    assert processes.oom_kills() == kills


# --- the fake one: what it can be told to do


def test_the_fake_can_fail_before_and_after_the_submit_took_effect(tmp_path: Path) -> None:
    fake = FakeExecutor()
    job = _make_job(tmp_path, "stops", KEY, 300, 60)
    fake.fail_next_submit = "before"
    with pytest.raises(Unavailable):
        fake.submit(job)
    assert fake.find(job.key) is None
    fake.fail_next_submit = "after"
    with pytest.raises(Unavailable):
        fake.submit(job)
    assert fake.find(job.key) == fake.submit(job)
    assert (fake.num_submits, fake.starts[job.key]) == (3, 1)


def test_the_fake_follows_its_script(tmp_path: Path) -> None:
    fake = FakeExecutor(now=1000.0)
    calls: list[str] = []
    fake.script(
        Script(
            start_after_s=5,
            run_s=10,
            vanishes=True,
            evidence={"oom_kills": 1},
            on_start=lambda job: calls.append(f"start {job.key}"),
            on_end=lambda job: calls.append(f"end {job.key}"),
        )
    )
    handle = fake.submit(_make_job(tmp_path, "stops", KEY, 300, 60))
    assert fake.poll(handle).status is ObservedStatus.PENDING
    fake.advance(5)
    assert fake.poll(handle).status is ObservedStatus.RUNNING
    fake.unreachable = True
    assert fake.poll(handle).status is ObservedStatus.UNREACHABLE
    with pytest.raises(Unavailable):
        fake.find(handle["key"])
    fake.unreachable = False
    fake.advance(20)
    end = fake.poll(handle)
    assert (end.status, end.uptime_s, end.exit_code) == (ObservedStatus.GONE, 10, None)
    assert end.evidence["oom_kills"] == 1
    assert calls == [f"start {KEY}", f"end {KEY}"]


def test_the_fake_ends_a_job_now(tmp_path: Path) -> None:
    fake = FakeExecutor()
    handle = fake.submit(_make_job(tmp_path, "stops", KEY, 300, 60))
    fake.advance(7)
    fake.end(KEY, Script(signal=9, evidence={"oom_kills": 2}))
    end = fake.poll(handle)
    assert (end.status, end.signal, end.exit_code, end.uptime_s) == (ObservedStatus.ENDED, 9, None, 7)
    assert end.evidence["oom_kills"] == 2


def test_the_fake_stops_a_pending_job_before_its_start(tmp_path: Path) -> None:
    fake = FakeExecutor()
    started: list[Job] = []
    fake.script(Script(start_after_s=50, on_start=started.append))
    handle = fake.submit(_make_job(tmp_path, "stops", KEY, 300, 60))
    fake.advance(1)
    fake.cancel(handle, grace_s=5)
    assert fake.poll(handle).evidence["stopped_before_start"]
    fake.advance(100)
    assert not started


def _started(handle: Handle) -> dict[str, dict[str, int]]:
    started: dict[str, dict[str, int]] = json.loads((Path(handle["job_dir"]) / "started.json").read_text())
    return started


def _edit(handle: Handle, name: str, **changes: object) -> None:
    path = Path(handle["job_dir"]) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
