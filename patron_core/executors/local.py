"""Runs attempts on this machine, in processes that outlive the notebook that started them and are found again.

Everything that is known of a job lies in PATRON_HOME/jobs/<key>; runner.py says what each file is. The folder appears
whole, with its job.json, before anything starts, and there is one for a key for ever. The runner starts the workload
only under the job's lock and if none was started before, so starting a runner twice is harmless.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patron_core import settings
from patron_core.errors import Conflict, Unavailable
from patron_core.executors import processes
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus
from patron_core.executors.local_view import bury_unstarted, is_unstarted, observe, unstarted_end
from patron_core.rundir.files import read_json, tail, write_json
from patron_core.rundir.rundir import RunDir
from trainer.contract.keys import is_key
from trainer.contract.masking import mask


class LocalExecutor:
    """`recovers_itself` is False: the core decides whether to launch again."""

    name = "local"
    recovers_itself = False
    look_every_s = 0.0

    def expect(self, handles: Sequence[Handle]) -> None:
        """Each has files of its own."""

    def submit(self, job: Job) -> Handle:
        with _asking():
            return self._submit(job)

    def _submit(self, job: Job) -> Handle:
        job_dir = _claim(job.key, _content(job))
        claimed = read_json(job_dir / "job.json") or {}
        if claimed.get("run_dir") != job.run_dir:
            raise Conflict(
                f"{job.key} was submitted before, for {claimed.get('run_dir')}, not for {job.run_dir}",
                next="use a new attempt id",
            )
        if is_unstarted(job_dir):
            _start_runner(job_dir)
        return _handle(job.key, job_dir)

    def find(self, key: str) -> Handle | None:
        job_dir = _jobs_folder() / key
        return _handle(key, job_dir) if is_key(key) and (job_dir / "job.json").exists() else None

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        """A job that ended before it began: whoever comes later finds that, and starts nothing."""
        with _asking():
            content = {"key": key, "run_dir": run_dir, "deadline_s": 0.0, "grace_s": 0.0, "forbidden": True}
            job_dir = _claim(key, content, end=unstarted_end({"stopped_before_start": True}))
            claimed = read_json(job_dir / "job.json") or {}
        return None if claimed.get("forbidden") else _handle(key, job_dir)

    def poll(self, handle: Handle) -> Observation:
        try:
            return observe(handle["key"], Path(handle["job_dir"]))
        except OSError as error:
            return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": str(error)})

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        job_dir = Path(handle["job_dir"])
        with _asking():
            if _is_over(job_dir):
                return
            asked = read_json(job_dir / "cancel.json")
            if asked is None or grace_s < asked["grace_s"]:
                asked = {"at": time.time(), "monotonic": time.monotonic(), "boot_id": processes.boot_id()}
                write_json(job_dir / "cancel.json", asked | {"grace_s": grace_s})
            _wake(job_dir)

    def logs(self, handle: Handle, lines: int) -> str:
        job_dir = Path(handle["job_dir"])
        job = read_json(job_dir / "job.json")
        printed = RunDir(job["run_dir"]).log_tail(handle["key"], lines) if job else ""
        return printed or mask(tail(job_dir / "workload.log", lines) or tail(job_dir / "runner.log", lines))


@contextmanager
def _asking() -> Iterator[None]:
    """A disk that is full or not there is Unavailable, like a server that does not answer."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the jobs in {_jobs_folder()} cannot be reached: {error}", next="mend that folder, then try again"
        ) from error


def _jobs_folder() -> Path:
    return settings.home() / "jobs"


def _handle(key: str, job_dir: Path) -> Handle:
    return {"executor": "local", "key": key, "job_dir": str(job_dir)}


def _content(job: Job) -> dict[str, Any]:
    return {
        "key": job.key,
        "command": job.command,
        "run_dir": job.run_dir,
        "env": dict(job.env),
        "deadline_s": job.deadline_s,
        "grace_s": job.grace_s,
    }


def _claim(key: str, content: dict[str, Any], *, end: dict[str, Any] | None = None) -> Path:
    """The job's folder, made if there is none. It appears whole or not at all, for one claimant only."""
    job_dir = _jobs_folder() / key
    if (job_dir / "job.json").exists():
        return job_dir
    settings.make_home()
    _jobs_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=_jobs_folder(), prefix=".claim-"))  # for us only: env may hold secrets
    here = {
        "boot_id": processes.boot_id(),
        "host": os.uname().nodename,
        "submitted_at": time.time(),
        "submitted_monotonic": time.monotonic(),
    }
    write_json(draft / "job.json", content | here)
    if end is not None:
        write_json(draft / "exit.json", end)
    try:
        draft.rename(job_dir)
    except OSError:
        shutil.rmtree(draft)
        if not (job_dir / "job.json").exists():
            raise
    return job_dir


def _start_runner(job_dir: Path) -> None:
    command = [sys.executable, "-P", "-m", "patron_core.executors.runner", str(job_dir)]
    with (job_dir / "runner.log").open("ab") as log:
        started = subprocess.run(  # returns as soon as the runner has cut itself loose
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=False
        )
    if started.returncode != 0:
        raise Unavailable(
            f"the runner of {job_dir.name} did not start, exit code {started.returncode}: "
            + tail(job_dir / "runner.log", 1),
            next=f"read {job_dir / 'runner.log'}, then submit again",
        )


def _is_over(job_dir: Path) -> bool:
    if not job_dir.parent.is_dir():
        raise FileNotFoundError(f"{job_dir.parent} is not there")
    return not job_dir.exists() or (job_dir / "exit.json").exists()


def _wake(job_dir: Path) -> None:
    """Have a request seen at once. The runner looks every second anyway, also from another machine."""
    started = read_json(job_dir / "started.json")
    if started is None:
        bury_unstarted(job_dir, {"stopped_before_start": True})
    elif not processes.send_signal(started["runner"]["pid"], started["runner"]["mark"], signal.SIGUSR1):
        observe(job_dir.name, job_dir)  # kills what a killed runner left
