"""What a search is asked and what it answers, and how both read in the journal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.estimate import BudgetFit
from patron_core.machines.target import LOCAL_DEVICE, Target
from patron_core.money import check_usd_micros, format_usd
from patron_core.verbs.compare import Comparison
from patron_core.verbs.spec_door import spec_on
from trainer.contract.devices import cpu_device, find_device
from trainer.contract.spec import RANGES, absolute_data

HERE_DEPTHS, RENTED_DEPTHS = (1, 2, 3, 4, 6), (6, 8, 10, 12, 14, 16)
START_MINUTES, RENTED_START_MINUTES = 3.5, 60.0  # for dryruns and machines, beside the runs themselves


@dataclass(frozen=True, kw_only=True)
class Question:
    """*Which depth, on which device, is best in `minutes` of training, for at most `budget_usd_micros`?*

    `spec`: the fields that were given; the others are each device's defaults.
    """

    minutes: float = 1.0
    budget_usd_micros: int = 50_000
    depths: tuple[int, ...] = ()  # none: by where it runs
    devices: tuple[str, ...] = (LOCAL_DEVICE,)
    gpus: tuple[int, ...] = (1,)  # of each machine
    nodes: int = 1  # machines that train one run together
    on: str = "local"
    spot: bool = False
    where: str = ""
    fallback_prices: bool = False
    windows: tuple[str, ...] = ()  # none: the spec's
    max_dryruns: int = 3
    max_variants: int | None = None  # of the best on each device: other micro-batches and windows; None: 2 if rented
    max_runs: int = 2
    max_parallel: int | None = None  # dryruns at once; None: 1 here, 4 rented
    time_limit_minutes: float | None = None  # None: every run, and the time to start them
    min_gain_bpb: float = 0.01  # a smaller expected improvement is not worth another run
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.on == "local"

    @property
    def all_depths(self) -> tuple[int, ...]:
        return self.depths or (HERE_DEPTHS if self.is_local else RENTED_DEPTHS)

    @property
    def limit_s(self) -> float:
        """Seconds after which no new run starts."""
        start = START_MINUTES if self.is_local else RENTED_START_MINUTES
        limit = self.time_limit_minutes
        return 60 * (self.minutes * self.max_runs + start if limit is None else limit)

    @property
    def parallel(self) -> int:
        return self.max_parallel or (1 if self.is_local else 4)

    @property
    def variants(self) -> int:
        return (0 if self.is_local else 2) if self.max_variants is None else self.max_variants

    @property
    def machines(self) -> dict[str, Target]:
        """Every device with every number of GPUs, by the target's name."""
        found = [
            Target(
                executor=self.on,
                device=device,
                spot=self.spot,
                num_gpus=count,
                num_nodes=self.nodes,
                only=self.where,
                fallback=self.fallback_prices,
            )
            for device, count in itertools.product(self.devices, self.gpus)
        ]
        return {target.name: target for target in found}

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if not 0.05 <= self.minutes <= 60 * 24 * 7:
            problems.append(f"minutes: {self.minutes}; allowed 0.05 to {60 * 24 * 7}")
        try:
            check_usd_micros(self.budget_usd_micros, "budget")
        except InvalidInput as error:
            problems += error.problems
        if not self.devices:
            problems.append(f"devices: none; for instance {LOCAL_DEVICE}")
        if not self.gpus:
            problems.append("gpus: none; for instance 1,8")
        counts = {"max_runs": self.max_runs, "max_dryruns": self.max_dryruns, "max_parallel": self.parallel}
        problems += [f"{name}: {count}; allowed 1 to 100" for name, count in counts.items() if not 1 <= count <= 100]
        if self.limit_s < 60 * self.minutes:
            problems.append(f"time limit of {self.limit_s / 60:g} min is less than one run of {self.minutes} min")
        problems += self._spec_problems()
        if problems:
            raise InvalidInput(list(dict.fromkeys(problems)), next="patron search --help")

    def _spec_problems(self) -> list[str]:
        problems: list[str] = []
        _, low, high = RANGES["depth"]
        for target in self.machines.values():
            try:
                target.check()
            except InvalidInput as error:
                problems += error.problems
                continue
            device = cpu_device() if target.is_local else find_device(target.device)
            for depth in self.all_depths:
                try:
                    spec_on(device, self.spec | {"depth": depth}) if device and low <= depth <= high else None
                except InvalidInput as error:
                    problems += [f"depth {depth}: {problem}" for problem in error.problems]
        return problems + [f"depth: {d}; allowed {low} to {high}" for d in self.all_depths if not low <= d <= high]

    def corpus(self, given: dict[str, Any]) -> str:
        """The data, as runs and their measurements name it. `given`: a device's defaults."""
        return absolute_data(str(self.spec.get("data", given.get("data", "stdlib"))))


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    search_id: str
    project: str
    question: Question
    decisions: list[dict[str, Any]]
    rows: list[Comparison]
    devices: dict[str, str]  # of each run, in words
    best_run: str | None
    spent_usd_micros: int
    elapsed_s: float
    stopped_because: str
    where_next: str

    @property
    def cut_short(self) -> list[str]:
        """What did not come to its last step, one sentence each."""
        short = [row for row in self.rows if row.state != "succeeded"]
        return [
            f"{row.name} was cut short: {row.state}" + (f" ({row.reason})." if row.reason else ".") for row in short
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "search": self.search_id,
            "project": self.project,
            "question": asdict(self.question),
            "best_run": self.best_run,
            "runs": [row.to_dict() | {"where": self.devices.get(row.run)} for row in self.rows],
            "cut_short": self.cut_short,
            "spent_usd_micros": self.spent_usd_micros,
            "elapsed_s": round(self.elapsed_s, 1),
            "stopped_because": self.stopped_because,
            "where_next": self.where_next,
            "decisions": self.decisions,
        }


def hypothesis_text(fits: Sequence[tuple[str, BudgetFit]]) -> str:
    """What is expected of each candidate (its words, its fit), before anything was spent on it."""
    return "\n".join(
        f"- {words}: val_bpb {fit.estimate.val_bpb.mid:.3f} "
        f"({fit.estimate.val_bpb.low:.3f} to {fit.estimate.val_bpb.high:.3f}), "
        f"{fit.estimate.recipe.num_steps} steps, {format_usd(fit.estimate.cost_usd_micros.mid)}"
        for words, fit in fits
    )


def result_text(report: SearchReport) -> str:
    """What was asked, measured and decided, what came out beside what was expected, its cost, and what to try next."""
    asked = report.question
    lines = [
        f"Asked: the lowest val_bpb in {asked.minutes:g} min of training a run on {', '.join(asked.machines)}, for at "
        f"most {format_usd(asked.budget_usd_micros)}.",
        "",
        *(f"1. {decision['sentence']}" for decision in report.decisions),
        "",
    ]
    lines += [
        f"- {row.name}, depth {row.depth} on {report.devices.get(row.run, '')}: val_bpb {row.val_bpb:.4f}"
        f"{row.cut_short_words}, predicted {row.predicted_bpb or 0:.4f}, {format_usd(row.charged_usd_micros)}"
        for row in report.rows
        if row.val_bpb is not None
    ]
    failed = [f"- {row.name}: {row.state} ({row.reason})" for row in report.rows if row.val_bpb is None]
    return "\n".join([*lines, *failed, "", f"Spent {format_usd(report.spent_usd_micros)}.", report.where_next])
