"""Runs attempts as SkyPilot managed jobs: it finds the machine, and another when that one is taken away.

Recovery has one owner, SkyPilot. This executor submits a job at most once per key, looks, asks it to stop, cancels.
A job is named patron-<lab>-<key>; that name, and the environment it was submitted with, is how anybody finds it again.
The task is the file in skypilot/ by the job's kind, filled in.

PATRON_SKY_INFRA    only there, and not where prices are lowest: gcp/us-central1, slurm/cluster/partition, k8s/context
PATRON_SKY_PYTHON   a python on the machines that has everything: nothing is uploaded or installed
PATRON_SKY_CACHE    where prepared data is kept there (default ~/.cache/patron of the machine)
PATRON_SKY_POLL_S   how old an answer of SkyPilot may be (default 10)
"""

from __future__ import annotations

import copy
import fcntl
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from patron_core import settings
from patron_core.errors import Busy, Conflict, PatronError, Refused, Unavailable
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus
from patron_core.executors.records import Records
from patron_core.executors.sky_view import TERMINAL, observe_job
from patron_core.executors.skypilot_client import Client
from patron_core.executors.staging import stage
from patron_core.rundir.rundir import RunDir
from trainer.contract.code import code_hash

TASKS = Path(__file__).parents[2] / "skypilot"
DEFAULT_POLL_S = 10.0
CANCEL_AGAIN_S = 20.0  # SkyPilot needs that long to cancel; asking every second would only add work
HEARD_WITHIN_S = 20.0  # a heartbeat older than that is from a machine that is gone
WATCHED_S = 600.0  # a job that nobody asked for that long is not polled any more
_NO_SPOT = ("slurm", "k8s", "kubernetes", "ssh")  # where SkyPilot knows of no spot machines


class Watch:
    """SkyPilot's answers about the jobs that somebody polls: one query for all of them, no older than asked for.

    A failure is kept as long as an answer, so that a dead server costs one timeout and not one for every run.
    """

    def __init__(self, client: Client):
        self.client = client
        self._wanted: dict[int, float] = {}  # job id -> when somebody last asked
        self._jobs: dict[int, dict[str, Any]] = {}
        self._error: PatronError | None = None
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def job(self, job_id: int, *, max_age_s: float) -> dict[str, Any] | None:
        """None where SkyPilot does not know it. Raises what the client raised."""
        with self._lock:
            now = time.monotonic()
            self._wanted[job_id] = now
            known = self._jobs.get(job_id)
            if known is not None and str(known["status"]) in TERMINAL:
                return known
            if now - self._asked_at >= max_age_s or (known is None and self._error is None):
                self._ask(now)
            if self._error is not None:
                raise self._error
            return self._jobs.get(job_id)

    def forget(self) -> None:
        """Something was changed: the next look asks."""
        with self._lock:
            self._asked_at, self._error = float("-inf"), None

    def _ask(self, now: float) -> None:
        self._wanted = {job_id: at for job_id, at in self._wanted.items() if now - at < WATCHED_S}
        over = {i for i, job in self._jobs.items() if str(job["status"]) in TERMINAL}
        try:
            found = self.client.jobs(job_ids=sorted(set(self._wanted) - over))
            self._jobs |= {int(job["job_id"]): job for job in found}
            self._error = None
        except PatronError as error:
            self._error = error
        self._asked_at = time.monotonic()


_client = Client()
_watch = Watch(_client)
_cancelled_at: dict[int, float] = {}  # job id -> when this process last asked SkyPilot to cancel it


