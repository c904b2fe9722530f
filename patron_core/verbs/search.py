"""Search: which depth gives the lowest val_bpb within a training time, for at most a budget? Answered by real runs.

enumerate -> estimate -> dryrun the best few -> fit steps and evaluations to the budget -> fund -> train -> compare, and
again while money, time and predicted gain last. Every decision is written down with its numbers; killed and started
again with the same key, a search goes on where it was.
"""

from __future__ import annotations

import time

from patron_core import machine, supervisor
from patron_core.decide import STOP_MARGIN_S
from patron_core.errors import Refused
from patron_core.estimate import BudgetFit, Calibration, fit_to_budget
from patron_core.money import affordable_s, format_usd
from patron_core.scaling import Candidate, recommend
from patron_core.specs import check_spec
from patron_core.states import EndReason, RunState
from patron_core.store import Store, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs.amend import amend
from patron_core.verbs.compare import compare, where_next
from patron_core.verbs.control import launch
from patron_core.verbs.dryrun import dryrun, dryrun_hold_usd_micros, repriced
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.money import DEFAULT_PROJECT, deposit
from patron_core.verbs.plan import fit_of, plan
from patron_core.verbs.question import Question, SearchReport, hypothesis_text, result_text
from patron_core.verbs.search_log import Progress, SearchLog
from patron_core.verbs.watch import RunView, wait

DRYRUN_RESERVE_S = 20.0  # an expected dryrun, when planning how many runs the time allows


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
    log = SearchLog(store, question, project=project, actor=actor, key=key, on_progress=on_progress)
    return _Search(store, question, log).run()


