"""The run spec: checked by the very code that the workload reads it with, frozen, hashed.

The core knows a workload as a command, a run directory and exit codes. What a spec means stays on the trainer's side.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from patron_core import settings
from patron_core.errors import InvalidInput
from trainer.contract.grace import stop_within_s
from trainer.contract.remote import join
from trainer.contract.spec import SpecError, TrainSpec

WORKLOAD = "trainer"


def check_spec(values: Mapping[str, Any]) -> TrainSpec:
    """A valid spec, or InvalidInput with every problem at once."""
    try:
        return TrainSpec.from_dict(values)
    except SpecError as error:
        raise InvalidInput(error.problems, next="correct the values named and call again") from error


def train_command(
    run_dir: str, attempt_id: str, deadline_s: float, environment_hash: str | None, device: str | None = None
) -> tuple[str, ...]:
    """Start or resume the training in `run_dir`; on another environment than the one proven it exits with 78."""
    proven = ("--expect-environment", environment_hash) if environment_hash else ()
    return (*_start("trainer.train", run_dir, attempt_id, deadline_s), *proven, *_on(device))


def dryrun_command(
    run_dir: str, attempt_id: str, deadline_s: float, burst_steps: int, device: str | None = None
) -> tuple[str, ...]:
    """A short burst of the same spec, with a kill-and-resume round trip, in a run directory of its own.

    `device`: the GPU that was planned with; on anything else it exits with 78.
    """
    return (*_start("trainer.dryrun", run_dir, attempt_id, deadline_s), "--burst", str(burst_steps), *_on(device))


def _on(device: str | None) -> tuple[str, ...]:
    return ("--expect-device", device) if device else ()


def environment_command(run_dir: str) -> tuple[str, ...]:
    """Prints the environment of this machine as JSON, its hash included."""
    return (*_python("trainer.environment"), join(run_dir, "spec.json"))


def workload_env() -> dict[str, str]:
    """What every command above needs in its environment: the one cache, so that data is prepared once; and the time to
    stop in that whoever kills it counts with."""
    return {"PATRON_CACHE": str(settings.cache()), "PATRON_STOP_WITHIN_S": f"{stop_within_s():g}"}


def _start(module: str, run_dir: str, attempt_id: str, deadline_s: float) -> tuple[str, ...]:
    where = (join(run_dir, "spec.json"), run_dir)
    return (*_python(module), *where, "--attempt", attempt_id, "--deadline-s", f"{deadline_s:.1f}")


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module)  # never from the folder that it happens to start in
