"""Search: which depth, on which device, gives the lowest val_bpb within a training time, for at most a budget?

enumerate device x GPUs x depth x windows x micro-batch: estimate -> dryrun the best few in waves -> other micro-batches
and windows of the best -> fit steps and evaluations to what was measured -> fund -> train, and stop what is hopeless ->
compare, and again while money, time and predicted gain last. On this machine or on rented ones it is the same. Every
decision is written down with its numbers; killed and started again with the same key, a search goes on where it was.
"""

from __future__ import annotations

import time
from contextlib import suppress

from patron_core.errors import Refused
from patron_core.estimate import TooLittleText
from patron_core.machines import this_machine
from patron_core.machines.target import LOCAL_DEVICE, target_of
from patron_core.scaling import recommend
from patron_core.states import RunState
from patron_core.store import Store, attempts, runs
from patron_core.store.names import check_names
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.candidates import Candidate, Candidates, Fitted
from patron_core.verbs.compare import compare, where_next
from patron_core.verbs.fleet import Fleet
from patron_core.verbs.measured import fit_of
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.question import Question, SearchReport, hypothesis_text, result_text
from patron_core.verbs.search_log import Progress, SearchLog
from patron_core.verbs.search_training import BudgetUsedUp, Training, beaten_words, eval_words, wave_size

