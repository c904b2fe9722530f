"""Search: which depth gives the lowest val_bpb within a training time, for at most a budget? Answered by real runs.

enumerate -> estimate -> dryrun the best few -> fit steps and evaluations to the budget -> fund -> train -> compare, and
again while money, time and predicted gain last. Every decision is written down with its numbers; killed and started
again with the same key, a search goes on where it was.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from patron_core import machine, supervisor
from patron_core.errors import InvalidInput, Refused
from patron_core.estimate import BudgetFit, Calibration, fit_to_budget
from patron_core.money import affordable_s, format_usd
from patron_core.scaling import Candidate, recommend
from patron_core.specs import check_spec
from patron_core.states import RunState
from patron_core.store import Store, ledger, runs, searches
from patron_core.store.records import Run
from patron_core.verbs.amend import amend
from patron_core.verbs.compare import Comparison, compare, where_next
from patron_core.verbs.control import launch
from patron_core.verbs.dryrun import dryrun, dryrun_hold_usd_micros
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.journal import write_note
from patron_core.verbs.money import DEFAULT_PROJECT, deposit
from patron_core.verbs.plan import fit_of, plan
from patron_core.verbs.watch import RunView, wait

# What a laptop can train in a minute: short sequences, a small vocabulary, small batches for many steps.
LOCAL_SPEC: dict[str, Any] = {
    "sequence_len": 256,
    "vocab_size": 4096,
    "batch_tokens": 8192,
    "device_batch_size": 32,
    "eval_tokens": 262144,
    "data": "stdlib",
}
DRYRUN_RESERVE_S = 20.0  # an expected dryrun, when planning how many runs the time allows

Progress = Callable[[str, RunView | None], None]


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

    def check(self) -> None:
        """Raises InvalidInput with every problem at once."""
        problems = []
        if not 0.05 <= self.minutes <= 60 * 24 * 7:
            problems.append(f"minutes: {self.minutes}; allowed 0.05 to {60 * 24 * 7}")
        if self.budget_usd_micros <= 0:
            problems.append(f"budget: {format_usd(self.budget_usd_micros)}; allowed above $0")
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
            raise InvalidInput(problems, next="python notebooks/search.py --help")


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


def search(
    store: Store,
    question: Question,
    *,
    project: str = DEFAULT_PROJECT,
    actor: str,
    key: str | None = None,
    on_progress: Progress | None = None,
) -> SearchReport:
    """Answer the question. The budget is the caller's authorisation: the wallet is filled up to it, and no more.

    Raises InvalidInput for a question that cannot be asked, Refused when no depth fits the budget.
    """
    question.check()
    key = key or uuid.uuid4().hex[:12]
    return _Search(store, question, project, actor, key, on_progress or (lambda line, view: None)).run()


class _Search:
    def __init__(self, store: Store, question: Question, project: str, actor: str, key: str, on_progress: Progress):
        self.store, self.question, self.project, self.actor, self.key = store, question, project, actor, key
        self.progress = on_progress
        self.started = time.monotonic()
        known = searches.find(store, project=project, key=key)
        self.id = known.id if known else runs.new_id("s")
        self.decisions: list[dict[str, Any]] = list(known.decisions) if known else []
        self.runs: dict[int, str] = {}  # depth -> run
        self.finished: list[str] = []

    def run(self) -> SearchReport:
        self._save("running", None)
        self._authorise()
        profile_known = machine.known_profile(self.store) is not None
        if not profile_known:
            self.progress("measuring this machine", None)
        machine.measured_profile(self.store)
        candidates = self._enumerate()
        self._hypothesis(candidates)
        proven = self._prove(candidates)
        why = self._train(proven)
        report = self._report(why)
        self._save("done", {k: v for k, v in report.to_dict().items() if k != "decisions"})
        self._write_result(report)
        return report

    # --- the steps -------------------------------------------------------------------------------------------------

    def _authorise(self) -> None:
        if any(decision["kind"] == "authorise" for decision in self.decisions):
            return
        budget = self.question.budget_usd_micros
        available = ledger.wallet(self.store, self.project).available_usd_micros
        if available < budget:
            deposit(
                self.store,
                project=self.project,
                usd_micros=budget - available,
                key=f"search:{self.id}",
                actor=self.actor,
            )
        self._decide(
            "authorise",
            f"At most {format_usd(budget)} may be spent; {format_usd(available)} were in the wallet.",
            budget_usd_micros=budget,
            available_usd_micros=available,
        )

    def _enumerate(self) -> list[BudgetFit]:
        """Every depth, cut to the budget, the lowest predicted val_bpb first."""
        fits = []
        for depth in self.question.depths:
            try:
                fits.append(self._fit(depth, calibration=None))
            except Refused as error:
                self._decide("drop", f"Depth {depth}: {error.message}.", depth=depth)
        if not fits:
            raise Refused(
                "no depth fits the budget", next="take more --minutes, a larger --budget, or smaller --depths"
            )
        fits.sort(key=lambda fit: fit.estimate.val_bpb.mid)
        for fit in fits:
            row = fit.estimate
            self._decide(
                "estimate",
                f"Depth {row.recipe.depth}: {fit.sentence} Predicted val_bpb {row.val_bpb.mid:.3f} "
                f"({row.val_bpb.low:.3f} to {row.val_bpb.high:.3f}).",
                depth=row.recipe.depth,
                num_steps=row.recipe.num_steps,
                val_bpb=row.val_bpb.to_dict(),
                wall_s=row.wall_s.to_dict(),
                cost_usd_micros=row.cost_usd_micros.to_dict(),
            )
        return fits

    def _prove(self, fits: list[BudgetFit]) -> list[tuple[Run, BudgetFit]]:
        """Dryrun the best few; each then gets the steps and the eval cadence that its measured speed allows."""
        proven: list[tuple[Run, BudgetFit]] = []
        for fit in fits[: self.question.max_dryruns]:
            depth = fit.estimate.recipe.depth
            if self.time_left_s() < DRYRUN_RESERVE_S + 60 * self.question.minutes and proven:
                self._decide("skip", f"Depth {depth}: no time for another dryrun and a run.", depth=depth)
                break
            run = self._dryrun(fit)
            if run is None or not run.dryrun:
                continue
            calibration = Calibration.from_dict(run.dryrun["calibration"])
            try:
                measured = self._fit(depth, calibration=calibration, run=run)
            except Refused as error:
                self._decide("drop", f"Depth {depth}, measured: {error.message}.", depth=depth, run=run.id)
                continue
            self._decide(
                "fit",
                f"Depth {depth}, measured {calibration.step_s:.3f} s a step: {measured.sentence} "
                f"Predicted val_bpb {measured.estimate.val_bpb.mid:.3f}.",
                depth=depth,
                run=run.id,
                step_s=calibration.step_s,
                estimated_step_s=fit.estimate.step_s.to_dict(),
                num_steps=measured.estimate.recipe.num_steps,
                val_bpb=measured.estimate.val_bpb.to_dict(),
            )
            proven.append((run, measured))
        if not proven:
            raise Refused("no depth passed its dryrun", next="python notebooks/0_lab.py")
        return proven

    def _train(self, proven: list[tuple[Run, BudgetFit]]) -> str:
        """Train the most promising until money, time or predicted gain ends. Returns why it stopped."""
        left = {run.spec["depth"]: (run, fit) for run, fit in proven}
        while left and len(self.finished) < self.question.max_runs:
            best = self._best_bpb()
            law = fit_of(self.store, str(self.question.spec.get("data", "stdlib")))
            options = [
                Candidate(
                    label=str(depth),
                    num_params=fit.estimate.recipe.num_params.scaling,
                    num_tokens=fit.estimate.recipe.train_tokens,
                )
                for depth, (_, fit) in left.items()
            ]
            choice = recommend(law, options, best)[0]
            depth = int(choice.candidate.label)
            gain = choice.expected_improvement_bpb
            if best is not None and gain < self.question.min_gain_bpb:
                self._decide(
                    "stop",
                    f"Depth {depth} is expected to improve {best:.3f} by {gain:.4f} bpb, less than "
                    f"{self.question.min_gain_bpb}.",
                    depth=depth,
                    expected_improvement_bpb=gain,
                )
                return "no further gain is expected"
            run, fit = left.pop(depth)
            if self.time_left_s() < fit.estimate.wall_s.mid:
                self._decide(
                    "stop",
                    f"Depth {depth} needs about {fit.estimate.wall_s.mid:.0f} s; {self.time_left_s():.0f} s are left.",
                    depth=depth,
                )
                return "the time is used up"
            self._decide(
                "train",
                f"Depth {depth}: predicted {choice.val_bpb.mid:.3f}"
                + (f", expected to improve {best:.3f} by {gain:.4f}." if best is not None else "."),
                depth=depth,
                run=run.id,
                val_bpb=choice.val_bpb.to_dict(),
                expected_improvement_bpb=gain,
            )
            try:
                self._fund_and_run(run, fit)
            except Refused as error:
                self._decide("stop", error.message, depth=depth, run=run.id)
                return "the budget is used up"
        return "every proven depth was trained" if not left else f"{self.question.max_runs} runs were asked for"

    # --- one run ---------------------------------------------------------------------------------------------------

    def _fit(self, depth: int, *, calibration: Calibration | None, run: Run | None = None) -> BudgetFit:
        spec = check_spec(self.question.spec | {"depth": depth})
        price = machine.this_price()
        available = (run.dryrun or {}).get("measured", {}).get("train_tokens_available") if run else None
        return fit_to_budget(
            spec,
            machine.this_device(self.store),
            price=price,
            budget_s=60 * self.question.minutes,
            budget_usd_micros=max(1, self.money_left()),
            calibration=calibration,
            fit=fit_of(self.store, spec.data),
            local=True,
            max_train_tokens=available,
        )

    def _dryrun(self, fit: BudgetFit) -> Run | None:
        depth = fit.estimate.recipe.depth
        key = f"search:{self.id}:d{depth}"
        run = runs.find_by_key(self.store, project=self.project, key=key) or plan(
            self.store,
            spec=fit.spec.to_dict(),
            project=self.project,
            name=f"d{depth}-{self.id[1:6]}",
            max_usd_micros=self.question.budget_usd_micros,
            actor=self.actor,
            key=key,
        )
        self.runs[depth] = run.id
        if run.state is RunState.DRAFT:
            hold = dryrun_hold_usd_micros(run, machine.this_price().usd_micros_per_hour)
            if hold > self.money_left():
                self._decide(
                    "skip",
                    f"Depth {depth}: a dryrun needs {format_usd(hold)}, {format_usd(self.money_left())} are left.",
                    depth=depth,
                )
                return None
            self.progress(f"depth {depth}: dryrun", None)
            run = dryrun(self.store, run.id, actor=self.actor)
        if run.state is RunState.DRYRUN:
            run = self._wait(run.id).run
        if run.state is RunState.FAILED:
            self._decide("drop", f"Depth {depth}: its dryrun failed ({run.reason}).", depth=depth, run=run.id)
            return None
        return run

    def _fund_and_run(self, run: Run, fit: BudgetFit) -> None:
        if run.state is RunState.AWAITING_FUNDING:
            run = amend(
                self.store,
                run.id,
                num_steps=fit.estimate.recipe.num_steps,
                eval_every_steps=fit.spec.eval_every_steps,
                actor=self.actor,
            )
            amount = min(hold_for(run, fit.estimate), self.money_left())
            if affordable_s(amount, fit.estimate.price.usd_micros_per_hour) < fit.estimate.wall_s.mid:
                raise Refused(
                    f"{format_usd(self.money_left())} of the budget are left, the run needs "
                    f"{format_usd(fit.estimate.cost_usd_micros.mid)}",
                    next="a larger --budget",
                )
            run = fund(self.store, run.id, usd_micros=amount, actor=self.actor, key=f"search:{self.id}")
        if run.state is RunState.FUNDED:
            run = launch(self.store, run.id, actor=self.actor)
        seen = self._wait(run.id)
        self.finished.append(run.id)
        row = compare(self.store, [run.id])[0]
        outcome = f"{row.val_bpb:.3f}" if row.val_bpb is not None else f"no result: {seen.sentence}"
        self._decide(
            "result",
            f"Depth {run.spec['depth']}: val_bpb {outcome}, predicted {row.predicted_bpb or 0:.3f}; "
            f"{row.wall_s:.0f} s and {format_usd(row.charged_usd_micros)}.",
            run=run.id,
            depth=run.spec["depth"],
            state=seen.run.state.value,
            val_bpb=row.val_bpb,
            predicted_bpb=row.predicted_bpb,
            charged_usd_micros=row.charged_usd_micros,
        )

    def _wait(self, run_id: str) -> RunView:
        supervisor.ensure_running(self.store)
        return wait(self.store, run_id, every_s=0.5, on_view=lambda seen: self.progress("", seen))

    # --- what is known ---------------------------------------------------------------------------------------------

    def time_left_s(self) -> float:
        return 60 * self.question.time_limit_minutes - (time.monotonic() - self.started)

    def spent(self) -> int:
        money = ledger.runs_money(self.store, self.runs.values())
        return sum(m.charged_usd_micros + m.held_usd_micros for m in money.values())

    def money_left(self) -> int:
        return self.question.budget_usd_micros - self.spent()

    def _best_bpb(self) -> float | None:
        found = [row.val_bpb for row in compare(self.store, self.finished) if row.val_bpb is not None]
        return min(found, default=None)

    # --- what is written -------------------------------------------------------------------------------------------

    def _decide(self, kind: str, sentence: str, **numbers: Any) -> None:
        self.decisions.append({"kind": kind, "sentence": sentence, **numbers})
        self._save("running", None)
        self.progress(sentence, None)

    def _save(self, state: str, result: dict[str, Any] | None) -> None:
        with self.store.begin() as conn:
            searches.save(
                conn,
                search_id=self.id,
                project=self.project,
                key=self.key,
                question=asdict(self.question),
                state=state,
                decisions=self.decisions,
                result=result,
                now=time.time(),
            )

    def _hypothesis(self, fits: list[BudgetFit]) -> None:
        best = fits[0].estimate
        self._note(
            "hypothesis",
            f"Depth {best.recipe.depth} is best in {self.question.minutes:g} min",
            "\n".join(
                f"- depth {fit.estimate.recipe.depth}: val_bpb {fit.estimate.val_bpb.mid:.3f} "
                f"({fit.estimate.val_bpb.low:.3f} to {fit.estimate.val_bpb.high:.3f}), "
                f"{fit.estimate.recipe.num_steps} steps"
                for fit in fits
            ),
            None,
        )

    def _write_result(self, report: SearchReport) -> None:
        lines = [
            f"- depth {row.depth}: val_bpb {row.val_bpb:.4f}, predicted {row.predicted_bpb or 0:.4f}, "
            f"{format_usd(row.charged_usd_micros)}"
            for row in report.rows
            if row.val_bpb is not None
        ]
        failed = [f"- depth {row.depth}: {row.state} ({row.reason})" for row in report.rows if row.val_bpb is None]
        title = f"Search {self.id}: {report.stopped_because}"
        body = "\n".join([*lines, *failed, "", f"Spent {format_usd(report.spent_usd_micros)}.", report.where_next])
        self._note("result" if report.best_run else "failed", title, body, report.best_run)

    def _note(self, kind: str, title: str, body: str, run_id: str | None) -> None:
        write_note(
            self.store,
            project=self.project,
            kind=kind,
            title=title,
            body=body,
            run_id=run_id,
            links={"search": self.id},
            actor=self.actor,
        )

    def _report(self, why: str) -> SearchReport:
        rows = compare(self.store, self.finished)
        done = [row for row in rows if row.val_bpb is not None]
        corpus = str(self.question.spec.get("data", "stdlib"))
        return SearchReport(
            search_id=self.id,
            project=self.project,
            question=self.question,
            decisions=self.decisions,
            rows=rows,
            best_run=min(done, key=lambda row: row.val_bpb or 0.0).run if done else None,
            spent_usd_micros=self.spent(),
            elapsed_s=time.monotonic() - self.started,
            stopped_because=why,
            where_next=where_next(fit_of(self.store, corpus), rows),
        )
