"""The journal as a story: hypothesis, result, verdict, and the runs, commits, money and predictions that they rest on.

Notes about one run, about the runs of one search, or that answer each other belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import gmtime, strftime
from typing import Any

from patron_core.errors import PatronError
from patron_core.money import format_usd
from patron_core.rundir.rundir import RunDir
from patron_core.store import Store, runs
from patron_core.store.records import Note, Run
from patron_core.verbs.compare import Comparison, compare

ORDER = {"hypothesis": 0, "note": 1, "result": 2, "decision": 3, "failed": 3}
WORDS = {
    "hypothesis": "Hypothesis",
    "note": "Note",
    "result": "Result",
    "decision": "Verdict",
    "failed": "Tried and rejected",
}
MOST_RUNS = 30  # of one thread, in words


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a note rests on: one run."""

    run: str
    name: str
    state: str
    commit: str  # that it ran with; empty where its directory does not say
    charged_usd_micros: int
    predicted_bpb: tuple[float, float, float] | None
    val_bpb: float | None

    @property
    def sentence(self) -> str:
        parts = [f"run {self.name} ({self.run})", self.state.replace("_", " ")]
        parts += [f"commit {self.commit[:10]}"] if self.commit else []
        parts += [f"cost {format_usd(self.charged_usd_micros)}"]
        if self.predicted_bpb is not None:
            low, mid, high = self.predicted_bpb
            parts.append(f"predicted val_bpb {mid:.3f} ({low:.3f} to {high:.3f})")
        parts += [f"came out at {self.val_bpb:.4f}"] if self.val_bpb is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Thread:
    """What belongs together, hypotheses first; the time of its newest note."""

    notes: tuple[Note, ...]
    evidence: tuple[Evidence, ...]
    updated_at: float

    @property
    def title(self) -> str:
        first = self.notes[0]
        return first.title or first.body.strip().splitlines()[0][:80]

    @property
    def is_open(self) -> bool:
        """A hypothesis that nothing has answered yet."""
        return (
            all(ORDER.get(note.kind, 1) < ORDER["result"] for note in self.notes) and self.notes[0].kind == "hypothesis"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "is_open": self.is_open,
            "notes": [note.id for note in self.notes],
            "evidence": [asdict(one) for one in self.evidence],
        }


def threads(store: Store, found: Sequence[Note]) -> list[Thread]:
    """These notes as threads, the one that changed last first."""
    keys = _keys(store, found)
    grouped: dict[str, list[Note]] = {}
    for note in found:
        grouped.setdefault(keys[note.id], []).append(note)
    made = []
    for members in grouped.values():
        ordered = sorted(members, key=lambda note: (ORDER.get(note.kind, 1), note.created_at, note.id))
        about = [run_id for note in ordered for run_id in _runs_of(note)]
        made.append(
            Thread(
                notes=tuple(ordered),
                evidence=tuple(_evidence(store, list(dict.fromkeys(about))[:MOST_RUNS])),
                updated_at=max(note.updated_at for note in members),
            )
        )
    return sorted(made, key=lambda thread: -thread.updated_at)


def markdown(project: str, found: Sequence[Thread]) -> str:
    """The whole journal as one file."""
    parts = [f"# Journal of {project}\n"]
    for thread in found:
        parts.append(f"## {_line(thread.title)}\n")
        parts += [f"- {one.sentence}" for one in thread.evidence]
        parts += [""] if thread.evidence else []
        for note in thread.notes:
            heading = f": {_line(note.title)}" if note.title and note.title != thread.title else ""
            parts.append(f"### {WORDS.get(note.kind, note.kind)}{heading}\n")
            parts.append(f"*{_line(note.actor)}, {_day(note.updated_at)}, revision {note.revision}, {note.id}*\n")
            parts.append(note.body.strip() + "\n")
    return "\n".join(parts)


def _keys(store: Store, found: Sequence[Note]) -> dict[str, str]:
    """By note, the thread that it belongs to."""
    about = {note.run_id for note in found if note.run_id}
    made_by = {run.id: search_id(run) for run in runs.list_runs(store, ids=about, limit=None)} if about else {}
    keys = {}
    by_id = {note.id: note for note in found}
    for note in found:
        search = note.links.get("search") or made_by.get(note.run_id or "")
        keys[note.id] = str(search or note.run_id or note.id)
    for note in found:  # an answer goes where its question is; a circle of answers stays where it is
        seen, asked = {note.id}, note.links.get("answers")
        while asked in keys and asked not in seen:
            seen.add(asked)
            keys[note.id] = keys[asked]
            asked = by_id[asked].links.get("answers")
    return keys


def search_id(run: Run) -> str:
    """Of the search or the sweep that made it; empty where none did."""
    kind, _, rest = (run.key or "").partition(":")
    return rest.partition(":")[0] if kind in ("search", "sweep") else ""


def _runs_of(note: Note) -> list[str]:
    linked = note.links.get("runs")
    many = [one for one in linked if isinstance(one, str)] if isinstance(linked, list) else []
    return [*([note.run_id] if note.run_id else []), *many]


def _evidence(store: Store, run_ids: Sequence[str]) -> list[Evidence]:
    known = {run.id: run for run in runs.list_runs(store, ids=run_ids, limit=None)} if run_ids else {}
    rows = compare(store, [run_id for run_id in run_ids if run_id in known])
    return [_of_row(row, known[row.run]) for row in rows]


def _of_row(row: Comparison, run: Run) -> Evidence:
    said = (row.predicted_bpb_low, row.predicted_bpb, row.predicted_bpb_high)
    low, mid, high = said
    return Evidence(
        run=row.run,
        name=row.name,
        state=row.state,
        commit=str(environment(run).get("git_commit") or ""),
        charged_usd_micros=row.charged_usd_micros,
        predicted_bpb=(low, mid, high) if low is not None and mid is not None and high is not None else None,
        val_bpb=row.val_bpb,
    )


def environment(run: Run) -> dict[str, Any]:
    """What its first attempt ran with; nothing where its directory cannot be read."""
    try:
        return RunDir(run.run_dir).environment() or {}
    except (PatronError, OSError):
        return {}


def _line(text: str) -> str:
    return " ".join(text.split())


def _day(unix_s: float) -> str:
    return strftime("%Y-%m-%d %H:%M UTC", gmtime(unix_s))
