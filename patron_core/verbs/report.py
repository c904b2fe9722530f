"""A report: all that is known of a run or of a search, gathered for somebody who was not there. Changes nothing."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from patron_core.errors import NotFound
from patron_core.estimate.accuracy import Forecast
from patron_core.lifecycle.workload import foreign_spec
from patron_core.machines.target import Target
from patron_core.money import format_usd, typed_usd
from patron_core.states import TERMINAL
from patron_core.store import Store, labs, ledger, notes, runs, searches
from patron_core.store.records import LedgerEntry, Note, Run, Search
from patron_core.verbs.compare import Comparison, compare
from patron_core.verbs.contrasts import noise_sentence, seed_noise, with_distinct_names
from patron_core.verbs.curves import curves
from patron_core.verbs.forecasts import forecasts_of
from patron_core.verbs.metrics import Points, thinned
from patron_core.verbs.next_steps import plan_again, target_words
from patron_core.verbs.question import Question
from patron_core.verbs.threads import environment, search_id
from patron_core.verbs.watch import RunView, view

MOST_POINTS = 600  # of a curve: lowest and highest of what lies between stay
MOST_ENTRIES = 200  # of the ledger
MOST_OWN = 8  # curves of foreign code
_CURVES = {"val_bpb": "val/bpb", "training loss": "train/loss"}


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run."""

    lab: str
    made_at: float
    seen: RunView
    comparison: Comparison
    forecasts: list[Forecast]  # of what has an outcome, at each stage
    curves: dict[str, Points]  # (step, value, time) by name
    num_points: dict[str, int]  # before they were thinned
    statement: list[LedgerEntry]  # of this run, oldest first
    notes: list[Note]  # about it or the search it belongs to, oldest first
    search: Search | None  # that it belongs to
    environment: dict[str, Any]
    commands: list[str]  # that make the same run again

    @property
    def title(self) -> str:
        return self.seen.run.name

    @property
    def question(self) -> str:
        """What was asked, from its spec and its cap; the hypotheses are among the notes."""
        row, run = self.comparison, self.seen.run
        where = str((run.estimate or {}).get("device", run.executor))
        cap = f", for at most {format_usd(run.max_usd_micros)}" if run.max_usd_micros is not None else ""
        if row.depth is None:
            given = ", ".join(f"{name} {value}" for name, value in run.spec.get("parameters", {}).items())
            return f"What does {row.workload} reach{' with ' if given else ''}{given}, on {where}{cap}?"
        return (
            f"What val_bpb does depth {row.depth} ({row.num_params_scaling:,} scaling parameters) reach on "
            f"{row.train_tokens:,} tokens of {run.spec.get('data', 'its corpus')}, on {where}{cap}?"
        )

    @property
    def verdict(self) -> list[str]:
        """Each a sentence that its figures bear out."""
        row = self.comparison
        said = [self.seen.sentence]
        if row.val_bpb is not None and row.predicted_bpb_low is not None and row.predicted_bpb_high is not None:
            where = "inside" if row.predicted_bpb_low <= row.val_bpb <= row.predicted_bpb_high else "outside"
            said.append(
                f"val_bpb {row.val_bpb:.4f}{row.cut_short_words}: {where} its forecast of {row.predicted_bpb:.4f} "
                f"({row.predicted_bpb_low:.4f} to {row.predicted_bpb_high:.4f})."
            )
        if row.charged_usd_micros:
            said.append(
                f"It cost {format_usd(row.charged_usd_micros)}, its dryrun included, of "
                f"{format_usd(row.held_usd_micros)} that were held for it."
            )
        if self.seen.run.state not in TERMINAL:
            said.append(f"It has not come to its end: this is what is known so far. Next: {self.seen.next}")
        return said

    def to_dict(self) -> dict[str, Any]:
        return {
            "lab": self.lab,
            "made_at": self.made_at,
            "run": self.seen.to_dict(),
            "question": self.question,
            "comparison": self.comparison.to_dict(),
            "spec": self.seen.run.spec,
            "forecasts": [one.to_dict() for one in self.forecasts],
            "verdict": self.verdict,
            "notes": [asdict(note) for note in self.notes],
            "search": self.search.id if self.search else None,
            "environment": self.environment,
            "commands": self.commands,
        }


