"""Whether this checkout would start the run that another one proved: told before a machine is started, not by its end.

Colleagues, and one person's two checkouts, share a lab. The trainer itself refuses another environment (exit code 78);
what it would refuse for, as far as that is known without torch, is compared here first.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from patron_core import settings
from patron_core.errors import Conflict
from patron_core.rundir.rundir import RunDir
from patron_core.store.records import Run
from trainer.contract.code import code_hash
from trainer.contract.keys import dryrun_folder, kind_and_number
from trainer.contract.remote import join


def check(run: Run) -> None:
    """Raises Conflict with what differs from where the run was proven, or began, and what to do."""
    proven = RunDir(run.run_dir).environment() or _of_dryrun(run)
    differing = differences(proven, here(proven)) if proven else []
    if differing:
        commit = str(proven.get("git_commit") or "")[:12]
        where = f"the one that proved it (commit {commit})" if commit else "the one that proved it"
        raise Conflict(
            f"it was not started from {settings.checkout()}, which would train something else: {'; '.join(differing)}. "
            f"Fund it again from {where}, or plan it anew here",
            next=f"patron launch --run {run.id} --yes",
        )


def here(proven: Mapping[str, Any]) -> dict[str, Any]:
    """What this process would start a training with; of the packages those that are named there."""
    packages = {name: _version(name) for name in proven.get("packages") or {}}
    return {"python": platform.python_version(), "code_hash": code_hash(), "packages": packages}


def differences(proven: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, part by part; what the record does not name is not compared."""
    pairs = {name: (proven.get(name), now[name]) for name in ("python", "code_hash")}
    known: Mapping[str, Any] = proven.get("packages") or {}
    pairs |= {name: (known[name], version) for name, version in now["packages"].items()}
    return [
        f"{name} was {was}, here it is {has}" for name, (was, has) in pairs.items() if was is not None and was != has
    ]


def _of_dryrun(run: Run) -> dict[str, Any]:
    number = (kind_and_number(str((run.dryrun or {}).get("attempt"))) or ("", 0))[1]
    return RunDir(join(run.run_dir, dryrun_folder(number))).environment() or {} if number else {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
