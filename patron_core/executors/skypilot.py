"""Runs attempts as SkyPilot managed jobs: it finds the machine, and another when that one is taken away.

Recovery has one owner, SkyPilot. This executor submits a job at most once per key, looks, asks it to stop, cancels.
A job is named patron-<lab>-<key>; that name, and the environment it was submitted with, is how anybody finds it again.
The task is the file in skypilot/ by the job's kind, filled in.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import yaml

from patron_core import settings
from patron_core.errors import Busy, Conflict, OnItsWay, PatronError, Refused, Unavailable
from patron_core.executors import skypilot_client
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus
from patron_core.executors.records import Records
from patron_core.executors.sky_task import job_name, key_of, make_task, probe_task, quota_rows
from patron_core.executors.sky_view import TERMINAL, by_place, machine_s, observe_job
from patron_core.executors.skypilot_client import Client
from patron_core.rundir.rundir import RunDir
from trainer.contract.masking import mask, masked

CANCEL_AGAIN_S = 20.0  # SkyPilot needs that long to cancel; asking every second would only add work
WRITTEN_WITHIN_S = 60.0  # a wish that cannot be written for that long goes through SkyPilot
HEARD_WITHIN_S = 20.0  # a heartbeat older than that is from a machine that is gone
OFFERED_WITHIN_S = 20.0
WATCHED_S = 600.0  # a job that nobody asked for that long is not polled any more


class Watch:
    """SkyPilot's answers about the jobs that somebody polls: one query for all of them, no older than asked for.

    A failure is kept as long as an answer, so that a dead server costs one timeout and not one for every run.
    """

    def __init__(self, client: Client):
        self.client = client
        self._wanted: dict[int, float] = {}  # job id -> when somebody last asked
        self._jobs: dict[int, dict[str, Any]] = {}
        self._error: PatronError | None = None
        self._asked: set[int] = set()  # of which jobs the newest answer is
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def expect(self, job_ids: Sequence[int]) -> None:
        """Of whom the next query is to be as well."""
        with self._lock:
            self._wanted |= dict.fromkeys(job_ids, time.monotonic())

    def job(self, job_id: int, *, max_age_s: float) -> dict[str, Any] | None:
        """None where SkyPilot does not know it. Raises what the client raised."""
        with self._lock:
            now = time.monotonic()
            self._wanted[job_id] = now
            known = self._jobs.get(job_id)
            if known is not None and str(known["status"]) in TERMINAL:
                return known
            if now - self._asked_at >= max_age_s or (job_id not in self._asked and self._error is None):
                self._ask(now)
            if self._error is not None:
                raise self._error
            return self._jobs.get(job_id)

    def forget(self) -> None:
        """Something was changed: the next look asks, also for jobs that were over. A new server counts from 1 again."""
        with self._lock:
            self._jobs, self._asked_at, self._error = {}, float("-inf"), None

    def _ask(self, now: float) -> None:
        self._wanted = {job_id: at for job_id, at in self._wanted.items() if now - at < WATCHED_S}
        over = {i for i, job in self._jobs.items() if str(job["status"]) in TERMINAL}
        try:
            self._asked = set(self._wanted) - over
            found = self.client.jobs(job_ids=sorted(self._asked))
            kept = {job_id: job for job_id, job in self._jobs.items() if job_id not in self._asked}
            self._jobs = kept | {int(job["job_id"]): job for job in found}  # without what it knows no more
            self._error = None
        except PatronError as error:
            self._error = error
        self._asked_at = time.monotonic()


_client = skypilot_client.shared
_watch = Watch(_client)
_unwritten_since: dict[int, float] = {}  # job id -> since when its wish cannot be written
_cancelled_at: dict[int, float] = {}  # job id -> when this process last asked SkyPilot to cancel it


class SkyExecutor:
    """`recovers_itself` is True: the core observes, judges, charges and enforces limits, and never launches again."""

    name = "sky"
    recovers_itself = True

    @property
    def look_every_s(self) -> float:
        return settings.sky_poll_s()

    def expect(self, handles: Sequence[Handle]) -> None:
        _watch.expect([int(handle["job_id"]) for handle in handles])

    def submit(self, job: Job) -> Handle:
        with _claimed(job.key):
            handle = self.find(job.key)
            if handle is None:
                job_id = None
                if not (stage := _client.launching(job.key)):
                    job_id = _client.launch(make_task(job), job_name(job.lab, job.key))
                if job_id is None:
                    raise _on_its_way(job.key, stage or _client.launching(job.key))
                handle = _handle(job.key, job_id, job.run_dir)
                _watch.forget()
        if handle["run_dir"] != job.run_dir:
            raise Conflict(
                f"{job.key} was submitted before, for {handle['run_dir']}, not for {job.run_dir}",
                next="use a new attempt id",
            )
        return handle

    def find(self, key: str) -> Handle | None:
        same = [job for job in _client.jobs(name=key, yaml=True) if key_of(str(job["job_name"])) == key]
        if not same:
            return None
        first = min(same, key=lambda job: int(job["job_id"]))
        if not first["user_yaml"]:  # SkyPilot counts a job some moments before it knows what it is to do
            raise _on_its_way(key, next=f"ask again in a few seconds; or give it up: sky jobs cancel {first['job_id']}")
        return _handle(key, int(first["job_id"]), _run_dir_of(first))

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        """By the word that a guard reads before it starts anything: a late submit costs a machine's first minute."""
        with _claimed(key):
            stage = _client.launching(key)
            if stage == "controller":  # no job yet, and minutes until there is one
                _client.abandon(key)
                stage = ""
            if (handle := self.find(key)) is None:
                if stage:
                    raise _on_its_way(key, stage)
                with suppress(OSError):  # what cannot be written to cannot be trained in
                    Records(run_dir, key).write_stop({"at": time.time(), "kill_after_s": 0.0})
        return handle

    def poll(self, handle: Handle) -> Observation:
        job_id = int(handle["job_id"])
        try:
            job = _watch.job(job_id, max_age_s=settings.sky_poll_s())
            if job is None:
                return Observation(
                    status=ObservedStatus.GONE,
                    evidence={"error": f"SkyPilot knows no job {job_id}", "controller_failed": True},
                )
            return observe_job(masked(job), Records(handle["run_dir"], handle["key"]).starts())
        except PatronError as error:
            return _by_records(handle, {"error": error.message, "next": error.next})
        except OSError as error:
            return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": str(error)})

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """By a word in the run directory, which the guard on the machine obeys; through SkyPilot where there is none,
        and where it has to be now."""
        job_id = int(handle["job_id"])
        job = _watch.job(job_id, max_age_s=0.0)
        if job is None or str(job["status"]) in TERMINAL:
            return
        heard = _tell(handle, str(job["status"]), grace_s)
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
        job = _watch.job(int(handle["job_id"]), max_age_s=settings.sky_poll_s())
        if printed or job is None or str(job["status"]) not in TERMINAL:
            return printed  # asking for the log of a job that has none yet would wait for it
        return mask("\n".join(_client.logs(int(handle["job_id"]), lines).splitlines()[-lines:]))


