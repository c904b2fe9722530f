"""A choice of runs: what is read, and the id that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store import Run, RunSummary


def run_labels(found: Iterable[Run | RunSummary]) -> dict[str, str]:
    """Runs for a choice: what is read -> id. Two of one name and state are told apart by their ids."""
    labels: dict[str, str] = {}
    for run in found:
        label = show.one_line(f"{run.name} ({show.plain(run.state.value)})", inert.MAX_CHARS)
        known = labels.get(label)
        labels[label if known in (None, run.id) else f"{label} {run.id}"] = run.id
    return labels


def label_of(labels: Mapping[str, str], run_id: str | None) -> str | None:
    """What stands for a run in a choice; without a run, the first there is."""
    return next((label for label, known in labels.items() if run_id in (None, known)), None)