class SkyExecutor:
    """`recovers_itself` is True: the core observes, judges, charges and enforces limits, and never launches again."""

    name = "sky"
    recovers_itself = True

    def submit(self, job: Job) -> Handle:
        with _claimed(job.key):
            handle = self.find(job.key)
            if handle is None:
                if _client.is_launching(_name(job.key)):
                    raise _on_its_way(job.key, "ask again in a few seconds")
                task = make_task(job)
                handle = _handle(job.key, _client.launch(task, _name(job.key)), job.run_dir)
                _watch.forget()
        if handle["run_dir"] != job.run_dir:
            raise Conflict(
                f"{job.key} was submitted before, for {handle['run_dir']}, not for {job.run_dir}",
                next="use a new attempt id",
            )
        return handle

    def find(self, key: str) -> Handle | None:
        same = [job for job in _client.jobs(name=_name(key), yaml=True) if job["job_name"] == _name(key)]
        if not same:
            return None
        first = min(same, key=lambda job: int(job["job_id"]))
        if not first["user_yaml"]:  # SkyPilot counts a job some moments before it knows what it is to do
            raise _on_its_way(key, f"ask again in a few seconds; if it stays so: sky jobs cancel {first['job_id']}")
        return _handle(key, int(first["job_id"]), _run_dir_of(first))

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        """By the word that a guard reads before it starts anything: a late submit costs a machine's first minute."""
        with _claimed(key):
            if (handle := self.find(key)) is None:
                if _client.is_launching(_name(key)):
                    raise _on_its_way(key, "ask again in a few seconds")
                with suppress(OSError):  # what cannot be written to cannot be trained in
                    Records(run_dir, key).write_stop({"at": time.time(), "kill_after_s": 0.0})
        return handle

    def poll(self, handle: Handle) -> Observation:
        job_id = int(handle["job_id"])
        try:
            job = _watch.job(job_id, max_age_s=poll_s())
            if job is None:
                return Observation(
                    status=ObservedStatus.GONE,
                    evidence={"error": f"SkyPilot knows no job {job_id}", "controller_failed": True},
                )
            return observe_job(job, Records(handle["run_dir"], handle["key"]).starts())
        except PatronError as error:
            said = {"error": error.message, "next": error.next}
            return Observation(status=ObservedStatus.UNREACHABLE, evidence=said)
        except OSError as error:
            return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": str(error)})

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """By a word in the run directory, which the guard on the machine obeys; through SkyPilot where there is none,
        and where it has to be now."""
        job_id = int(handle["job_id"])
        job = _watch.job(job_id, max_age_s=0.0)
        if job is None or str(job["status"]) in TERMINAL:
            return
        records = Records(handle["run_dir"], handle["key"])
        with _asking(handle):
            _write_wish(records, grace_s)
            heard = _has_a_listener(str(job["status"]), records.starts())
        if (not heard or grace_s == 0.0) and str(job["status"]) != "CANCELLING":
            now = time.monotonic()
            if now - _cancelled_at.get(job_id, float("-inf")) >= CANCEL_AGAIN_S:
                _client.cancel([job_id])
                _cancelled_at[job_id] = now
                _watch.forget()

    def logs(self, handle: Handle, lines: int) -> str:
        """What the machine's record holds, else the trainer's own log, else SkyPilot's."""
        if lines <= 0:
            return ""
        with suppress(OSError):
            starts = Records(handle["run_dir"], handle["key"]).starts()
            if starts and starts[-1]["tail"]:
                return "\n".join(starts[-1]["tail"][-lines:])
        printed = RunDir(handle["run_dir"]).log_tail(handle["key"], lines)
        job = _watch.job(int(handle["job_id"]), max_age_s=poll_s())
        if printed or job is None or str(job["status"]) not in TERMINAL:
            return printed  # asking for the log of a job that has none yet would wait for it
        return "\n".join(_client.logs(int(handle["job_id"]), lines).splitlines()[-lines:])


def check_server() -> None:
    """Raises what SkyPilot's server says where it could start nothing now: not installed, not up, no answer."""
    _client.is_launching(prefix())


def poll_s() -> float:
    return float(os.environ.get("PATRON_SKY_POLL_S") or DEFAULT_POLL_S)


def make_task(job: Job) -> dict[str, Any]:
    """The task file of the job's kind, filled in. Raises Refused where the file is not there."""
    task = _task_file("dryrun.yaml" if job.kind == "dryrun" else "train.yaml")
    task["name"] = _name(job.key)
    task["resources"] = _resources(task["resources"], job.machine)
    python = os.environ.get("PATRON_SKY_PYTHON", "")
    if python:
        task.pop("workdir")
    else:
        task["workdir"] = str(stage(TASKS.parent))
    here = {"PATRON_CACHE"}  # a path of this machine says nothing there
    task["envs"] |= {name: value for name, value in job.env.items() if name not in here} | {
        "PATRON_RUN_DIR": job.run_dir,
        "PATRON_ATTEMPT": job.key,
        "PATRON_DEADLINE_S": f"{job.deadline_s:.1f}",
        "PATRON_GRACE_S": f"{job.grace_s:.1f}",
        "PATRON_SUBMITTED_AT": f"{time.time():.1f}",
        "PATRON_COMMAND": shlex.join(["python" if word == sys.executable else word for word in job.command]),
        "PATRON_PYTHON": python,
    }
    if cache := os.environ.get("PATRON_SKY_CACHE"):
        task["envs"]["PATRON_CACHE"] = cache
    return task