@dataclass(frozen=True, kw_only=True)
class SearchReportOfRuns:
    """A search or a sweep with all its runs."""

    lab: str
    made_at: float
    search: Search
    kind: str  # search, or sweep
    rows: list[Comparison]
    notes: list[Note]
    commands: list[str]

    @property
    def title(self) -> str:
        return f"{self.kind.capitalize()} {self.search.question.get('name') or self.search.key}"

    @property
    def question(self) -> str:
        asked = self.search.question
        most = format_usd(int(asked.get("budget_usd_micros", 0)))
        if self.kind == "sweep":
            grid = ", ".join(f"{name} of {', '.join(map(str, values))}" for name, values in asked["grid"].items())
            return f"Which {grid} is best, over {asked.get('seeds', 1)} seeds, for at most {most}?"
        depths = ", ".join(map(str, asked.get("depths") or ())) or "any"
        where = _machines(asked)
        return (
            f"Which depth ({depths}) gives the lowest val_bpb on {where} in {asked.get('minutes', 0):g} min of "
            f"training, for at most {most}?"
        )

    @property
    def best(self) -> Comparison | None:
        done = [row for row in self.rows if row.val_bpb is not None]
        return min(done, key=lambda row: row.val_bpb or 0.0, default=None)

    @property
    def verdict(self) -> list[str]:
        spent = format_usd(sum(row.charged_usd_micros for row in self.rows))
        said = [] if self.search.state == "done" else ["It has not come to its end: this is what is known so far."]
        if self.best is not None:
            said.append(f"{self.best.name} is best: val_bpb {self.best.val_bpb:.4f}{self.best.cut_short_words}.")
        said.append(noise_sentence(seed_noise(self.rows)))
        return [*said, f"{len(self.rows)} runs took {spent}.", *filter(None, [self._where_next()])]

    def _where_next(self) -> str:
        return str((self.search.result or {}).get("where_next") or "")

    def to_dict(self) -> dict[str, Any]:
        return {
            "lab": self.lab,
            "made_at": self.made_at,
            self.kind: self.search.id,
            "key": self.search.key,
            "state": self.search.state,
            "question": self.question,
            "asked": self.search.question,
            "decisions": self.search.decisions,
            "runs": [row.to_dict() for row in self.rows],
            "verdict": self.verdict,
            "notes": [asdict(note) for note in self.notes],
            "commands": self.commands,
        }


def report_of_run(store: Store, words: str, *, now: float | None = None) -> RunReport:
    """Of the run of an id or a name. Raises NotFound."""
    seen = view(store, words)
    run = seen.run
    found = _curves_of(store, run)
    search = _search_of(store, run)
    about = notes.list_notes(store, project=run.project, about=[run.id, *([search.id] if search else [])], limit=None)
    return RunReport(
        lab=labs.lab_id(store),
        made_at=time.time() if now is None else now,
        seen=seen,
        comparison=compare(store, [run.id])[0],
        forecasts=forecasts_of(store, run),
        curves={name: thinned(series, MOST_POINTS) for name, series in found.items() if series},
        num_points={name: len(series) for name, series in found.items()},
        statement=ledger.statement(store, run.project, MOST_ENTRIES, run_id=run.id)[::-1],
        notes=_oldest_first(about),
        search=search,
        environment=environment(run),
        commands=_commands_of_run(run),
    )


def report_of_search(
    store: Store, words: str, *, project: str | None = None, now: float | None = None
) -> SearchReportOfRuns:
    """Of the search or the sweep of an id or a key. Raises NotFound, saying which there are."""
    search = _find_search(store, words, project)
    kind = "sweep" if "grid" in search.question else "search"
    made = runs.list_runs(store, project=search.project, key_starts=f"{kind}:{search.id}:", limit=None)
    about = [search.id, *(run.id for run in made)]
    return SearchReportOfRuns(
        lab=labs.lab_id(store),
        made_at=time.time() if now is None else now,
        search=search,
        kind=kind,
        rows=with_distinct_names(compare(store, [run.id for run in reversed(made)])),
        notes=_oldest_first(notes.list_notes(store, project=search.project, about=about, limit=None)),
        commands=[_command_of_search(search, kind)],
    )


