"""How far the tracker is behind the record, in words. Reads the store only."""

from __future__ import annotations

from dataclasses import dataclass

from patron_core import settings
from patron_core.interval import duration
from patron_core.store import Store, mirrors

SHOWN_OVER_S = 30.0  # a mirror comes by every few seconds; one that is late by this much is stuck, or not there


@dataclass(frozen=True, kw_only=True)
class Lag:
    run_id: str
    name: str
    seconds: float
    why: str | None  # the tracker's own words; None: nobody tried

    @property
    def sentence(self) -> str:
        why = self.why or f"no mirror has come by; look at {settings.home() / 'mirror.log'}"
        late = f"MLflow is {duration(self.seconds)} behind on {self.name}"
        return f"{late}; the record is whole and follows as soon as it can ({why})"


def lags(store: Store, run_id: str | None = None) -> list[Lag]:
    """Every run whose mirror is late by more than 30 s; of one run where it is named."""
    found = mirrors.late(store, over_s=SHOWN_OVER_S, run_id=run_id)
    return [Lag(run_id=run_id, name=name, seconds=late_s, why=why) for run_id, name, late_s, why in found]
