"""Runs as a table: what each came to, how far it is, what it costs, its tags and pins. Reading changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patron_core.errors import InvalidInput, PatronError
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Store, ledger, runs, tags
from patron_core.store.records import Host, RunFacts, RunMoney
from patron_core.store.tags import PINNED
from patron_core.verbs.access import asks
from patron_core.verbs.curves import curves

MOST_RUNS = 10_000
MOST_LIVE = 50  # runs whose events are looked at for where they are now
SPARK_POINTS = 40
_ON_ITS_WAY = frozenset({RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A line of the table. `label` is the name, with the id where two runs share a name."""

    run: RunFacts
    label: str
    step: int | None
    val_bpb: float | None  # the newest
    money: RunMoney
    tags: list[str]

    @property
    def is_pinned(self) -> bool:
        return PINNED in self.tags

    @property
    def progress(self) -> float | None:
        """0 to 1; None where nothing is known of its steps."""
        if self.run.state is RunState.SUCCEEDED:
            return 1.0
        return None if self.step is None or not self.run.num_steps else min(1.0, self.step / self.run.num_steps)

    def to_dict(self) -> dict[str, Any]:
        run = self.run
        return {
            "run": run.id,
            "name": run.name,
            "project": run.project,
            "state": run.state.value,
            "reason": run.reason.value if run.reason else None,
            "owner": run.actor,
            "depth": run.depth,
            "device": run.device,
            "corpus": run.corpus,
            "step": self.step,
            "num_steps": run.num_steps,
            "progress": self.progress,
            "val_bpb": self.val_bpb,
            "charged_usd_micros": self.money.charged_usd_micros,
            "held_usd_micros": self.money.held_usd_micros,
            "tags": self.tags,
        }


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that share a value: how many, the best val_bpb among them and whose it is, and what they cost."""

    value: str
    num_runs: int
    best: RunRow | None
    charged_usd_micros: int
    held_usd_micros: int


def run_table(
    store: Store,
    *,
    project: str | None = None,
    ids: Iterable[str] | None = None,
    states: Iterable[RunState] | None = None,
    limit: int | None = MOST_RUNS,
) -> list[RunRow]:
    """Pinned ones first, then newest first; of one project, or of all."""
    with store.read():
        found = runs.list_facts(store, project=project, ids=ids, states=states, limit=limit)
        if ids is None and limit is not None and len(found) == limit:  # a pin is seen however old its run is
            pinned = set(tags.run_ids(store, [PINNED])) - {run.id for run in found}
            if pinned:
                found += runs.list_facts(store, project=project, ids=pinned, states=states, limit=MOST_RUNS)
        money = ledger.runs_money(store, [run.id for run in found])
        words = tags.of_runs(store, [run.id for run in found])
    labels = distinct_names({run.id: run.name for run in found})
    live = [run for run in found if run.state in _ON_ITS_WAY][:MOST_LIVE]
    now = {run.id: _position(run) for run in live}
    rows = []
    for run in found:
        step, val_bpb = now.get(run.id, (None, None))
        rows.append(
            RunRow(
                run=run,
                label=labels[run.id],
                step=run.step if step is None else step,
                val_bpb=run.val_bpb if val_bpb is None else val_bpb,
                money=money[run.id],
                tags=words[run.id],
            )
        )
    return sorted(rows, key=lambda row: not row.is_pinned)


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """By run id, its name; with the id where runs share a name, so that no two are taken for one."""
    often = Counter(names.values())
    return {run_id: name if often[name] == 1 else f"{name} ({run_id})" for run_id, name in names.items()}


def whose(rows: Sequence[RunRow], machines: Mapping[str, Host]) -> dict[str, str]:
    """By run: who planned it, and where it runs. Empty where there is one person on one machine."""
    if len({row.run.actor for row in rows}) < 2 and len({row.run.host_id for row in rows}) < 2:
        return {}
    names = {host_id: host.name for host_id, host in machines.items()}
    return {row.run.id: f"{row.run.actor}, {names.get(row.run.host_id or '', 'rented')}" for row in rows}


GROUPS: dict[str, Callable[[RunRow], list[str]]] = {
    "project": lambda row: [row.run.project],
    "state": lambda row: [row.run.state.value.replace("_", " ")],
    "depth": lambda row: ["none" if row.run.depth is None else f"depth {row.run.depth}"],
    "device": lambda row: [row.run.device or "none"],
    "corpus": lambda row: [row.run.corpus or "none"],
    "owner": lambda row: [row.run.actor],
    "tag": lambda row: row.tags or ["none"],
}


def group_runs(rows: Sequence[RunRow], by: str) -> list[RunGroup]:
    """By one of GROUPS, the lowest val_bpb first. A run with several tags is in several groups."""
    if by not in GROUPS:
        raise InvalidInput([f"group by {by!r}; allowed {', '.join(GROUPS)}"], next="patron lab --help")
    groups: dict[str, list[RunRow]] = {}
    for row in rows:
        for value in GROUPS[by](row):
            groups.setdefault(value, []).append(row)
    made = []
    for value, members in groups.items():
        done = [row for row in members if row.val_bpb is not None]
        made.append(
            RunGroup(
                value=value,
                num_runs=len(members),
                best=min(done, key=lambda row: row.val_bpb or 0.0, default=None),
                charged_usd_micros=sum(row.money.charged_usd_micros for row in members),
                held_usd_micros=sum(row.money.held_usd_micros for row in members),
            )
        )
    return sorted(made, key=lambda group: group.best.val_bpb or 0.0 if group.best else float("inf"))


@asks("note")
def tag(store: Store, run_id: str, *, add: Iterable[str] = (), remove: Iterable[str] = (), actor: str) -> list[str]:
    """Give a run words to be found again by, or take them away: the tags that it has then. `PINNED` puts it first.

    Raises NotFound for an unknown run, InvalidInput for a tag that nobody could read.
    """
    run = runs.get_run(store, run_id)
    with store.begin() as conn:
        tags.add(conn, run.id, add)
        tags.remove(conn, run.id, remove)
        return tags.of_runs(conn, [run.id])[run.id]


def evaluations(store: Store, run_id: str) -> list[float]:
    """val_bpb of each evaluation of the true history, oldest first, thinned to `SPARK_POINTS` with the last kept."""
    try:
        known = curves(store, run_id, ["val/bpb"])["value"].to_list()
    except (PatronError, OSError):  # a picture in a table is no reason to show no table
        return []
    every = -(-len(known) // SPARK_POINTS) or 1
    return known[::-every][::-1]


def _position(run: RunFacts) -> tuple[int | None, float | None]:
    """Step and newest val_bpb of a run that is under way, where its events can be read."""
    try:
        _, step, val_bpb = record_of(RunDir(run.run_dir)).latest()
    except (PatronError, OSError):
        return None, None
    return step or None, val_bpb