def setup_of_machines() -> dict[str, str]:
    """What every machine is set up with: a plan that was proven with one setup is not proven with another."""
    if python := os.environ.get("PATRON_SKY_PYTHON"):
        return {"PATRON_SKY_PYTHON": python}
    requirements = _task_file("train.yaml")["envs"]["PATRON_REQUIREMENTS"]
    return {"PATRON_REQUIREMENTS": requirements, "the trainer's sources": code_hash()}


def _task_file(name: str) -> dict[str, Any]:
    try:
        task: dict[str, Any] = yaml.safe_load((TASKS / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"the task file cannot be read: {error}", next="run Patron from its checkout") from error
    return task


def _resources(template: dict[str, Any], machine: dict[str, Any] | Any) -> dict[str, Any]:
    """What to ask SkyPilot for: the attempt's accelerator, spot or not, in the places that are allowed."""
    found = copy.deepcopy(template)
    spot = bool(machine.get("spot", found.get("use_spot")))
    if machine.get("accelerator"):
        found["accelerators"] = f"{machine['accelerator']}:1"
    only = settings.sky_infra()
    places = list(machine.get("places") or ()) or ([only] if only else [])
    if places:
        found.pop("any_of", None)
        found["ordered"] = [{"infra": place} for place in places]
    else:  # the file's own, without those that have another accelerator, or no spot machines
        kept = [p for p in found["any_of"] if "accelerators" not in p and p.get("use_spot", spot) == spot]
        found["any_of"] = [{"infra": place["infra"]} for place in kept]
    found["use_spot"] = spot and not any(place.startswith(_NO_SPOT) for place in places)
    return found


def prefix() -> str:
    """What the names of all jobs of this lab begin with."""
    return f"patron-{settings.lab_id()}-"


def _name(key: str) -> str:
    return prefix() + key


def _handle(key: str, job_id: int, run_dir: str) -> Handle:
    return {"executor": "sky", "key": key, "job_id": job_id, "run_dir": run_dir}


def _on_its_way(key: str, what_next: str) -> Unavailable:
    return Busy(f"the launch of {key} is still on its way", next=what_next)


def _run_dir_of(job: dict[str, Any]) -> str:
    """From the environment that the job was submitted with."""
    try:
        *_, task = yaml.safe_load_all(job["user_yaml"])  # after a header of SkyPilot's
        return str(task["envs"]["PATRON_RUN_DIR"])
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        raise Unavailable(
            f"SkyPilot's job {job['job_id']} is named {job['job_name']}, and was not submitted by Patron",
            next=f"sky jobs queue; sky jobs cancel {job['job_id']}",
        ) from None


def _has_a_listener(status: str, starts: list[dict[str, Any]]) -> bool:
    """Whether a guard is there to read our wish: SkyPilot says that it runs, or a heartbeat does before SkyPilot."""
    if not starts or starts[-1]["ended"]:
        return False
    return status == "RUNNING" or (status == "STARTING" and time.time() - starts[-1]["at"] < HEARD_WITHIN_S)


def _write_wish(records: Records, grace_s: float) -> None:
    """The shorter grace stays."""
    before_s = (records.stop() or {}).get("kill_after_s")
    if before_s is None or grace_s < before_s:
        records.write_stop({"at": time.time(), "kill_after_s": grace_s})


@contextmanager
def _claimed(key: str) -> Iterator[None]:
    """One submit of a key at a time, among the processes of this lab."""
    folder = settings.make_home() / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _asking(handle: Handle) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the run directory {handle['run_dir']} cannot be written: {error}", next="mend that, then try again"
        ) from error
