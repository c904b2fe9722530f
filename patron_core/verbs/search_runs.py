"""The runs of one search: fitting them to what is left of the budget, proving them, training them, topping them up."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.estimate import BudgetFit, Calibration, fit_to_budget
from patron_core.lifecycle import holds
from patron_core.lifecycle.workload import check_spec
from patron_core.machines import this_machine
from patron_core.money import affordable_s, format_usd
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs import free_checks
from patron_core.verbs.amend import amend
from patron_core.verbs.compare import compare
from patron_core.verbs.control import launch
from patron_core.verbs.dryrun import BURST_STEPS, dryrun, repriced
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.plan import fit_of, plan
from patron_core.verbs.question import Question
from patron_core.verbs.search_log import SearchLog
from patron_core.verbs.watch import RunView, view, wait
from trainer.contract.grace import kill_after_s
from trainer.contract.spec import PATH, TrainSpec


class BudgetUsedUp(Refused):
    """What is left of the search's budget does not pay for the run."""


class SearchRuns:
    """Those that an earlier life of the search made are its runs, too: their money is spent, their results count."""

    def __init__(self, store: Store, question: Question, log: SearchLog):
        self.store, self.question, self.log = store, question, log
        self.started = time.monotonic()
        self.by_depth: dict[int, str] = {}
        for depth in question.depths:
            if (run := self.find(depth)) is not None:
                self.by_depth[depth] = run.id
        self.finished: list[str] = [decision["run"] for decision in log.all_of("result")]
        self.failures: list[str] = []  # what the dryruns that failed said
        self._counted = False
        self._train_tokens: int | None = None

    def find(self, depth: int) -> Run | None:
        return runs.find_by_key(self.store, project=self.log.project, key=self._key(depth))

    def _key(self, depth: int) -> str:
        return f"search:{self.log.search_id}:d{depth}"

    def fit(
        self, depth: int, *, calibration: Calibration | None, budget_usd_micros: int, run: Run | None = None
    ) -> BudgetFit:
        spec = check_spec(self.question.spec | {"depth": depth})
        price = this_machine.this_price()
        measured = (run.dryrun or {}).get("measured", {}).get("train_tokens_available") if run else None
        available = self._available(spec) if measured is None else measured
        return fit_to_budget(
            spec,
            this_machine.this_device(self.store),
            price=price,
            budget_s=60 * self.question.minutes,
            budget_usd_micros=max(1, budget_usd_micros),
            calibration=calibration,
            fit=fit_of(self.store, spec.data),
            local=True,
            prepared=True,  # by the first dryrun: data is made once for all depths
            bound="high" if calibration else "mid",
            max_train_tokens=available,
        )

    def _available(self, spec: TrainSpec) -> int | None:
        """Tokens that a run has to train on, counted once; all depths share them. None where that is not known."""
        if not self._counted:
            if spec.data.startswith(PATH):
                self.log.progress(f"counting the tokens of {spec.data}", None)
            self._train_tokens, self._counted = free_checks.train_tokens(spec), True
        return self._train_tokens

    def prove(self, fit: BudgetFit) -> Run | None:
        depth = fit.estimate.recipe.depth
        run = self.find(depth) or plan(
            self.store,
            spec=fit.spec.to_dict(),
            project=self.log.project,
            name=f"d{depth}-{self.log.search_id[1:6]}",
            max_usd_micros=self.question.budget_usd_micros,
            actor=self.log.actor,
            key=self._key(depth),
        )
        self.by_depth[depth] = run.id
        if run.state is RunState.DRAFT:
            hold = holds.for_dryrun(
                run.estimate,
                this_machine.this_price().usd_micros_per_hour,
                BURST_STEPS,
                stop_s=kill_after_s(run.run_dir),
            )
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
            said = view(self.store, run.id).sentence
            self.failures.append(said)
            self.log.decide("drop", f"Depth {depth}: its dryrun failed. {said}", depth=depth, run=run.id)
            return None
        return run

    def begun(self) -> list[Run]:
        """Those whose training was paid for and whose result nobody has written down yet: a life that was cut short."""
        found = [runs.get_run(self.store, run_id) for run_id in self.by_depth.values() if run_id not in self.finished]
        trained = {run.id for run in found if any(a.kind == "train" for a in attempts.for_run(self.store, run.id))}
        return [run for run in found if run.state is RunState.FUNDED or run.id in trained]

    def train(self, run: Run, fit: BudgetFit) -> None:
        if run.state is RunState.AWAITING_FUNDING:
            run = amend(
                self.store,
                run.id,
                changes={
                    "num_steps": fit.estimate.recipe.num_steps,
                    "eval_every_steps": fit.spec.eval_every_steps,
                },
                actor=self.log.actor,
            )
            amount = min(hold_for(run, fit.estimate), self.money_left())
            if affordable_s(amount, fit.estimate.price.usd_micros_per_hour) < fit.estimate.wall_s.mid:
                raise BudgetUsedUp(
                    f"{format_usd(self.money_left())} of the budget are left, the run needs "
                    f"{format_usd(fit.estimate.cost_usd_micros.mid)}",
                    next="a larger --budget",
                )
            run = fund(self.store, run.id, usd_micros=amount, actor=self.log.actor, key=f"search:{self.log.search_id}")
        self.follow(run)

    def follow(self, run: Run) -> None:
        """Launch it where that is still to be done, see it to its end, and write its result down."""
        if run.state is RunState.FUNDED:
            run = launch(self.store, run.id, actor=self.log.actor)
        seen = self._top_up_while_short(self._wait(run.id))
        self.finished.append(run.id)
        row = compare(self.store, [run.id])[0]
        outcome = f"no result: {seen.sentence}"
        if row.val_bpb is not None:
            outcome = f"{row.val_bpb:.3f}{row.cut_short_words}"
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
            stop_s = kill_after_s(seen.run.run_dir)
            needed = holds.for_one_start(row.to_dict(), row.price.usd_micros_per_hour, stop_s=stop_s)
            if amount < needed or self.time_left_s() < 2 * stop_s:
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
        return wait(self.store, run_id, on_view=lambda seen: self.log.progress("", seen))

    def time_left_s(self) -> float:
        return 60 * self.question.time_limit_minutes - (time.monotonic() - self.started)

    def spent_usd_micros(self) -> int:
        money = ledger.runs_money(self.store, self.by_depth.values())
        return sum(m.charged_usd_micros + m.held_usd_micros for m in money.values())

    def money_left(self) -> int:
        return self.question.budget_usd_micros - self.spent_usd_micros()
