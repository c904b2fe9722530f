"""A search's trainings: amended to what was measured, funded, followed, stopped where hopeless, written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patron_core.errors import Refused
from patron_core.money import affordable_s, format_usd
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.scaling.stopping import EARLIEST, Curve, is_hopeless
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.verbs.amend import amend
from patron_core.verbs.candidates import Fitted
from patron_core.verbs.compare import compare
from patron_core.verbs.fleet import Fleet
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.search_log import SearchLog
from patron_core.verbs.watch import RunView
from trainer.contract.spec import TrainSpec

LOOKS = 10  # at a curve, evenly over a run


class BudgetUsedUp(Refused):
    """What is left of the search's budget does not pay for the run."""


class Training:
    """`finished`: those whose result is written down, in whatever life; their results count."""

    def __init__(self, store: Store, log: SearchLog, fleet: Fleet):
        self.store, self.log, self.fleet = store, log, fleet
        self.finished: list[str] = [decision["run"] for decision in log.all_of("result")]
        self._looked: dict[str, int] = {}  # run: the tenth of its steps in which its curve was looked at last
        fleet.on_look = self._stop_if_hopeless

    def fund(self, one: Fitted) -> None:
        """Hold what it needs. Raises Refused, BudgetUsedUp among them."""
        label = one.candidate.label
        run = runs.get_run(self.store, self.fleet.ids[label])
        if run.state is RunState.AWAITING_FUNDING:
            row = one.fit.estimate
            changes = {"num_steps": row.recipe.num_steps, "eval_every_steps": one.fit.spec.eval_every_steps}
            run = amend(self.store, run.id, changes=changes, actor=self.log.actor)
            amount = min(hold_for(run, row), self.fleet.money_left())
            if affordable_s(amount, row.price.usd_micros_per_hour) < row.wall_s.mid:
                raise BudgetUsedUp(
                    f"{format_usd(self.fleet.money_left())} of the budget are left, the run needs "
                    f"{format_usd(row.cost_usd_micros.mid)}",
                    next="a larger --budget",
                )
            fund(self.store, run.id, usd_micros=amount, actor=self.log.actor, key=f"search:{self.log.search_id}")

    def see_through(self, labels: Sequence[str]) -> None:
        """Launch them where that is still to be done, see them to their ends, and write their results down."""
        for seen in self.fleet.train(labels):
            self._write_down(seen)

    def _write_down(self, seen: RunView) -> None:
        self.finished.append(seen.run.id)
        row = compare(self.store, [seen.run.id])[0]
        outcome = f"no result: {seen.sentence}"
        if row.val_bpb is not None:
            outcome = f"{row.val_bpb:.3f}{row.cut_short_words}"
        self.log.decide(
            "result",
            f"{seen.run.name}: val_bpb {outcome}, predicted {row.predicted_bpb or 0:.3f}; "
            f"{row.wall_s:.0f} s and {format_usd(row.charged_usd_micros)}.",
            run=seen.run.id,
            depth=seen.run.spec["depth"],
            state=seen.run.state.value,
            val_bpb=row.val_bpb,
            predicted_bpb=row.predicted_bpb,
            charged_usd_micros=row.charged_usd_micros,
        )

    def _stop_if_hopeless(self, seen: RunView) -> None:
        """Ten looks at a curve, from a third of its steps on; stopped where, with 95 %, it will not be the best."""
        if not seen.num_steps or not self.finished or seen.run.stop_requested or seen.run.state is not RunState.RUNNING:
            return
        tenth = LOOKS * seen.step // seen.num_steps
        if tenth <= self._looked.get(seen.run.id, int(LOOKS * EARLIEST)) or tenth >= LOOKS:
            return
        self._looked[seen.run.id] = tenth
        others = [curve for run_id in self.finished if (curve := self._curve(run_id)).val_bpb is not None]
        best = min((curve.val_bpb for curve in others if curve.val_bpb is not None), default=None)
        end = is_hopeless(self._curve(seen.run.id, seen.num_steps), others, best) if best is not None else None
        if end is None:
            return
        self.log.decide(
            "stop_early",
            f"{seen.run.name} is stopped at step {seen.step} of {seen.num_steps}: its curve is heading for "
            f"{end.mid:.3f}, with 95 % no lower than {end.low:.3f}, and {best:.3f} is there.",
            run=seen.run.id,
            step=seen.step,
            expected_bpb=end.to_dict(),
        )
        self.fleet.stop(seen.run.id)

    def _curve(self, run_id: str, num_steps: int | None = None) -> Curve:
        run = runs.get_run(self.store, run_id)
        points = record_of(RunDir(run.run_dir)).curve("train/loss")
        recipe = TrainSpec.from_dict(run.spec).recipe()
        steps = num_steps or recipe.num_steps
        done = run.state is RunState.SUCCEEDED
        return Curve(
            points=points,
            num_steps=steps,
            warmdown_start_step=steps - round(recipe.schedule.warmdown_ratio * steps),
            val_bpb=(run.result or {}).get("val_bpb") if done else None,
        )


def eval_words(given: dict[str, Any], measured: Fitted) -> str:
    """Where evaluations as they were asked for would take more than is good: what they would, and what is done."""
    every, row = given.get("eval_every_steps"), measured.fit.estimate
    if not every or not row.recipe.num_steps:
        return ""
    stepping = row.recipe.num_steps * row.step_s.mid
    share = (1 + row.recipe.num_steps // every) * row.eval_s.mid / stepping
    if every == measured.fit.spec.eval_every_steps or share <= row.num_evals * row.eval_s.mid / stepping:
        return ""
    kept = measured.fit.spec.eval_every_steps
    said = f"every {kept} steps take" if kept else "only at the end, they take"
    return (
        f" Evaluations every {every} steps would add {share:.0%} to its steps; {said} "
        f"{row.num_evals * row.eval_s.mid / stepping:.0%}."
    )


def beaten_words(one: Fitted, others: Sequence[Fitted]) -> str:
    """The best of another device, and by how much it is worse: why the search is where it is."""
    elsewhere = [other for other in others if other.candidate.device != one.candidate.device]
    if not elsewhere:
        return "."
    other = min(elsewhere, key=lambda each: each.bpb)
    mine, its = one.fit.estimate, other.fit.estimate
    return (
        f"; {mine.wall_s.mid / 60:.0f} min and {format_usd(mine.cost_usd_micros.mid)}, where "
        f"{other.candidate.words} would reach {other.bpb:.3f} in {its.wall_s.mid / 60:.0f} min for "
        f"{format_usd(its.cost_usd_micros.mid)}."
    )


def wave_size(*, runs_left: int, time_left_s: float, run_s: float, parallel: int) -> int:
    """How many trainings to have at once: one, since each result tells what to train next, as long as all that may be
    trained get their turn before the time is over; else so many that they do."""
    waves = int(time_left_s // run_s) if run_s > 0 else runs_left
    return max(1, min(parallel, -(-runs_left // max(1, waves))))
