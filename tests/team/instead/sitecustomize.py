"""In every Python process of a machine of tests/team: a workload of a second in the place of a training, and no MLflow.

All else is as it is: supervisors, runners, guards, the store.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from types import ModuleType


def _workload(module: ModuleType) -> None:
    def commands(*what: str):
        return (sys.executable, "-P", os.environ["TEAM_WORKLOAD"], *what)

    module.train_command = lambda run_dir, attempt, *more, **_: commands("train", run_dir, attempt)
    module.dryrun_command = lambda run_dir, attempt, *more, **_: commands("dryrun", run_dir, attempt)
    module.environment_command = lambda run_dir, **_: commands("environment", run_dir, "")


def _no_mirror(module: ModuleType) -> None:
    module.due = lambda store, has_lab=None: []


_CHANGED = {"patron_core.lifecycle.workload": _workload, "patron_core.mirror.due": _no_mirror}


class _Changing(PathFinder):
    """Finds as always; what is in the table is changed once it is loaded."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = super().find_spec(fullname, path, target) if fullname in _CHANGED else None
        if spec is not None:
            load = spec.loader.exec_module

            def load_and_change(module: ModuleType) -> None:
                load(module)
                _CHANGED[fullname](module)

            spec.loader.exec_module = load_and_change
        return spec


sys.meta_path.insert(0, _Changing)