class _Search:
    def __init__(self, store: Store, question: Question, log: SearchLog):
        self.store, self.question, self.log = store, question, log
        self.started = time.monotonic()
        self.runs: dict[int, str] = {}  # depth -> run
        self.finished: list[str] = []

    def run(self) -> SearchReport:
        self._authorise()
        if machine.known_profile(self.store) is None:
            self.log.progress("measuring this machine", None)
        machine.measured_profile(self.store)
        fits = self._enumerate()
        if not self.log.has("fit"):
            best = fits[0].estimate.recipe.depth
            title = f"Depth {best} is best in {self.question.minutes:g} min"
            self.log.note("hypothesis", title, hypothesis_text(fits))
        report = self._report(self._train(self._prove(fits)))
        self.log.save("done", report)
        title = f"Search {report.search_id}: {report.stopped_because}"
        self.log.note("result" if report.best_run else "failed", title, result_text(report), report.best_run)
        return report

    # --- the steps -------------------------------------------------------------------------------------------------

    def _authorise(self) -> None:
        if self.log.has("authorise"):
            return
        budget = self.question.budget_usd_micros
        available = ledger.wallet(self.store, self.log.project).available_usd_micros
        if available < budget:
            deposit(
                self.store,
                project=self.log.project,
                usd_micros=budget - available,
                key=f"search:{self.log.search_id}",
                actor=self.log.actor,
            )
        self.log.decide(
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
                self.log.decide("drop", f"{error.message[0].upper()}{error.message[1:]}.", depth=depth)
        if not fits:
            raise Refused(
                f"no depth fits the budget{machine.busy_words()}",
                next="take more --minutes, a larger --budget, or smaller --depths",
            )
        fits.sort(key=lambda fit: fit.estimate.val_bpb.mid)
        for fit in fits:
            row = fit.estimate
            self.log.decide(
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
                self.log.decide("skip", f"Depth {depth}: no time for another dryrun and a run.", depth=depth)
                break
            run = self._dryrun(fit)
            if run is None or not run.dryrun:
                continue
            calibration = Calibration.from_dict(run.dryrun["calibration"])
            try:
                measured = self._fit(depth, calibration=calibration, run=run)
            except Refused as error:
                self.log.decide("drop", f"Measured, {error.message}.", depth=depth, run=run.id)
                continue
            self.log.decide(
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
            raise Refused(
                f"no depth passed its dryrun within the budget{machine.busy_words()}",
                next="take more --minutes or smaller --depths, or try again when the machine is idle",
            )
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
                self.log.decide(
                    "stop",
                    f"Depth {depth} is expected to improve {best:.3f} by {gain:.4f} bpb, less than "
                    f"{self.question.min_gain_bpb}.",
                    depth=depth,
                    expected_improvement_bpb=gain,
                )
                return "no further gain is expected"
            run, fit = left.pop(depth)
            if self.time_left_s() < fit.estimate.wall_s.mid:
                self.log.decide(
                    "stop",
                    f"Depth {depth} needs about {fit.estimate.wall_s.mid:.0f} s; {self.time_left_s():.0f} s are left.",
                    depth=depth,
                )
                return "the time is used up"
            self.log.decide(
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
                self.log.decide("stop", error.message, depth=depth, run=run.id)
                return "the budget is used up"
        return "every proven depth was trained" if not left else f"at most {self.question.max_runs} were to be trained"

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
            prepared=True,  # by the first dryrun: data is made once for all depths
            bound="high" if calibration else "mid",
            max_train_tokens=available,
        )

    def _dryrun(self, fit: BudgetFit) -> Run | None:
        depth = fit.estimate.recipe.depth
        key = f"search:{self.log.search_id}:d{depth}"
        run = runs.find_by_key(self.store, project=self.log.project, key=key) or plan(
            self.store,
            spec=fit.spec.to_dict(),
            project=self.log.project,
            name=f"d{depth}-{self.log.search_id[1:6]}",
            max_usd_micros=self.question.budget_usd_micros,
            actor=self.log.actor,
            key=key,
        )
        self.runs[depth] = run.id
        if run.state is RunState.DRAFT:
            hold = dryrun_hold_usd_micros(run, machine.this_price().usd_micros_per_hour)
            if hold > self.money_left():
                self.log.decide(
                    "skip",
                    f"Depth {depth}: a dryrun needs {format_usd(hold)}, {format_usd(self.money_left())} are left.",
                    depth=depth,
                )
                return None
            self.log.progress(f"depth {depth}: dryrun", None)
            run = dryrun(self.store, run.id, actor=self.log.actor)
        if run.state is RunState.DRYRUN:
            run = self._wait(run.id).run
        if run.state is RunState.FAILED:
            self.log.decide("drop", f"Depth {depth}: its dryrun failed ({run.reason}).", depth=depth, run=run.id)
            return None
        return run

    def _fund_and_run(self, run: Run, fit: BudgetFit) -> None:
        if run.state is RunState.AWAITING_FUNDING:
            run = amend(
                self.store,
                run.id,
                num_steps=fit.estimate.recipe.num_steps,
                eval_every_steps=fit.spec.eval_every_steps,
                actor=self.log.actor,
            )
            amount = min(hold_for(run, fit.estimate), self.money_left())
            if affordable_s(amount, fit.estimate.price.usd_micros_per_hour) < fit.estimate.wall_s.mid:
                raise Refused(
                    f"{format_usd(self.money_left())} of the budget are left, the run needs "
                    f"{format_usd(fit.estimate.cost_usd_micros.mid)}",
                    next="a larger --budget",
                )
            run = fund(self.store, run.id, usd_micros=amount, actor=self.log.actor, key=f"search:{self.log.search_id}")
        if run.state is RunState.FUNDED:
            run = launch(self.store, run.id, actor=self.log.actor)
        seen = self._top_up_while_short(self._wait(run.id))
        self.finished.append(run.id)
        row = compare(self.store, [run.id])[0]
        outcome = f"{row.val_bpb:.3f}" if row.val_bpb is not None else f"no result: {seen.sentence}"
        self.log.decide(
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

    def _top_up_while_short(self, seen: RunView) -> RunView:
        """A machine that became busier than its dryrun eats up the hold; go on while the budget and the time last."""
        while seen.run.state is RunState.PAUSED and seen.run.reason is EndReason.OUT_OF_FUNDS:
            row = repriced(self.store, seen.run)
            amount = min(hold_for(seen.run, row), self.money_left())
            lasts_s = affordable_s(amount, row.price.usd_micros_per_hour)
            if lasts_s < 2 * STOP_MARGIN_S or self.time_left_s() < 2 * STOP_MARGIN_S:
                return seen
            self.log.decide(
                "top_up",
                f"Run {seen.run.name} is slower than its dryrun was: {format_usd(amount)} more to go on from step "
                f"{seen.step} of {seen.num_steps}.",
                run=seen.run.id,
                usd_micros=amount,
                step=seen.step,
            )
            key = f"search:{self.log.search_id}:{len(self.log.decisions)}"
            fund(self.store, seen.run.id, usd_micros=amount, actor=self.log.actor, key=key)
            launch(self.store, seen.run.id, actor=self.log.actor)
            seen = self._wait(seen.run.id)
        return seen

    def _wait(self, run_id: str) -> RunView:
        supervisor.ensure_running(self.store)
        return wait(self.store, run_id, every_s=0.5, on_view=lambda seen: self.log.progress("", seen))

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

    def _report(self, why: str) -> SearchReport:
        rows = compare(self.store, self.finished)
        done = [row for row in rows if row.val_bpb is not None]
        corpus = str(self.question.spec.get("data", "stdlib"))
        return SearchReport(
            search_id=self.log.search_id,
            project=self.log.project,
            question=self.question,
            decisions=self.log.decisions,
            rows=rows,
            best_run=min(done, key=lambda row: row.val_bpb or 0.0).run if done else None,
            spent_usd_micros=self.spent(),
            elapsed_s=time.monotonic() - self.started,
            stopped_because=why,
            where_next=where_next(fit_of(self.store, corpus), rows),
        )
