"""What a sweep is asked and what it answers: any fields of a spec as a grid, times seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.lifecycle.workload import check_spec
from patron_core.machines.target import Target
from patron_core.money import check_usd_micros, format_usd
from patron_core.scaling.seeds import GroupComparison, compare_groups
from patron_core.store.names import MAX_NAME_CHARS, check_names
from patron_core.verbs.compare import Comparison
from patron_core.verbs.spec_door import NAMED
from trainer.contract.spec import FIELDS, TrainSpec, unknown_field

MOST_RUNS = 200


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a sweep: its values of the grid, its seed, its spec."""

    label: str
    values: dict[str, Any]
    seed: int
    spec: TrainSpec


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """*Which values of these fields are best, beyond the noise of `seeds` seeds, for at most `budget_usd_micros`?*

    `grid`: values by field of the spec, or by the flag that names it. `spec`: all other fields, complete.
    """

    name: str
    grid: dict[str, list[Any]]
    spec: dict[str, Any]
    seeds: int = 1
    target: dict[str, Any] = field(default_factory=lambda: Target().to_dict())
    budget_usd_micros: int = 50_000
    max_parallel: int = 1
    tags: list[str] = field(default_factory=list)

    @property
    def where(self) -> Target:
        return Target.from_dict(self.target)

    def fields(self) -> dict[str, list[Any]]:
        """The grid by the spec's own names."""
        return {NAMED.get(name, name): list(values) for name, values in self.grid.items()}

    def runs(self) -> list[SweepRun]:
        """Every cell of the grid with the first seed, then with the second: an early stop leaves whole rounds.

        Raises InvalidInput with every problem at once.
        """
        grid, problems = self.fields(), self._problems()
        made: list[SweepRun] = []
        if not problems:
            first = int(self.spec.get("seed", FIELDS["seed"].default))
            for seed in range(first, first + self.seeds):
                for cell in itertools.product(*grid.values()):
                    values = dict(zip(grid, cell, strict=True))
                    try:
                        spec = check_spec(self.spec | {"seed": seed} | values)
                        made.append(SweepRun(label=_label(values, seed), values=values, seed=seed, spec=spec))
                    except InvalidInput as error:
                        problems += [f"{_label(values, seed)}: {problem}" for problem in error.problems]
        if problems:
            raise InvalidInput(list(dict.fromkeys(problems)), next="patron sweep --help")
        return made

    def run_name(self, run: SweepRun) -> str:
        return f"{self.name} {run.label}"[:MAX_NAME_CHARS]

    def _problems(self) -> list[str]:
        problems = [unknown_field(name, [*FIELDS, *NAMED]) for name in self.grid if NAMED.get(name, name) not in FIELDS]
        problems += [f"{name}: no values in the grid" for name, values in self.grid.items() if not values]
        problems += ["grid: names no field"] if not self.grid else []
        if "seed" in self.fields() and self.seeds > 1:
            problems.append("seed: in the grid, and seeds above 1; give one of them")
        count = self.seeds
        for values in self.grid.values():
            count *= max(1, len(values))
        if not 1 <= count <= MOST_RUNS:
            problems.append(f"{count} runs; allowed 1 to {MOST_RUNS}")
        if not 1 <= self.max_parallel <= 100:
            problems.append(f"max_parallel: {self.max_parallel}; allowed 1 to 100")
        return [*problems, *self._problems_of_names_and_money()]

    def _problems_of_names_and_money(self) -> list[str]:
        problems: list[str] = []
        try:
            check_usd_micros(self.budget_usd_micros, "budget")
        except InvalidInput as error:
            problems += error.problems
        try:
            check_names(name=self.name, **{f"tag {tag!r}": tag for tag in self.tags})
        except InvalidInput as error:
            problems += error.problems
        try:
            self.where.check()
        except InvalidInput as error:
            problems += error.problems
        return problems


