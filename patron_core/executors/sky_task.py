"""The task that SkyPilot gets for a job: the file in skypilot/ by the job's kind, filled in."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from patron_core import settings
from patron_core.errors import Refused
from patron_core.executors.base import Job
from patron_core.executors.staging import stage
from patron_core.machines.credentials import carried
from trainer.contract.code import code_hash
from trainer.contract.foreign import IMAGE_VARIABLE

IMAGE_GB = 50  # the larger of SkyPilot's default images at GCP (50) and AWS (45), on the same disk
_NO_SPOT = ("slurm", "k8s", "kubernetes", "ssh")  # where SkyPilot knows of no spot machines


ALL_LABS = "patron-"  # what the names of Patron's jobs begin with, whosever they are
_NAME = re.compile(ALL_LABS + r"(?P<lab>[0-9a-f]{8})-(?P<key>.+)")


def prefix(lab: str) -> str:
    """What the names of all jobs of a lab begin with."""
    return f"{ALL_LABS}{lab}-"


def job_name(lab: str, key: str) -> str:
    return prefix(lab) + key


def key_of(name: str) -> str | None:
    """The key of a job that some lab of Patron's named so. A key is random: whoever knows it, by whatever lab's name
    the job goes, is its owner. (Until 0.3 that name came from how a database's URL was spelled.)"""
    found = _NAME.fullmatch(name)
    return found["key"] if found else None


def make_task(job: Job) -> dict[str, Any]:
    """The task file of the job's kind, filled in. Raises Refused where the file is not there."""
    task = _task_file(_file_of(job))
    if job.kind == "dryrun":  # a burst is short, so start it again
        task["resources"]["job_recovery"].pop("recover_on_exit_codes", None)
    if "num_nodes" in task:
        task["num_nodes"] = int(job.machine["num_nodes"])
    task["name"] = job_name(job.lab, job.key)
    task["resources"] = _resources(task["resources"], job.machine)
    python = os.environ.get("PATRON_SKY_PYTHON", "")
    if python:
        task.pop("workdir")
    else:
        task["workdir"] = str(stage(Path(__file__).parents[2]))
    here = {"PATRON_CACHE", "OMP_NUM_THREADS"}  # a path and a share of the cores of this machine say nothing there
    task["envs"] |= {name: value for name, value in job.env.items() if name not in here} | {
        **carried(job.run_dir),
        "PATRON_RUN_DIR": job.run_dir,
        "PATRON_ATTEMPT": job.key,
        "PATRON_DEADLINE_S": f"{job.deadline_s:.1f}",
        "PATRON_GRACE_S": f"{job.grace_s:.1f}",
        "PATRON_SUBMITTED_AT": f"{time.time():.1f}",
        "PATRON_COMMAND": shlex.join(["python" if word == sys.executable else word for word in job.command]),
        "PATRON_PYTHON": python,
    }
    if image := job.machine.get("image"):  # all of the task runs in it, and its own python is not ours
        task["resources"]["image_id"] = f"docker:{image}"
        task["envs"][IMAGE_VARIABLE] = image
    if cache := os.environ.get("PATRON_SKY_CACHE"):
        task["envs"]["PATRON_CACHE"] = cache
    return task


def probe_task(machine: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a task as says what machines it is to have: enough to ask whether they can be had."""
    resources = _resources(_task_file("train.yaml")["resources"], machine)
    resources.pop("job_recovery")
    nodes = int(machine.get("num_nodes") or 1)
    return {"name": ALL_LABS + "probe", "num_nodes": nodes, "resources": resources, "run": "true"}


def quota_rows(machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the places that were planned, what a cloud can be asked its quota for."""
    count, rows = int(machine.get("num_gpus") or 1), []
    for place in machine.get("places") or ():
        if isinstance(place, Mapping) and place.get("accelerator"):
            infra = "/".join(str(place["infra"]).split("/")[:2])  # a quota is a region's
            row = {"infra": infra, "accelerators": f"{place['accelerator']}:{count}", "use_spot": bool(machine["spot"])}
            rows.append(row | {"instance_type": place.get("instance_type")})
    return rows


def _file_of(job: Job) -> str:
    if int(job.machine.get("num_gpus") or 1) * int(job.machine.get("num_nodes") or 1) > 1:
        return "train-multi.yaml"
    return "dryrun.yaml" if job.kind == "dryrun" else "train.yaml"


def setup_of_machines() -> dict[str, str]:
    """What every machine is set up with: a plan that was proven with one setup is not proven with another."""
    if python := os.environ.get("PATRON_SKY_PYTHON"):
        return {"PATRON_SKY_PYTHON": python}
    return {"its packages": _pins_hash(), "the trainer's sources": code_hash()}


def _pins_hash() -> str:
    try:
        return hashlib.sha256((settings.shipped("skypilot") / "requirements.txt").read_bytes()).hexdigest()[:16]
    except OSError as error:
        advice = "uv sync --reinstall-package patron"
        raise Refused(f"the pinned packages cannot be read: {error}", next=advice) from error


def _task_file(name: str) -> dict[str, Any]:
    try:
        task: dict[str, Any] = yaml.safe_load((settings.shipped("skypilot") / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"the task file cannot be read: {error}", next="uv sync --reinstall-package patron") from error
    return task


def _resources(template: dict[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """What to ask SkyPilot for: the attempt's accelerator, spot or not, in the places that are allowed."""
    found = copy.deepcopy(template)
    spot = bool(machine.get("spot", found.get("use_spot")))
    count = int(machine.get("num_gpus") or 1)
    if machine.get("accelerator"):
        found["accelerators"] = f"{machine['accelerator']}:{count}"
    elif machine:  # a machine without GPUs
        found.pop("accelerators", None)
    if machine.get("disk_bytes"):
        found["disk_size"] = disk_gb(float(machine["disk_bytes"]))
    only = settings.sky_infra()
    places = [_place(place, count) for place in machine.get("places") or ([only] if only else ())]
    if places:
        found.pop("any_of", None)
        found["ordered"] = places
    else:  # the file's own, without those that have another accelerator, or no spot machines
        kept = [p for p in found["any_of"] if "accelerators" not in p and p.get("use_spot", spot) == spot]
        found["any_of"] = [{"infra": place["infra"]} for place in kept]
    found["use_spot"] = spot and not any(place["infra"].startswith(_NO_SPOT) for place in places)
    return found


def disk_gb(num_bytes: float) -> int:
    """The disk to ask for: what the run needs beside the image that the machine boots from, in steps of ten."""
    return 10 * math.ceil((num_bytes / 1e9 + IMAGE_GB) / 10)


def _place(place: str | dict[str, Any], count: int) -> dict[str, Any]:
    """By the name and the instance type of the very row that was planned with: a card's plain name finds nothing at one
    cloud (RunPod's is H100-SXM), and at another its slower sister (Lambda's H100 is the PCIe card)."""
    if isinstance(place, str):  # named by hand
        return {"infra": place}
    asked = {"infra": place["infra"]}
    if place.get("accelerator"):
        asked["accelerators"] = f"{place['accelerator']}:{count}"
    if place.get("instance_type"):
        asked["instance_type"] = place["instance_type"]
    return asked