DRYRUN_RESERVE_S = 20.0  # an expected dryrun here, when planning how many runs the time allows


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
        self.started = time.monotonic()
        self.fleet = Fleet(
            store,
            log,
            kind="search",
            budget_usd_micros=question.budget_usd_micros,
            max_parallel=question.parallel,
        )
        self.candidates = Candidates(store, question, lambda line: log.progress(line, None))
        self.training = Training(store, log, self.fleet)

    def run(self) -> SearchReport:
        if self.log.decisions:  # of an earlier life
            self._find_begun()
        if self.log.answer is not None:
            return self._report(self.log.answer["stopped_because"], elapsed_s=self.log.answer["elapsed_s"])
        self.fleet.authorise()
        if LOCAL_DEVICE in self.question.devices:
            if this_machine.known_profile(self.store) is None:
                self.log.progress("measuring this machine", None)
            this_machine.measured_profile(self.store)
        fits = self._enumerate()
        if not self.log.all_of("fit"):
            best = f"{fits[0].candidate.words} is best in {self.question.minutes:g} min"
            self.log.note("hypothesis", best, hypothesis_text([(one.candidate.words, one.fit) for one in fits]))
        self.training.see_through(self._begun())
        report = self._report(self._train(self._prove(fits)))
        self.log.save("done", report)
        title = f"Search {report.search_id}: {report.stopped_because}"
        self.log.note("result" if report.best_run else "failed", title, result_text(report), report.best_run)
        return report

    # --- the steps -------------------------------------------------------------------------------------------------

    def _find_begun(self) -> dict[str, Candidate]:
        """Every candidate that this life or an earlier one planned, by label."""
        found: dict[str, Candidate] = {}
        for _, _, shapes in self.candidates.each():
            found |= {one.label: one for one in shapes if self.fleet.find(one.label) is not None}
        for decision in self.log.all_of("vary"):
            self.fleet.find(decision["label"])
        return found

    def _begun(self) -> list[str]:
        """Those whose training was paid for and whose result nobody has written down: a life that was cut short."""
        found = {label: runs.get_run(self.store, run_id) for label, run_id in self.fleet.ids.items()}
        return [
            label
            for label, run in found.items()
            if run.id not in self.training.finished
            and (run.state is RunState.FUNDED or any(a.kind == "train" for a in attempts.for_run(self.store, run.id)))
        ]

    def _enumerate(self) -> list[Fitted]:
        """The best shape of every depth on every device, cut to the whole budget, the lowest predicted val_bpb first;
        before them those begun already."""
        varied = {decision["label"] for decision in self.log.all_of("vary")}
        begun = {label for label in self._find_begun() if label not in varied}
        fits: list[Fitted] = []
        refusals: list[Refused] = []
        for device, depth, shapes in self.candidates.each():
            mine = [one for one in shapes if one.label in begun] or shapes
            try:
                fits.append(self.candidates.best_of(mine, self.question.budget_usd_micros))
            except Refused as error:
                refusals.append(error)
                self._decide_once("drop", f"{error.message[0].upper()}{error.message[1:]}.", device=device, depth=depth)
        if not fits:
            if all(isinstance(error, TooLittleText) for error in refusals):
                raise refusals[0]  # the same for every depth
            raise Refused(
                f"no depth fits{self._busy_words()}: {'; '.join(error.message for error in refusals)}",
                next="take more --minutes, a larger --budget, or smaller --depths",
            )
        fits.sort(key=lambda one: (one.candidate.label not in begun, one.bpb))
        for one in fits:
            row = one.fit.estimate
            shape = "" if self.question.is_local else f" ({one.candidate.shape_words})"
            self._decide_once(
                "estimate",
                f"{one.candidate.words}{shape}: {one.fit.sentence} Predicted val_bpb {row.val_bpb.mid:.3f} "
                f"({row.val_bpb.low:.3f} to {row.val_bpb.high:.3f}).",
                device=one.candidate.device,
                depth=row.recipe.depth,
                num_steps=row.recipe.num_steps,
                val_bpb=row.val_bpb.to_dict(),
                wall_s=row.wall_s.to_dict(),
                cost_usd_micros=row.cost_usd_micros.to_dict(),
            )
        return fits

    def _decide_once(self, kind: str, sentence: str, *, device: str, depth: int, **numbers: object) -> None:
        """What was decided of this depth there in an earlier life is not decided again."""
        if not self.log.all_of(kind, depth=depth, device=device):
            self.log.decide(kind, sentence, device=device, depth=depth, **numbers)

    def _prove(self, fits: list[Fitted]) -> list[Fitted]:
        """Dryrun the best few, so many at once, then variants of the best on each device; each gets the steps and the
        evaluations that its measured speed allows."""
        since = len(self.log.decisions)
        proven = self._measure(self._chosen(fits))
        for device in self.question.machines if self.question.variants else ():
            mine = [one for one in proven if one.candidate.device == device]
            varied = self.candidates.variants(min(mine, key=lambda one: one.bpb)) if mine else []
            for candidate in varied:
                if not self.log.all_of("vary", label=candidate.label):
                    said = f"{candidate.words} with {candidate.shape_words} is tried too: the burst leaves room for it."
                    self.log.decide("vary", said, label=candidate.label, depth=candidate.spec.depth, device=device)
            proven += self._measure(self._fits_of(varied))
        if not proven and not self.training.finished:
            why = self.log.against(since)
            busy = "" if "its dryrun failed" in why else self._busy_words()
            raise Refused(
                f"no depth passed its dryrun{busy}. {why}".rstrip(),
                next="take more --minutes or smaller --depths, or try again when the machine is idle",
            )
        best: dict[tuple[str, int], Fitted] = {}  # of a device and depth, the shape that gets further
        for one in sorted(proven, key=lambda one: one.bpb):
            best.setdefault((one.candidate.device, one.candidate.spec.depth), one)
        return list(best.values())

    def _fits_of(self, varied: list[Candidate]) -> list[Fitted]:
        found: list[Fitted] = []
        for candidate in varied:
            with suppress(Refused):  # it needs more than there is; its sibling stands
                found.append(self.candidates.fit(candidate, self.question.budget_usd_micros))
        return found

    def _chosen(self, fits: list[Fitted]) -> list[Fitted]:
        """The best of each device, then whatever is best, up to `max_dryruns`; those that are done are left out."""
        first = sorted({one.candidate.device: one for one in reversed(fits)}.values(), key=fits.index)
        ranked = first + [one for one in fits if one not in first] if len(first) > 1 else fits
        done = {label for label, run_id in self.fleet.ids.items() if run_id in self.training.finished}
        return [one for one in ranked[: self.question.max_dryruns] if one.candidate.label not in done]

    def _measure(self, wanted: list[Fitted]) -> list[Fitted]:
        found: list[Fitted] = []
        waves = [wanted[n : n + self.question.parallel] for n in range(0, len(wanted), self.question.parallel)]
        for wave in waves:
            if found and self.time_left_s() < DRYRUN_RESERVE_S + 60 * self.question.minutes:
                self.log.decide("skip", f"{wave[0].candidate.words}: no time for another dryrun and a run.")
                break
            for one in wave:
                self.fleet.plan(
                    one.candidate.label,
                    self.candidates.planned(one),
                    one.candidate.target,
                    name=f"{one.candidate.label.replace(' ', '-')}-{self.log.search_id[1:6]}",
                    budget_s=None if self.question.is_local else 60 * self.question.minutes,
                )
            proven = {run.id: run for run in self.fleet.prove([one.candidate.label for one in wave])}
            found += [
                measured
                for one in wave
                if (run := proven.get(self.fleet.ids[one.candidate.label])) is not None
                and (measured := self._fit_measured(one, run)) is not None
            ]
        return found

    def _fit_measured(self, one: Fitted, run: Run) -> Fitted | None:
        candidate, estimated = one.candidate, one.fit.estimate
        try:
            measured = self.candidates.fit(candidate, self.fleet.money_left(), run)
        except Refused as error:
            self.log.decide("drop", f"Measured, {error.message}.", depth=candidate.spec.depth, run=run.id)
            return None
        row = measured.fit.estimate
        step_s = row.calibration.step_s if row.calibration else row.step_s.mid
        self.log.decide(
            "fit",
            f"{candidate.words}, measured {step_s:.3f} s a step: {measured.fit.sentence} "
            f"Predicted val_bpb {row.val_bpb.mid:.3f}.{eval_words(self.question.spec, measured)}",
            depth=candidate.spec.depth,
            device=candidate.device,
            run=run.id,
            step_s=step_s,
            estimated_step_s=estimated.step_s.to_dict(),
            num_steps=row.recipe.num_steps,
            val_bpb=row.val_bpb.to_dict(),
        )
        return measured

    def _train(self, proven: list[Fitted]) -> str:
        """Train the most promising until money, time or predicted gain ends. Returns why it stopped."""
        left = {one.candidate.label: one for one in proven}
        while left and len(self.training.finished) < self.question.max_runs:
            wave: list[str] = []
            why = ""
            size = self._wave_size(list(left.values()))
            while left and len(wave) < size and not why:
                why = self._begin_one(left, wave)
            self.training.see_through(wave)
            if why and not wave:
                return why
        return "every proven depth was trained" if not left else f"at most {self.question.max_runs} were to be trained"

    def _wave_size(self, left: list[Fitted]) -> int:
        num_runs = min(len(left), self.question.max_runs - len(self.training.finished))
        longest_s = max(one.fit.estimate.wall_s.high for one in left)
        parallel = 1 if self.question.is_local else self.question.parallel
        return wave_size(runs_left=num_runs, time_left_s=self.time_left_s(), run_s=longest_s, parallel=parallel)

    def _begin_one(self, left: dict[str, Fitted], wave: list[str]) -> str:
        """Fund the most promising of those that are left and put it into the wave; else why none is."""
        best = self._best_bpb()
        law = fit_of(self.store, next(iter(left.values())).fit.spec.data)
        choice = recommend(law, [one.forecast for one in left.values()], best)[0]
        one, gain = left[choice.candidate.label], choice.expected_improvement_bpb
        words, depth = one.candidate.words, one.candidate.spec.depth
        if best is not None and gain < self.question.min_gain_bpb:
            self.log.decide(
                "stop",
                f"{words} is expected to improve {best:.3f} by {gain:.4f} bpb, less than {self.question.min_gain_bpb}.",
                depth=depth,
                expected_improvement_bpb=gain,
            )
            return "no further gain is expected"
        needed_s, left_s = one.fit.estimate.wall_s.high, self.time_left_s()
        if left_s < needed_s:
            self.log.decide("stop", f"{words} may need {needed_s:.0f} s; {left_s:.0f} s are left.", depth=depth)
            return "the time is used up"
        del left[choice.candidate.label]
        self.log.decide(
            "train",
            f"{words}: predicted {choice.val_bpb.mid:.3f}"
            + (f", expected to improve {best:.3f} by {gain:.4f}" if best is not None else "")
            + (f", beside {len(wave)} that the time leaves no turn of its own" if wave else "")
            + beaten_words(one, list(left.values())),
            depth=depth,
            device=one.candidate.device,
            run=self.fleet.ids[one.candidate.label],
            val_bpb=choice.val_bpb.to_dict(),
            expected_improvement_bpb=gain,
        )
        try:
            self.training.fund(one)
        except Refused as error:
            run_id = self.fleet.ids[one.candidate.label]
            self.log.decide("stop", error.message, depth=depth, run=run_id, next=error.next)
            return "the budget is used up" if isinstance(error, BudgetUsedUp) else error.message
        wave.append(one.candidate.label)
        return ""

    def time_left_s(self) -> float:
        return self.question.limit_s - (time.monotonic() - self.started)

    def _busy_words(self) -> str:
        return this_machine.busy_words() if self.question.is_local else ""

    def _best_bpb(self) -> float | None:
        found = [row.val_bpb for row in compare(self.store, self.training.finished) if row.val_bpb is not None]
        return min(found, default=None)

    def _report(self, why: str, *, elapsed_s: float | None = None) -> SearchReport:
        rows = compare(self.store, self.training.finished)
        done = [row for row in rows if row.val_bpb is not None]
        corpus = done[0].spec["data"] if done else self.candidates.corpora()[0]
        return SearchReport(
            search_id=self.log.search_id,
            project=self.log.project,
            question=self.question,
            decisions=self.log.decisions,
            rows=rows,
            devices={row.run: target_of(runs.get_run(self.store, row.run)).words for row in rows},
            best_run=min(done, key=lambda row: row.val_bpb or 0.0).run if done else None,
            spent_usd_micros=self.fleet.spent_usd_micros(),
            elapsed_s=time.monotonic() - self.started if elapsed_s is None else elapsed_s,
            stopped_because=why,
            where_next=where_next(fit_of(self.store, corpus), rows),
        )
