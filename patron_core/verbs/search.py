"""Search: which depth gives the lowest val_bpb within a training time, for at most a budget? Answered by real runs.

enumerate -> estimate -> dryrun the best few -> fit steps and evaluations to the budget -> fund -> train -> compare, and
again while money, time and predicted gain last. Every decision is written down with its numbers; killed and started
again with the same key, a search goes on where it was.
"""

from __future__ import annotations

import time
from typing import Any

from patron_core.errors import Refused
from patron_core.estimate import BudgetFit, Calibration, TooLittleText
from patron_core.machines import this_machine
from patron_core.money import format_usd
from patron_core.scaling import Candidate, recommend
from patron_core.store import Store, ledger
from patron_core.store.names import check_names
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.compare import compare, where_next
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.plan import fit_of
from patron_core.verbs.question import Question, SearchReport, hypothesis_text, result_text
from patron_core.verbs.search_log import Progress, SearchLog
from patron_core.verbs.search_runs import BudgetUsedUp, SearchRuns

DRYRUN_RESERVE_S = 20.0  # an expected dryrun, when planning how many runs the time allows


@asks("spend")
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

    The same key goes on where the search was stopped, and is answered as before once it is done. Raises InvalidInput
    for a question that cannot be asked, Conflict for a key that asked another one, Refused when no depth fits the
    budget, with the reason of each.
    """
    question.check()
    check_names(project=project, actor=actor)
    log = SearchLog(store, question, project=project, actor=actor, key=key, on_progress=on_progress)
    return _Search(store, question, log).run()


class _Search:
    def __init__(self, store: Store, question: Question, log: SearchLog):
        self.store, self.question, self.log = store, question, log
        self.runs = SearchRuns(store, question, log)

    def run(self) -> SearchReport:
        if self.log.answer is not None:
            return self._report(self.log.answer["stopped_because"], elapsed_s=self.log.answer["elapsed_s"])
        self._authorise()
        if this_machine.known_profile(self.store) is None:
            self.log.progress("measuring this machine", None)
        this_machine.measured_profile(self.store)
        fits = self._enumerate()
        if not self.log.all_of("fit"):
            best = fits[0].estimate.recipe.depth
            title = f"Depth {best} is best in {self.question.minutes:g} min"
            self.log.note("hypothesis", title, hypothesis_text(fits))
        for run in self.runs.begun():
            try:
                self.runs.follow(run)
            except Refused as error:
                self.log.decide("stop", error.message, depth=run.spec["depth"], run=run.id, next=error.next)
        report = self._report(self._train(self._prove(fits)))
        self.log.save("done", report)
        title = f"Search {report.search_id}: {report.stopped_because}"
        self.log.note("result" if report.best_run else "failed", title, result_text(report), report.best_run)
        return report

    # --- the steps -------------------------------------------------------------------------------------------------

    def _authorise(self) -> None:
        if self.log.all_of("authorise"):
            return
        budget, project = self.question.budget_usd_micros, self.log.project
        with self.store.begin() as conn:  # a life that was cut short after this has no decision to show for it
            added = ledger.fill_up(
                conn,
                project=project,
                to_usd_micros=budget,
                key=f"search:{self.log.search_id}",
                actor=self.log.actor,
                now=time.time(),
            )
        self.log.decide(
            "authorise",
            f"At most {format_usd(budget)} may be spent; {format_usd(added)} were added to the wallet for it.",
            budget_usd_micros=budget,
            added_usd_micros=added,
        )

    def _enumerate(self) -> list[BudgetFit]:
        """Every depth, cut to the whole budget, the lowest predicted val_bpb first; before them those begun already."""
        fits: list[BudgetFit] = []
        refusals: list[Refused] = []
        for depth in self.question.depths:
            try:
                budget = self.question.budget_usd_micros
                fits.append(self.runs.fit(depth, calibration=None, budget_usd_micros=budget))
            except Refused as error:
                refusals.append(error)
                self._decide_once("drop", f"{error.message[0].upper()}{error.message[1:]}.", depth=depth)
        if not fits:
            if all(isinstance(error, TooLittleText) for error in refusals):
                raise refusals[0]  # the same for every depth
            raise Refused(
                f"no depth fits{this_machine.busy_words()}: {'; '.join(error.message for error in refusals)}",
                next="take more --minutes, a larger --budget, or smaller --depths",
            )
        fits.sort(key=lambda fit: (fit.estimate.recipe.depth not in self.runs.by_depth, fit.estimate.val_bpb.mid))
        for fit in fits:
            row = fit.estimate
            self._decide_once(
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

    def _decide_once(self, kind: str, sentence: str, *, depth: int, **numbers: Any) -> None:
        """What was decided of this depth in an earlier life is not decided again."""
        if not self.log.all_of(kind, depth=depth):
            self.log.decide(kind, sentence, depth=depth, **numbers)

    def _prove(self, fits: list[BudgetFit]) -> list[tuple[Run, BudgetFit]]:
        """Dryrun the best few; each then gets the steps and the eval cadence that its measured speed allows."""
        proven: list[tuple[Run, BudgetFit]] = []
        since = len(self.log.decisions)
        for fit in fits[: self.question.max_dryruns]:
            depth = fit.estimate.recipe.depth
            if self.runs.by_depth.get(depth) in self.runs.finished:
                continue
            if self.runs.time_left_s() < DRYRUN_RESERVE_S + 60 * self.question.minutes and proven:
                self.log.decide("skip", f"Depth {depth}: no time for another dryrun and a run.", depth=depth)
                break
            run = self.runs.prove(fit)
            if run is None or not run.dryrun:
                continue
            calibration = Calibration.from_dict(run.dryrun["calibration"])
            try:
                left = self.runs.money_left()
                measured = self.runs.fit(depth, calibration=calibration, budget_usd_micros=left, run=run)
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
        if not proven and not self.runs.finished:
            why = " ".join(d["sentence"] for d in self.log.decisions[since:] if d["kind"] in ("drop", "skip"))
            raise Refused(
                f"no depth passed its dryrun{'' if self.runs.failures else this_machine.busy_words()}. {why}".rstrip(),
                next="take more --minutes or smaller --depths, or try again when the machine is idle",
            )
        return proven

    def _train(self, proven: list[tuple[Run, BudgetFit]]) -> str:
        """Train the most promising until money, time or predicted gain ends. Returns why it stopped."""
        left = {run.spec["depth"]: (run, fit) for run, fit in proven}
        while left and len(self.runs.finished) < self.question.max_runs:
            best = self._best_bpb()
            law = fit_of(self.store, self.question.corpus)
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
            needed_s, left_s = fit.estimate.wall_s.mid, self.runs.time_left_s()
            if left_s < needed_s:
                self.log.decide(
                    "stop",
                    f"Depth {depth} needs about {needed_s:.0f} s; {left_s:.0f} s are left.",
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
                self.runs.train(run, fit)
            except Refused as error:
                self.log.decide("stop", error.message, depth=depth, run=run.id, next=error.next)
                return "the budget is used up" if isinstance(error, BudgetUsedUp) else error.message
        return "every proven depth was trained" if not left else f"at most {self.question.max_runs} were to be trained"

    def _best_bpb(self) -> float | None:
        found = [row.val_bpb for row in compare(self.store, self.runs.finished) if row.val_bpb is not None]
        return min(found, default=None)

    def _report(self, why: str, *, elapsed_s: float | None = None) -> SearchReport:
        rows = compare(self.store, self.runs.finished)
        done = [row for row in rows if row.val_bpb is not None]
        return SearchReport(
            search_id=self.log.search_id,
            project=self.log.project,
            question=self.question,
            decisions=self.log.decisions,
            rows=rows,
            best_run=min(done, key=lambda row: row.val_bpb or 0.0).run if done else None,
            spent_usd_micros=self.runs.spent_usd_micros(),
            elapsed_s=time.monotonic() - self.runs.started if elapsed_s is None else elapsed_s,
            stopped_because=why,
            where_next=where_next(fit_of(self.store, self.question.corpus), rows),
        )
