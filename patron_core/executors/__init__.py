"""Where attempts run. `get_executor("local")` gives the one by that name, imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from patron_core.errors import InvalidInput

if TYPE_CHECKING:  # the runner passes by here, and has no use for it
    from patron_core.executors.base import Executor

# name -> module and class; the fake is not here, nobody launches on it by accident
_EXECUTORS = {
    "local": ("patron_core.executors.local", "LocalExecutor"),
    "sky": ("patron_core.executors.skypilot", "SkyExecutor"),
}


def executor_names() -> tuple[str, ...]:
    return tuple(_EXECUTORS)


def get_executor(name: str) -> Executor:
    """Raises InvalidInput for a name that there is no executor of."""
    if name not in _EXECUTORS:
        known = ", ".join(_EXECUTORS)
        raise InvalidInput([f"executor: {name!r}; allowed {known}"], next=f'get_executor("{next(iter(_EXECUTORS))}")')
    module, class_name = _EXECUTORS[name]
    executor: Executor = getattr(import_module(module), class_name)()
    return executor
