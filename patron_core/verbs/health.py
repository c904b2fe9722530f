"""Whether those who work for a run in the background are there: supervisor and mirror. Reads the store only."""

from __future__ import annotations

import time
from dataclasses import dataclass

from patron_core import settings
from patron_core.lifecycle import post
from patron_core.mirror.lag import lags
from patron_core.states import ACTIVE
from patron_core.store import Store
from patron_core.store.records import Run

UNSUPERVISED_S = 30.0  # a supervisor that was just started has not got its lease yet


@dataclass(frozen=True, kw_only=True)
class Health:
    supervisor: str | None  # machine and process of who supervises the lab, while anybody does
    mirror_lag_s: float | None  # of MLflow behind the record, where it is more than 30 s
    warnings: list[str]


def health(store: Store, run: Run) -> Health:
    supervisor = post.holder(post.SUPERVISOR, store)
    lag = next((each for each in lags(store) if each.run_id == run.id), None)
    warnings = [lag.sentence] if lag else []
    if run.state in ACTIVE and supervisor is None and time.time() - run.updated_at > UNSUPERVISED_S:
        log = settings.home() / "supervisor.log"
        warnings.append(f"nobody supervises it at this moment; whoever opens the lab starts that, and {log} says more")
    return Health(supervisor=supervisor, mirror_lag_s=lag.seconds if lag else None, warnings=warnings)
