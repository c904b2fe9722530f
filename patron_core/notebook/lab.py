"""The lab of a notebook: one object from which everything else is reached."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.errors import NotFound
from patron_core.money import format_usd
from patron_core.notebook import metrics as curves
from patron_core.notebook.runs import RunLike, RunSet, ids_of
from patron_core.notebook.sweeps import SweepHandle
from patron_core.store import Store
from patron_core.store import runs as store_runs
from patron_core.store import tags as store_tags
from patron_core.store.records import Note
from patron_core.store.records import Run as RunRecord

if TYPE_CHECKING:
    import polars as pl

MOST_RUNS = 1000


class Lab:
    """Get one with `patron_core.open()`. `store` is what `patron_core.verbs` take."""

    def __init__(self, store: Store, *, project: str, actor: str):
        self.store, self.project, self.actor = store, project, actor

    def sweep(
        self,
        name: str,
        *,
        grid: Mapping[str, Sequence[Any]],
        seeds: int = 1,
        tags: Iterable[str] = (),
        on: str = "local",
        device: str = verbs.LOCAL_DEVICE,
        spot: bool = False,
        gpus: int = 1,
        nodes: int = 1,
        where: str = "",
        **fields: Any,
    ) -> SweepHandle:
        """A grid over any fields of a spec, times seeds. `fields`: depth and whatever else is not the device's default.

        Where they run is said as by the flags: on `nodes` machines with so many `gpus` each, only at `where`.

        The same name and question are the same sweep, also after a restart. Raises InvalidInput with every problem of
        every cell at once; nothing is planned yet.
        """
        target = verbs.Target(executor=on, device=device, spot=spot, num_gpus=gpus, num_nodes=nodes, only=where)
        target.check()
        given = verbs.by_fields(fields)
        depth = {"depth": 2} if "depth" not in given and "depth" not in grid else {}
        first = {"depth": next(iter(grid["depth"]))} if "depth" in grid else {}
        spec = verbs.spec_on(target.find_device(self.store), first | depth | given)
        question = verbs.Sweep(
            name=name,
            grid={key: list(values) for key, values in grid.items()},
            seeds=seeds,
            spec=spec.to_dict(),
            target=target.to_dict(),
            tags=list(tags),
        )
        return SweepHandle(self, question)

    def runs(self, found: RunLike | None = None, *, tags: str | Iterable[str] = (), text: str | None = None) -> RunSet:
        """Runs of this project, newest first: all, those named (ids, names or runs), or those with all of these tags.

        Raises NotFound for a name that no run has, and for a tag, saying which there are.
        """
        wanted = [tags] if isinstance(tags, str) else list(tags)
        if found is not None:
            return RunSet(self, ids_of(self.store, found))
        ids = [
            run.id for run in store_runs.list_summaries(self.store, project=self.project, limit=MOST_RUNS, text=text)
        ]
        if wanted:
            self._check_tags(wanted)
            tagged = set(store_tags.run_ids(self.store, wanted))
            ids = [run_id for run_id in ids if run_id in tagged]
        return RunSet(self, ids)

    def run(self, name: str) -> RunRecord:
        """By id, by name, or by the beginning of an id. Raises NotFound."""
        return verbs.find_run(self.store, name)

    def metrics(self, found: RunLike, keys: Sequence[str], *, x: Sequence[str] = ("step",)) -> pl.DataFrame:
        """Points of these runs from MLflow, or from the record where MLflow is behind: run, name, key, value, and the
        columns of `x` ("step", "tokens", "flops", "seconds", "usd"); `lag_s` says how far MLflow is behind.

        Raises NotFound for a key that none of the runs has, with those that there are.
        """
        return curves.metrics(self.store, ids_of(self.store, found), keys, x)

    def note(self, body: str, *, kind: str = "note", title: str = "", runs: RunLike | None = None) -> Note:
        """Into the journal, linked to these runs. Raises InvalidInput for a kind that there is not."""
        ids = ids_of(self.store, runs) if runs is not None else []
        return verbs.write_note(
            self.store,
            project=self.project,
            body=body,
            title=title or body.splitlines()[0][:80],
            kind=kind,
            run_id=ids[0] if ids else None,
            links={"runs": ids} if len(ids) > 1 else {},
            actor=self.actor,
        )

    def compare(self, found: RunLike) -> pl.DataFrame:
        """Prediction beside outcome, a line a run."""
        return verbs.comparison_frame(verbs.compare(self.store, ids_of(self.store, found)))

    @property
    def wallet(self) -> dict[str, Any]:
        """Of this project, in micro-dollars."""
        return asdict(verbs.wallet(self.store, self.project))

    def close(self) -> None:
        """Give its connections back; a script's end does so too."""
        self.store.close()

    def _repr_html_(self) -> str:
        from patron_core.ui import show

        wallet = verbs.wallet(self.store, self.project)
        facts = [
            ("project", self.project),
            ("runs", str(len(self.runs().ids))),
            ("in the wallet", format_usd(wallet.available_usd_micros)),
            ("held", format_usd(wallet.held_usd_micros)),
            ("spent", format_usd(wallet.spent_usd_micros)),
        ]
        return show.facts_table(facts)

    def __repr__(self) -> str:
        return f"Lab(project={self.project!r}, actor={self.actor!r})"

    def _check_tags(self, wanted: Sequence[str]) -> None:
        known = store_tags.counts(self.store)
        missing = [tag for tag in wanted if tag not in known]
        if missing:
            there = ", ".join(sorted(known)) or "none yet"
            raise NotFound(f"no run has the tag {', '.join(map(repr, missing))}; tags: {there}", next="patron lab")


def open_lab(project: str | None = None) -> Lab:
    """The lab at PATRON_HOME; it is made where there is none. `project`: the usual, else that with most runs."""
    store = verbs.open_lab()
    assert store is not None
    try:
        actor = getpass.getuser()
    except (OSError, KeyError):
        actor = "notebook"
    return Lab(store, project=project or verbs.project_to_show(store), actor=actor)
