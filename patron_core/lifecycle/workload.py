"""The run spec: checked by the very code that the workload reads it with, frozen, hashed.

The core knows a workload as a command, a run directory and exit codes. What a spec means stays on the trainer's side.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from patron_core import settings
from patron_core.errors import InvalidInput, Refused
from patron_core.rundir.rundir import RunDir
from patron_core.store.records import Run
from trainer.contract.devices import describe_cpu
from trainer.contract.foreign import SOURCES, ForeignSpec, is_foreign
from trainer.contract.grace import stop_within_s
from trainer.contract.ranks import ONE, WorldSize, torchrun
from trainer.contract.remote import join
from trainer.contract.spec import SpecError, TrainSpec, canonical_json

WORKLOAD = "trainer"
FOREIGN = "foreign"  # training code of others (patron_core.workloads)


class _Programs(NamedTuple):
    """Modules that keep the contract of a run directory."""

    train: str
    dryrun: str
    environment: str


_PROGRAMS = {
    WORKLOAD: _Programs("trainer.train", "trainer.dryrun", "trainer.environment"),
    FOREIGN: _Programs("trainer.foreign.run", "trainer.foreign.run", "trainer.foreign.environment"),
}


def check_spec(values: Mapping[str, Any]) -> TrainSpec:
    """A valid spec, or InvalidInput with every problem at once."""
    if is_foreign(values):
        raise InvalidInput(["it is a run of foreign code, which has no such fields"], next="name its own parameters")
    try:
        return TrainSpec.from_dict(values)
    except SpecError as error:
        raise InvalidInput(error.problems, next="correct the values named and call again") from error


def foreign_spec(run: Run) -> ForeignSpec | None:
    """Of a run of foreign code; None of a run of the built-in trainer."""
    return ForeignSpec.from_dict(run.spec) if run.workload == FOREIGN else None


def spec_of(run: Run) -> TrainSpec | ForeignSpec:
    return foreign_spec(run) or check_spec(run.spec)


def prepare(run: Run, directory: str) -> None:
    """Put into the directory of an attempt what it is started with: the frozen spec, and the files of foreign code that
    were put into the run's when it was planned. Raises Conflict for another spec, Refused where they are gone."""
    RunDir(directory).write_spec(canonical_json(run.spec))
    if run.workload != FOREIGN:
        return
    RunDir(directory).put_file(SOURCES, sources_of(run))


def sources_of(run: Run) -> bytes:
    """The files of foreign code that planning put into the run's directory. Raises Refused where they are gone."""
    content = RunDir(run.run_dir).file(SOURCES)
    if content is None:
        raise Refused(f"the files of run {run.id} are not in {run.run_dir}", next="plan it again")
    return content


def machine_for(run: Run, price: Mapping[str, Any]) -> dict[str, Any]:
    """What an attempt asks for where machines are made: as it was priced, in the image that foreign code names."""
    machine, code = dict(price.get("machine") or {}), foreign_spec(run)
    image = code.environment.image if code is not None else None
    return machine | ({"image": image} if image and machine else {})


def train_command(
    run_dir: str,
    attempt_id: str,
    deadline_s: float,
    environment_hash: str | None,
    device: str | None = None,
    world: WorldSize = ONE,
    *,
    workload: str = WORKLOAD,
) -> tuple[str, ...]:
    """Start or resume the training in `run_dir`; on another environment than the one proven it exits with 78."""
    proven = ("--expect-environment", environment_hash) if environment_hash else ()
    command = (*_start(_PROGRAMS[workload].train, run_dir, attempt_id, deadline_s), *proven, *_on(device))
    return tuple(torchrun(command)) if world.ranks > 1 and workload == WORKLOAD else command


def dryrun_command(
    run_dir: str,
    attempt_id: str,
    deadline_s: float,
    burst_steps: int,
    device: str | None = None,
    *,
    workload: str = WORKLOAD,
) -> tuple[str, ...]:
    """A short burst of the same spec, in a run directory of its own; the trainer's has a kill and a resume in it.

    `device`: the GPU that was planned with; on anything else it exits with 78. Over several processes it starts as many
    as the training will be, by what `workload_env` says.
    """
    start = _start(_PROGRAMS[workload].dryrun, run_dir, attempt_id, deadline_s)
    return (*start, "--burst", str(burst_steps), *_on(device))


def _on(device: str | None) -> tuple[str, ...]:
    return ("--expect-device", device) if device else ()


def environment_command(run_dir: str, *, workload: str = WORKLOAD) -> tuple[str, ...]:
    """Prints the environment of this machine as JSON, its hash included."""
    return (*_python(_PROGRAMS[workload].environment), join(run_dir, "spec.json"))


def workload_env(world: WorldSize = ONE) -> dict[str, str]:
    """What every command above needs in its environment: the one cache, so that data is prepared once; the time to stop
    in that whoever kills it counts with; how many processes there are, and each one's share of this machine's cores."""
    found = {"PATRON_CACHE": str(settings.cache()), "PATRON_STOP_WITHIN_S": f"{stop_within_s():g}"} | world.environ()
    if world.ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        found["OMP_NUM_THREADS"] = str(max(1, int(describe_cpu()["cores"]) // world.per_node))
    return found


def world_of(price: Mapping[str, Any]) -> WorldSize:
    """The processes that an attempt was priced for, and that a dryrun proved."""
    return WorldSize(**price["world"]) if price.get("world") else ONE


def _start(module: str, run_dir: str, attempt_id: str, deadline_s: float) -> tuple[str, ...]:
    where = (join(run_dir, "spec.json"), run_dir)
    return (*_python(module), *where, "--attempt", attempt_id, "--deadline-s", f"{deadline_s:.1f}")


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module)  # never from the folder that it happens to start in