def _label(values: Mapping[str, Any], seed: int) -> str:
    said = " ".join(f"{name}={value}" for name, value in values.items() if name != "seed")
    return f"{said} seed={seed}".strip() if "seed" not in values else f"{said} seed={values['seed']}".strip()


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One run of a sweep with its outcome."""

    values: dict[str, Any]
    seed: int
    outcome: Comparison

    def to_dict(self) -> dict[str, Any]:
        return {"values": self.values, "seed": self.seed, **self.outcome.to_dict()}


def compare_by(rows: Sequence[SweepRow], by: Sequence[str]) -> GroupComparison:
    """The runs that share their values of `by`, against each other. Only whole runs count: one that was cut short is
    not the run that was asked for. Raises InvalidInput for a field that the sweep does not vary."""
    varied = list(rows[0].values) if rows else []
    unknown = [unknown_field(name, varied) for name in by if name not in varied]
    if unknown:
        raise InvalidInput(unknown, next=f"compare by {' or '.join(varied)}")
    groups: dict[str, list[float]] = {}
    for row in rows:
        label = " ".join(f"{name}={row.values[name]}" for name in by)
        bpb = row.outcome.val_bpb
        groups.setdefault(label, []).extend([bpb] if bpb is not None and row.outcome.state == "succeeded" else [])
    return compare_groups(groups)


def verdict(comparison: GroupComparison) -> str:
    """What the comparison says, in one sentence."""
    if not comparison.groups:
        return "No run finished."
    best = comparison.groups[0]
    if not comparison.contrasts:
        return f"{best.label}: val_bpb {best.mean:.4f}; there is nothing to compare it with."
    if comparison.pooled_spread is None:
        return (
            f"{best.label} has the lowest val_bpb, {best.mean:.4f}; with one seed each, whether that is more than the "
            "noise of seeds is not known."
        )
    noise = f"(seeds spread by {comparison.pooled_spread:.4f})"
    beaten = [c for c in comparison.contrasts if c.is_real]
    if len(beaten) == len(comparison.contrasts):
        return f"{best.label} is best, val_bpb {best.mean:.4f}: better than every other beyond the noise {noise}."
    tied = ", ".join(c.other for c in comparison.contrasts if not c.is_real)
    return f"{best.label} has the lowest mean, val_bpb {best.mean:.4f}, but {tied} may be as good {noise}."


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    sweep_id: str
    project: str
    question: Sweep
    decisions: list[dict[str, Any]]
    rows: list[SweepRow]
    comparison: GroupComparison
    spent_usd_micros: int
    is_whole: bool  # every run came to its last step

    @property
    def best(self) -> str | None:
        """The cell with the lowest mean."""
        return self.comparison.groups[0].label if self.comparison.groups else None

    @property
    def sentence(self) -> str:
        cut = [row for row in self.rows if row.outcome.state != "succeeded"]
        missing = f" {len(cut)} of {len(self.rows)} runs did not come to their end." if cut else ""
        return f"{verdict(self.comparison)}{missing} Spent {format_usd(self.spent_usd_micros)}."

    def to_dict(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep_id,
            "project": self.project,
            "question": asdict(self.question),
            "best": self.best,
            "sentence": self.sentence,
            "comparison": self.comparison.to_dict(),
            "runs": [row.to_dict() for row in self.rows],
            "spent_usd_micros": self.spent_usd_micros,
            "is_whole": self.is_whole,
            "decisions": self.decisions,
        }


def table_text(report: SweepReport) -> str:
    """The body of the note in the journal."""
    lines = [
        f"- {group.label}: mean val_bpb {group.mean:.4f}"
        + (f", spread {group.spread:.4f}" if group.spread is not None else "")
        + f", {group.num_runs} run{'' if group.num_runs == 1 else 's'}"
        for group in report.comparison.groups
    ]
    failed = [f"- {r.outcome.name}: {r.outcome.state} ({r.outcome.reason})" for r in report.rows if r.outcome.reason]
    ends = [line for line in failed if "succeeded" not in line]
    return "\n".join([*lines, *ends, "", report.sentence])
