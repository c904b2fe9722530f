"""What an executor is given to start: an attempt of a run, with its command, its environment and its machine. Pure."""

from __future__ import annotations

from typing import Any

from patron_core.executors.base import Job
from patron_core.lifecycle import workload
from patron_core.store.records import Attempt, Run
from trainer.contract import control


def job_of(run: Run, attempt: Attempt, directory: str, *, deadline_s: float, grace_s: float, lab: str) -> Job:
    """`directory`: the attempt's own run directory; times in seconds, as in Job."""
    control_key = {control.KEY_VARIABLE: attempt.control_key} if attempt.control_key else {}
    world = workload.world_of(attempt.price)
    return Job(
        key=attempt.id,
        command=_command(run, attempt, directory, deadline_s),
        run_dir=directory,
        env=workload.workload_env(world) | _pace_of_saves(run, attempt) | control_key,
        deadline_s=deadline_s,
        grace_s=grace_s,
        kind=attempt.kind,
        lab=lab,
        machine=_machine(run, attempt),
    )


def _machine(run: Run, attempt: Attempt) -> dict[str, Any]:
    """What to ask for; the disk by the plan as it stands now, which funding may have made longer."""
    asked, num_bytes = workload.machine_for(run, attempt.price), (run.estimate or {}).get("disk_bytes")
    return asked | {"disk_bytes": num_bytes} if asked and num_bytes else dict(asked)


def _pace_of_saves(run: Run, attempt: Attempt) -> dict[str, str]:
    """Where each checkpoint that goes up costs something, none comes sooner than was counted with."""
    interval_s = (run.estimate or {}).get("checkpoint_interval_s")
    return {"PATRON_SAVE_AT_LEAST_S": f"{interval_s:.0f}"} if attempt.price.get("transfer") and interval_s else {}


def _command(run: Run, attempt: Attempt, directory: str, deadline_s: float) -> tuple[str, ...]:
    device = (attempt.price.get("machine") or {}).get("device")
    if attempt.kind == "dryrun":
        steps = int(attempt.price["burst_steps"])
        return workload.dryrun_command(directory, attempt.id, deadline_s, steps, device, workload=run.workload)
    expected = (run.dryrun or {}).get("environment_hash")
    world = workload.world_of(attempt.price)
    return workload.train_command(directory, attempt.id, deadline_s, expected, device, world, workload=run.workload)
