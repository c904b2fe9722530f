"""The record of a run as tests read it: all of its events, and its curves."""

from __future__ import annotations

from collections.abc import Iterable

from patron_core.rundir.rundir import Event, RunDir


def all_events(directory: RunDir) -> list[Event]:
    return directory.read_events()[0]


def curve(events: Iterable[Event], key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric ("train/loss") or of an eval's field ("val_bpb"), in the order of the events."""
    points = []
    for event in events:
        if event.step is None:
            continue
        if event.kind == "metrics":
            metrics = event.data.get("metrics")
            value = metrics.get(key) if isinstance(metrics, dict) else None
        elif event.kind == "eval":
            value = event.data.get(key)
        else:
            continue
        if isinstance(value, int | float):
            points.append((event.step, float(value)))
    return points
