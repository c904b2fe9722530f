"""A choice of runs: what is read, and the id that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store import Run, RunSummary, Store
    from patron_core.ui.script import Outcome, Session


def run_labels(found: Iterable[Run | RunSummary]) -> dict[str, str]:
    """Runs for a choice: what is read -> id. Two of one name and state are told apart by their ids."""
    labels: dict[str, str] = {}
    for run in found:
        label = show.one_line(f"{run.name} ({show.plain(run.state.value)})", inert.MAX_CHARS)
        known = labels.get(label)
        labels[label if known in (None, run.id) else f"{label} {run.id}"] = run.id
    return labels


def listed(found: Iterable[RunSummary]) -> tuple[tuple[str, str, str], ...]:
    """What is read of runs in a choice: a page that is open looks whether it changed."""
    return tuple((run.id, run.name, run.state.value) for run in found)


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    labels: dict[str, str]  # what is read -> id
    value: str | None  # the label that is chosen
    problem: Outcome[Run] | None  # why the run that was asked for is not there


def of_runs(session: Session[Any], store: Store, offered: Iterable[Run | RunSummary], *, wanted: str) -> RunChoice:
    """A choice among `offered` and the run that a flag or an address asks for: it is looked up, not believed."""
    found = session.call(verbs.find_run, store, wanted) if wanted else None
    if found is not None and (found.failed or found.value is None):
        return RunChoice(labels=run_labels(offered), value=None, problem=found)
    run = found.value if found is not None else None
    labels = run_labels([*offered, *([run] if run is not None else [])])
    return RunChoice(labels=labels, value=label_of(labels, run.id if run is not None else None), problem=None)


def label_of(labels: Mapping[str, str], run_id: str | None) -> str | None:
    """What stands for a run in a choice; without a run, the first there is."""
    return next((label for label, known in labels.items() if run_id in (None, known)), None)
