"""One look at a run for all pages of this process that show it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from patron_core.store import Store, runs
from patron_core.verbs.watch import RunView, view

FRESH_S = 1.5  # a page looks every two seconds
KEPT = 64


@dataclass
class _Shown:
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: RunView | None = None
    at: float = float("-inf")  # monotonic


_shown: dict[tuple[str, str], _Shown] = {}
_guard = threading.Lock()


def shared_view(store: Store, run_id: str) -> RunView:
    """Like `view`, and up to FRESH_S old where the run's row is the same: however many sessions follow a run, its
    directory is looked at once. Raises what `view` raises."""
    run = runs.get_run(store, run_id)
    key = (str(store.url), run.id)
    with _guard:
        shown = _shown[key] = _shown.pop(key) if key in _shown else _Shown()  # the last one used comes last
        for old in list(_shown)[:-KEPT]:
            del _shown[old]
    with shown.lock:
        if shown.seen is None or shown.seen.run != run or time.monotonic() - shown.at > FRESH_S:
            shown.seen, shown.at = view(store, run.id), time.monotonic()
        return shown.seen