def check_server() -> None:
    """Raises what SkyPilot's server says where it could start nothing now: not installed, not up, no answer."""
    _client.server()


def check_offered(machine: Mapping[str, Any]) -> None:
    """Raises Refused where what a plan asks for cannot be had: none of its rows is among SkyPilot's feasible resources,
    or the quota for all of them is zero where a cloud says so. An answer that does not come in time refuses nothing."""
    with suppress(Busy):
        _client.check_feasible(probe_task(machine), timeout_s=OFFERED_WITHIN_S)
        rows = quota_rows(machine)
        if rows and not any(_client.has_quota(row, timeout_s=OFFERED_WITHIN_S) for row in rows):
            said = ", ".join(f"{row['accelerators']} in {row['infra']}" for row in rows)
            raise Refused(f"the quota is zero for {said}", next="patron doctor")


def _handle(key: str, job_id: int, run_dir: str) -> Handle:
    return {"executor": "sky", "key": key, "job_id": job_id, "run_dir": run_dir}


def _on_its_way(key: str, stage: str = "", *, next: str = "ask again in a few seconds") -> OnItsWay:
    first = ": SkyPilot makes the machine of its jobs controller first, which can take ten minutes"
    return OnItsWay(f"the launch of {key} is still on its way{first if stage == 'controller' else ''}", next=next)


def _by_records(handle: Handle, said: dict[str, Any]) -> Observation:
    """SkyPilot does not answer; what its machines write down is charged all the same."""
    starts: list[dict[str, Any]] = []
    with suppress(OSError):
        starts = Records(handle["run_dir"], handle["key"]).starts()
    if placed := by_place(starts):
        said["machine_s"] = placed
    return Observation(status=ObservedStatus.UNREACHABLE, uptime_s=machine_s(starts) or None, evidence=said)


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


def _tell(handle: Handle, status: str, grace_s: float) -> bool:
    """Whether a guard is there that can read the wish. Raises Unavailable where the run directory may come back."""
    job_id, records = int(handle["job_id"]), Records(handle["run_dir"], handle["key"])
    try:
        _write_wish(records, grace_s)
        heard = _has_a_listener(status, records.starts())
    except OSError as error:
        since = _unwritten_since.setdefault(job_id, time.monotonic())
        if grace_s > 0 and time.monotonic() - since < WRITTEN_WITHIN_S:
            raise Unavailable(
                f"the run directory {handle['run_dir']} cannot be written: {error}", next="mend that, then try again"
            ) from error
        return False  # a run directory that is gone must not keep a machine from being stopped
    _unwritten_since.pop(job_id, None)
    return heard


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
