"""Whether a run left the interval that was forecast for it: said once for each figure, as an event of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection

from patron_core.states import AlertKind
from patron_core.store import attempts, runs
from patron_core.store.records import Run

KIND = AlertKind.OFF_FORECAST.value


def note(conn: Connection, run: Run, *, actor: str, now: float, val_bpb: Any = None) -> None:
    """In the transaction that charged its machine time, or ended it with this `val_bpb`."""
    train = [attempt for attempt in attempts.for_run(conn, run.id) if attempt.kind == "train"]
    missed = dict(_missed(run.estimate or {}, machine_s=sum(a.charged_s for a in train), val_bpb=val_bpb))
    if not missed:
        return
    said = {event.detail.get("figure") for event in runs.events(conn, run.id) if event.kind == KIND}
    for figure in missed.keys() - said:
        detail = {"figure": figure, "sentence": missed[figure]}
        runs.add_event(conn, run.id, kind=KIND, actor=actor, now=now, detail=detail)


def _missed(estimate: Mapping[str, Any], *, machine_s: float, val_bpb: Any) -> Iterator[tuple[str, str]]:
    wall, bpb = estimate.get("wall_s") or {}, estimate.get("val_bpb") or {}
    if wall.get("high") and machine_s > wall["high"]:
        yield "wall_s", f"It has had {machine_s:.0f} s of machine time; at most {wall['high']:.0f} s were expected."
    if isinstance(val_bpb, int | float) and bpb and not bpb["low"] <= val_bpb <= bpb["high"]:
        yield "val_bpb", f"Its val_bpb is {val_bpb:.4f}; {bpb['low']:.4f} to {bpb['high']:.4f} was expected."
