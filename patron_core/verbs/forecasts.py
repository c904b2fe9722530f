"""The ledger of errors: what each finished run was forecast to need and to reach, beside what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from patron_core.estimate.accuracy import QUANTITIES, Forecast, Quantity, Stage, outcomes, said_of
from patron_core.states import RunState
from patron_core.store import Store, attempts, runs
from patron_core.store.records import Run

# what an estimate at planning is kept for once funding has made a better one
PLANNED = "planned"
_KEPT = ("val_bpb", "step_s", "wall_s", "cost_usd_micros", "memory")


def forecasts(store: Store, *, project: str | None = None, limit: int = 1000) -> list[Forecast]:
    """Of the newest runs that came to their last step, in all projects or in one; oldest run first.

    Runs that were cut short have no outcome to compare with and are left out.
    """
    with store.read() as conn:
        found = runs.list_runs(conn, project=project, states=[RunState.SUCCEEDED], limit=limit)
        trained = attempts.train_totals(conn, [run.id for run in found])
    return [
        row for run in reversed(found) for row in _of(run, outcomes(run.result or {}, *trained.get(run.id, (0.0, 0))))
    ]


def forecasts_of(store: Store, run: Run) -> list[Forecast]:
    """Of one run; nothing before it came to its last step."""
    if run.state is not RunState.SUCCEEDED:
        return []
    with store.read() as conn:
        trained = attempts.train_totals(conn, [run.id])
    return list(_of(run, outcomes(run.result or {}, *trained.get(run.id, (0.0, 0)))))


def planned(estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is kept of a run's first estimate when funding replaces it, under PLANNED; {} where it was kept before."""
    if not estimate or PLANNED in estimate:
        return {}
    return {PLANNED: {key: estimate[key] for key in _KEPT if key in estimate}}


def _of(run: Run, actual: Mapping[Quantity, Any]) -> Iterator[Forecast]:
    estimate = run.estimate or {}
    stages: dict[Stage, Mapping[str, Any]] = {"funding": estimate}
    if isinstance(estimate.get(PLANNED), Mapping):
        stages = {"plan": estimate[PLANNED], "funding": estimate}
    for stage, said in stages.items():
        for quantity in QUANTITIES:
            interval = said_of(said, quantity)
            if interval is None or not actual[quantity]:
                continue
            yield Forecast(
                run=run.id,
                name=run.name,
                device=str(estimate.get("device", run.executor)),
                corpus=str(run.spec.get("data") or run.spec.get("name")),  # of foreign code: which it is
                depth=run.spec.get("depth"),
                quantity=quantity,
                stage=stage,
                low=interval["low"],
                mid=interval["mid"],
                high=interval["high"],
                actual=actual[quantity],
            )
