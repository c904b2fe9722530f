"""Some runs of a lab, however they were named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from patron_core import verbs
from patron_core.money import to_usd
from patron_core.store import Store, ledger, runs, tags
from patron_core.store.records import Run, RunSummary

if TYPE_CHECKING:
    import polars as pl

    from patron_core.notebook.lab import Lab


class HasRuns(Protocol):
    @property
    def ids(self) -> list[str]: ...


RunLike = str | RunSummary | HasRuns | Iterable["str | RunSummary"]


def ids_of(store: Store, found: RunLike) -> list[str]:
    """Names, ids, runs, a sweep or a set of runs: the ids. Raises NotFound for a name that no run has."""
    if isinstance(found, str):
        return [verbs.find_run(store, found).id]
    if isinstance(found, RunSummary):
        return [found.id]
    if isinstance(ids := getattr(found, "ids", None), list):
        return list(ids)
    return [one for each in found for one in ids_of(store, each)]  # type: ignore[union-attr]


class RunSet:
    """Runs, newest first; iterate over them, or take `.frame()`."""

    def __init__(self, lab: Lab, ids: list[str]):
        self._lab, self.ids = lab, ids

    def __iter__(self) -> Iterator[Run]:
        return (runs.get_run(self._lab.store, run_id) for run_id in self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self) -> pl.DataFrame:
        """A line a run: name, state, depth, steps, val_bpb, dollars, tags, and the id."""
        import polars as pl

        money = ledger.runs_money(self._lab.store, self.ids)
        words = tags.of_runs(self._lab.store, self.ids)
        rows: list[dict[str, Any]] = [
            {
                "name": run.name,
                "state": run.state.value,
                "depth": run.spec.get("depth"),
                "num_steps": run.spec.get("num_steps"),
                "seed": run.spec.get("seed"),
                "lr_scale": run.spec.get("lr_scale"),
                "val_bpb": (run.result or {}).get("val_bpb"),
                "usd": to_usd(money[run.id].charged_usd_micros),
                "tags": words[run.id],
                "run": run.id,
            }
            for run in self
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def __repr__(self) -> str:
        return f"RunSet of {len(self.ids)} runs"