def _curves_of(store: Store, run: Run) -> dict[str, Points]:
    """By name; of foreign code those that it logs by names of its own, the first so many."""
    is_ours = foreign_spec(run) is None
    frame = curves(store, run.id, list(_CURVES.values()) if is_ours else None)
    logged = sorted(key for key in frame["key"].unique() if not key.startswith(("patron/", "money/", "system/")))
    return {
        name: [
            (int(step), float(value), float(at))
            for step, value, at in frame.filter(frame["key"] == key).select("step", "value", "time").iter_rows()
            if math.isfinite(value)
        ]
        for name, key in (_CURVES.items() if is_ours else zip(logged[:MOST_OWN], logged, strict=False))
    }


def _search_of(store: Store, run: Run) -> Search | None:
    found = search_id(run)
    try:
        return searches.get(store, found) if found else None
    except NotFound:
        return None


def _find_search(store: Store, words: str, project: str | None) -> Search:
    known = searches.list_searches(store, project=project, limit=1000)
    for search in known:
        if words in (search.id, search.key) or words == search.question.get("name"):
            return search
    there = ", ".join(f"{one.key} ({one.id})" for one in known[:5]) or "none yet"
    raise NotFound(f"there is no search or sweep {words!r}; there are {there}", next="patron search --help")


def _oldest_first(found: list[Note]) -> list[Note]:
    return sorted(found, key=lambda note: (note.created_at, note.id))


def _commands_of_run(run: Run) -> list[str]:
    name = f"{run.name}-again"
    first = shlex.join([*shlex.split(plan_again(run))[:-1], "--name", name, "--yes"])
    return [first, shlex.join(["patron", "launch", "--run", name, "--yes"])]


def _command_of_search(search: Search, kind: str) -> str:
    """With a key of its own: under the same it would be answered from what is written down."""
    asked = (asdict(Question()) if kind == "search" else {}) | search.question
    words = ["patron", kind, "--budget", typed_usd(int(asked["budget_usd_micros"])), "--project", search.project]
    if kind == "sweep":
        target = Target.from_dict(asked["target"])
        for name, values in asked["grid"].items():
            words += ["--grid", f"{name}={','.join(map(_value, values))}"]
        words += ["--seeds", str(asked["seeds"]), *target_words(target), "--name", f"{asked['name']}-again"]
        words += ["--max-parallel", str(asked["max_parallel"])]
        words += _fields({key: value for key, value in asked["spec"].items() if key not in asked["grid"]})
        return shlex.join([*words, "--yes"])
    words += ["--minutes", f"{asked['minutes']:g}", "--on", asked["on"]]
    words += ["--devices", ",".join(asked["devices"])] if asked["on"] != "local" else []
    words += ["--depths", ",".join(map(str, asked["depths"]))] if asked["depths"] else []
    words += ["--gpus", ",".join(map(str, asked["gpus"]))] if list(asked["gpus"]) != [1] else []
    words += ["--nodes", str(asked["nodes"])] if asked["nodes"] > 1 else []
    words += ["--spot"] if asked["spot"] else []
    words += ["--where", asked["where"]] if asked["where"] else []
    words += ["--max-runs", str(asked["max_runs"]), "--max-dryruns", str(asked["max_dryruns"])]
    return shlex.join([*words, *_fields(asked["spec"])])


def _machines(asked: Mapping[str, Any]) -> str:
    """What a search chose from, in words."""
    counts, nodes = " or ".join(map(str, asked.get("gpus") or (1,))), int(asked.get("nodes") or 1)
    each = f", {counts} GPUs each" if counts != "1" else ""
    together = f", {nodes} machines together" if nodes > 1 else ""
    return ", ".join(asked.get("devices") or ("this machine",)) + each + together


def _fields(spec: dict[str, Any]) -> list[str]:
    words = ["--depth", str(spec["depth"])] if "depth" in spec else []
    for name, value in spec.items():
        if name not in ("depth", "seed") and value is not None:
            words += ["--set", f"{name}={json.dumps(value, separators=(',', ':'))}"]
    return words


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
