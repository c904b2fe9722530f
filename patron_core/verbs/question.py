"""What a search is asked and what it answers, and how both read in the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.estimate import BudgetFit
from patron_core.lifecycle.workload import check_spec
from patron_core.money import check_usd_micros, format_usd
from patron_core.verbs.compare import Comparison
from patron_core.verbs.spec_door import LOCAL_SPEC
from trainer.contract.spec import absolute_data


@dataclass(frozen=True, kw_only=True)
class Question:
    """*Which depth is best on this machine, in `minutes` of training, for at most `budget_usd_micros`?*"""

    minutes: float = 1.0
    budget_usd_micros: int = 50_000
    depths: tuple[int, ...] = (1, 2, 3, 4, 6)
    max_dryruns: int = 3
    max_runs: int = 2
    time_limit_minutes: float = 5.5
    min_gain_bpb: float = 0.01  # a smaller expected improvement is not worth another run
    spec: dict[str, Any] = field(default_factory=lambda: dict(LOCAL_SPEC))

    @property
    def corpus(self) -> str:
        """The data, as runs and their measurements name it."""
        return absolute_data(str(self.spec.get("data", "stdlib")))

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if not 0.05 <= self.minutes <= 60 * 24 * 7:
            problems.append(f"minutes: {self.minutes}; allowed 0.05 to {60 * 24 * 7}")
        try:
            check_usd_micros(self.budget_usd_micros, "budget")
        except InvalidInput as error:
            problems += error.problems
        if not self.depths:
            problems.append("depths: none; allowed 1 to 64")
        if not 1 <= self.max_runs <= 100 or not 1 <= self.max_dryruns <= 100:
            problems.append(f"max_runs {self.max_runs}, max_dryruns {self.max_dryruns}; allowed 1 to 100")
        if self.time_limit_minutes < self.minutes:
            problems.append(f"time limit of {self.time_limit_minutes} min is less than one run of {self.minutes} min")
        for depth in self.depths:
            try:
                check_spec(self.spec | {"depth": depth})
            except InvalidInput as error:
                problems += [f"depth {depth}: {problem}" for problem in error.problems]
        if problems:
            raise InvalidInput(problems, next="patron search --help")


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    search_id: str
    project: str
    question: Question
    decisions: list[dict[str, Any]]
    rows: list[Comparison]
    best_run: str | None
    spent_usd_micros: int
    elapsed_s: float
    stopped_because: str
    where_next: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "search": self.search_id,
            "project": self.project,
            "question": asdict(self.question),
            "best_run": self.best_run,
            "runs": [row.to_dict() for row in self.rows],
            "spent_usd_micros": self.spent_usd_micros,
            "elapsed_s": round(self.elapsed_s, 1),
            "stopped_because": self.stopped_because,
            "where_next": self.where_next,
            "decisions": self.decisions,
        }


def hypothesis_text(fits: Sequence[BudgetFit]) -> str:
    """What is expected of each depth, before anything was spent on it."""
    return "\n".join(
        f"- depth {fit.estimate.recipe.depth}: val_bpb {fit.estimate.val_bpb.mid:.3f} "
        f"({fit.estimate.val_bpb.low:.3f} to {fit.estimate.val_bpb.high:.3f}), "
        f"{fit.estimate.recipe.num_steps} steps"
        for fit in fits
    )


def result_text(report: SearchReport) -> str:
    """What came out beside what was expected, what it cost, and what to try next."""
    lines = [
        f"- depth {row.depth}: val_bpb {row.val_bpb:.4f}{row.cut_short_words}, predicted {row.predicted_bpb or 0:.4f}, "
        f"{format_usd(row.charged_usd_micros)}"
        for row in report.rows
        if row.val_bpb is not None
    ]
    failed = [f"- depth {row.depth}: {row.state} ({row.reason})" for row in report.rows if row.val_bpb is None]
    return "\n".join([*lines, *failed, "", f"Spent {format_usd(report.spent_usd_micros)}.", report.where_next])
