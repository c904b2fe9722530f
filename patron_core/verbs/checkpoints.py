"""Checkpoints of a run, for those who want to have them: what there is, with sizes and hashes, and one file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patron_core.errors import NotFound, Refused
from patron_core.rundir.rundir import RunDir
from patron_core.store import Store, runs


def every(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Newest first: step, bytes, and each file's bytes and hash as its manifest states them. Whole ones only."""
    return [
        {"step": found.step, "bytes": found.bytes, "files": found.files}
        for found in RunDir(runs.get_run(store, run_id).run_dir).checkpoints()
    ]


def file(store: Store, run_id: str, step: int, name: str) -> Path:
    """Where a file that a whole checkpoint's manifest names lies here. Raises NotFound, Refused for one in a
    bucket, or for a link that leads out of the run's directory."""
    run = runs.get_run(store, run_id)
    for found in RunDir(run.run_dir).checkpoints():
        if found.step == step and name in found.files:
            if "://" in found.path:
                raise Refused(f"it is in a bucket: {found.path}/{name}", next="read it there")
            path = Path(found.path) / name
            if not path.resolve().is_relative_to(Path(run.run_dir).resolve()):  # the workload made it a link
                raise Refused(f"{path} lies outside the run's directory", next=f"look at {path}")
            return path
    raise NotFound(
        f"run {run.id} has no checkpoint of step {step} with a file {name!r}", next=f"patron watch --run {run.id}"
    )
