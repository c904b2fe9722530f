"""What MLflow has of a run beside its record: keys that other code logged, and the money that the mirror writes."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patron_core.errors import Unavailable
from patron_core.mirror import tracking
from patron_core.store import Store, mirrors, runs

if TYPE_CHECKING:
    from patron_core.verbs.series import Series

OWN = "patron/"  # marks of the mirror, which a view draws from the record


@dataclass(frozen=True, kw_only=True)
class Tracked:
    series: dict[str, Series] = field(default_factory=dict)
    read_at: float | None = None  # unix seconds; None: nothing of the run is in MLflow yet
    problem: str | None = None  # why MLflow could not be asked


def tracked(store: Store, run_id: str, *, without: Collection[str] = ()) -> Tracked:
    """Every key that MLflow has of the run but those `without`. The first call of a process loads MLflow: seconds."""
    from patron_core.verbs.series import series_by_key

    run = runs.get_run(store, run_id)
    if mirrors.get(store, run.id) is None:
        return Tracked()
    try:
        keys = [key for key in tracking.metric_keys(store, run.id) if key not in without and not key.startswith(OWN)]
        frame = tracking.metrics_frame(store, [run.id], keys)
    except Unavailable as fault:
        return Tracked(problem=fault.message)
    return Tracked(series=series_by_key(frame), read_at=time.time())
