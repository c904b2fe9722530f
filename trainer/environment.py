"""environment.json: what a run was made with, and a hash over the part of it that can change results.

A resume whose hash differs is refused: curves that join two environments look like one experiment and are two. The
driver, the git commit and the place of files are written down but not hashed; the trainer's sources that compute are.
Of Python's version the patch is not hashed: 3.11.7 and 3.11.14 meet in one run after a recovery, and compute the same.
The number of processes is not hashed either: a run may go on with as many as can be had, and only rounding differs.

    python -m trainer.environment SPEC.json     print this machine's, as JSON (prepares the data if it is not cached)
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from trainer.contract.code import code_hash
from trainer.contract.commit import commit_of
from trainer.contract.devices import find_device
from trainer.contract.exits import EXIT_BAD_SPEC, EXIT_RESUME, BadSpec, EnvironmentDrift, first_line
from trainer.contract.files import cache_folder, read_json, write_json
from trainer.contract.layout import ENVIRONMENT
from trainer.contract.remote import read_anywhere
from trainer.contract.spec import SpecError, TrainSpec, canonical_json
from trainer.contract.words import printable
from trainer.data import DataError, PreparedData, Unreachable, prepare
from trainer.data.making import Wanted
from trainer.runtime.machine import Machine, find_machine
from trainer.runtime.world import World

PACKAGES = ("torch", "numpy", "polars", "tokenizers", "triton")
ONE_ROW = Wanted(end_row=1, val_rows=1)  # what the data is, not all of it
HASHED = (
    "python", "torch", "cuda", "device", "device_name", "dtype", "compile", "cpu_kernel", "threads", "packages",
    "code_hash", "data_hash", "tokenizer_hash",
)  # fmt: skip


def describe_environment(machine: Machine, data: PreparedData, num_devices: int = 1) -> dict[str, Any]:
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver_version() if machine.is_cuda else None,
        "device": machine.device.type,
        "device_name": machine.device_name,
        "num_devices": num_devices,
        "dtype": machine.dtype_name,
        "compile": machine.compile,
        "cpu_kernel": machine.has_cpu_kernel,
        "packages": _package_versions(),
        **commit_of(Path(__file__).parents[1]),
        "code_hash": code_hash(),
        "data_hash": data.data_hash,
        "tokenizer_hash": data.tokenizer_hash,
        "data_source": data.where,
        # sums over threads depend on their number; on a GPU they only feed it
        "threads": None if machine.is_cuda else torch.get_num_threads(),
    }
    hashed = canonical_json({key: _that_matters(environment, key) for key in HASHED})
    return environment | {"hash": hashlib.sha256(hashed.encode()).hexdigest()[:16]}


def _that_matters(environment: dict[str, Any], key: str) -> Any:
    """Of what is hashed, the part that can change a number."""
    value = environment.get(key)
    return ".".join(str(value).split(".")[:2]) if key == "python" and value else value


def check_environment(run_dir: Path, environment: dict[str, Any], expected_hash: str | None = None) -> None:
    """Write environment.json at the first start; later, raise EnvironmentDrift when this one would change results.

    `expected_hash` is that of an environment that the plan was proven in: it is held against the first start too.
    """
    if expected_hash is not None and environment["hash"] != expected_hash:
        raise EnvironmentDrift(
            f"this environment has hash {environment['hash']}, the plan was proven in one with {expected_hash}. "
            "Prove it again here (a dryrun), or compare the two environment.json"
        )
    path = run_dir / ENVIRONMENT
    before = read_json(path)
    if before is None:
        write_json(path, environment)
        return
    if before.get("hash") == environment["hash"]:
        return
    differing = [key for key in HASHED if _that_matters(before, key) != _that_matters(environment, key)]
    if not differing:
        return  # its hash was made by other rules, and nothing that matters is another
    if differing == ["threads"] and before.get("num_devices") != environment["num_devices"]:
        return  # processes share the cores: with another number of them comes another number of threads
    named = [f"{key}: was {before.get(key)!r}, now {environment[key]!r}" for key in differing]
    raise EnvironmentDrift(
        f"the environment differs from the one this run began with: {'; '.join(named)}. "
        f"Restore it, start a new run, or delete {path} to go on knowingly"
    )


def check_device(spec: TrainSpec, expected: str | None) -> None:
    """Raise EnvironmentDrift unless CUDA works here, on the GPU that was planned with: nothing else proves a plan.

    `expected` is a name of contract.gpus; None expects nothing.
    """
    if expected is None:
        return
    if spec.device == "cpu":
        raise EnvironmentDrift(
            f"the plan is for an {expected}, and the spec says device: cpu. Set device to auto, or plan it for a CPU"
        )
    driver = f"the NVIDIA driver here is {_driver_version() or 'missing'}, torch {torch.__version__} is built for "
    driver += f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            why = "it does not say why"
        except (RuntimeError, AssertionError) as error:
            why = first_line(error)
        raise EnvironmentDrift(
            f"the plan is for an {expected}, and torch sees no CUDA device: {why}; {driver}. Take another place, or an "
            "image with a newer driver"
        )
    name = torch.cuda.get_device_name(0)
    found = find_device(name)
    if found is None or found.name != expected:
        raise EnvironmentDrift(f"the plan is for an {expected}, and this machine has an {name}. Take another place")


def check_same_everywhere(world: World, environment: dict[str, Any]) -> None:
    """Raise EnvironmentDrift on a rank whose environment is not rank 0's."""
    first = world.first_says(environment)
    differing = [
        f"{key}: {first[key]!r} there, {environment[key]!r} here" for key in HASHED if first[key] != environment[key]
    ]
    if differing:
        raise EnvironmentDrift(
            f"rank {world.rank} has another environment than rank 0: {'; '.join(differing)}. Make the machines alike"
        )


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _driver_version() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, timeout=10, check=False, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.environment", description="Print the environment as JSON.")
    parser.add_argument("spec", metavar="SPEC.json", help="a path or a URL")
    args = parser.parse_args(argv)

    def say(text: str, _fraction: float | None = None) -> None:
        print(printable(text), file=sys.stderr)

    try:
        spec = TrainSpec.from_json(read_anywhere(args.spec).decode())
        machine = find_machine(spec, lambda _code, message: say(message), with_peak=False)
        environment = describe_environment(machine, prepare(spec, cache_folder(), wanted=ONE_ROW, progress=say))
    except Unreachable as error:
        say(f"trainer: {error}")
        return EXIT_RESUME
    except (OSError, UnicodeDecodeError, SpecError, DataError, BadSpec) as error:
        say(f"trainer: {error}")
        return EXIT_BAD_SPEC
    print(json.dumps(environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
