"""Sweep: any fields of a spec as a grid, times seeds. One dryrun for all runs of a shape, one hold, one wait.

plan all -> dryrun one of each shape -> share the proof -> hold for all at once -> train, so many at once -> compare
against the spread of seeds. Killed and started again with the same key, it goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patron_core.errors import Refused
from patron_core.estimate import Estimate
from patron_core.lifecycle import holds
from patron_core.money import format_usd
from patron_core.states import RunState
from patron_core.store import Store, tags
from patron_core.store.names import check_names
from patron_core.verbs.access import asks
from patron_core.verbs.compare import compare
from patron_core.verbs.dryrun import BURST_STEPS
from patron_core.verbs.fleet import Fleet
from patron_core.verbs.fund import fund_together
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.plan import estimate_on
from patron_core.verbs.search_log import Progress, SearchLog
from patron_core.verbs.sweep_question import Sweep, SweepReport, SweepRow, SweepRun, compare_by, table_text
from trainer.contract.spec import canonical_json


@dataclass(frozen=True, kw_only=True)
class SweepEstimate:
    """What a sweep would take, before it is paid for."""

    rows: list[tuple[SweepRun, Estimate]]
    num_dryruns: int  # one for each shape
    hold_usd_micros: int  # the upper bound of everything, dryruns included
    wall_s: float  # expected, on so many machines at once

    @property
    def sentence(self) -> str:
        runs, bursts = len(self.rows), self.num_dryruns
        return (
            f"{runs} run{'' if runs == 1 else 's'} and {bursts} dryrun{'' if bursts == 1 else 's'}: about "
            f"{self.wall_s / 60:.1f} min, at most {format_usd(self.hold_usd_micros)}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [{"values": run.values, "seed": run.seed, "estimate": row.to_dict()} for run, row in self.rows],
            "num_dryruns": self.num_dryruns,
            "hold_usd_micros": self.hold_usd_micros,
            "wall_s": self.wall_s,
            "sentence": self.sentence,
        }


def estimate_sweep(store: Store, question: Sweep) -> SweepEstimate:
    """Spends nothing and plans nothing. Raises InvalidInput with every problem of every run at once."""
    target = question.where
    stop_s = holds.stop_s(target.run_dir("r"), is_rented=not target.is_local)
    rows: list[tuple[SweepRun, Estimate]] = []
    known: dict[str, Estimate] = {}  # a seed or a rate changes nothing here
    bursts: dict[str, int] = {}
    for run in question.runs():
        same = canonical_json(run.spec.to_dict() | {"seed": 0, "lr_scale": 1, "learning_rates": {}})
        row = known[same] = known.get(same) or estimate_on(target, store, run.spec)
        rows.append((run, row))
        hourly = row.price.usd_micros_per_hour
        bursts[canonical_json(run.spec.shape())] = holds.for_dryrun(row.to_dict(), hourly, BURST_STEPS, stop_s=stop_s)
    wall_s = sum(row.wall_s.mid for _, row in rows) / min(question.max_parallel, len(rows))
    return SweepEstimate(
        rows=rows,
        num_dryruns=len(bursts),
        hold_usd_micros=sum(bursts.values()) + sum(holds.for_run(row, stop_s=stop_s) for _, row in rows),
        wall_s=wall_s,
    )


@asks("spend")
def sweep(
    store: Store,
    question: Sweep,
    *,
    project: str = DEFAULT_PROJECT,
    actor: str,
    key: str | None = None,
    on_progress: Progress | None = None,
) -> SweepReport:
    """Make every run of it and compare them. The budget is the caller's authorisation: the wallet is filled up to it.

    The same key goes on where the sweep was stopped, with a larger budget too, and is answered as before once it is
    done. Raises InvalidInput for a grid that cannot be run, Conflict for a key that asked another one, Refused where no
    shape passed its dryrun and where the upper bounds of all runs come to more than the budget.
    """
    check_names(project=project, actor=actor)
    question.runs()
    log = SearchLog(store, question, project=project, actor=actor, key=key, on_progress=on_progress, letter="w")
    return _Sweep(store, question, log).run()


class _Sweep:
    def __init__(self, store: Store, question: Sweep, log: SearchLog):
        self.store, self.question, self.log = store, question, log
        self.runs = {run.label: run for run in question.runs()}
        self.fleet = Fleet(
            store,
            log,
            kind="sweep",
            budget_usd_micros=question.budget_usd_micros,
            max_parallel=question.max_parallel,
        )

    def run(self) -> SweepReport:
        for label in self.runs:
            self.fleet.find(label)
        if self.log.answer is not None:
            return self._report()
        self.fleet.authorise()
        self._plan()
        since = len(self.log.decisions)
        proven = self.fleet.prove(list(self.runs))
        if not proven:
            raise Refused(
                f"no run passed its dryrun. {self.log.against(since)}".rstrip(),
                next="correct what it says; another question needs another key",
            )
        self._fund([run.id for run in proven])
        self.fleet.train([label for label, run_id in self.fleet.ids.items() if run_id in {run.id for run in proven}])
        report = self._report()
        self.log.save("done", report)
        self.log.note("result" if report.best else "failed", f"Sweep {self.question.name}", table_text(report))
        return report

    def _plan(self) -> None:
        for label, run in self.runs.items():
            made = self.fleet.plan(label, run.spec, self.question.where, name=self.question.run_name(run))
            tags.add(self.store, made.id, [*self.question.tags, self.question.name])
        if not self.log.all_of("plan"):
            estimated = estimate_sweep(self.store, self.question)
            self.log.decide("plan", estimated.sentence, hold_usd_micros=estimated.hold_usd_micros)
            self.log.note("hypothesis", f"Sweep {self.question.name}", f"{self.question.grid}. {estimated.sentence}")

    def _fund(self, run_ids: list[str]) -> None:
        """One hold for all that wait for it; in a later life those that came after an earlier one's."""
        waiting = [run for run in self.fleet.runs() if run.id in run_ids and run.state is RunState.AWAITING_FUNDING]
        if not waiting:
            return
        left = self.fleet.money_left()
        fund_together(
            self.store,
            [run.id for run in waiting],
            max_usd_micros=left,
            actor=self.log.actor,
            key=self.fleet.key("fund"),
        )
        held = left - self.fleet.money_left()
        self.log.decide("fund", f"{format_usd(held)} are held for {len(waiting)} runs.", held_usd_micros=held)

    def _report(self) -> SweepReport:
        rows = [
            SweepRow(values=run.values, seed=run.seed, outcome=compare(self.store, [self.fleet.ids[label]])[0])
            for label, run in self.runs.items()
            if label in self.fleet.ids
        ]
        return SweepReport(
            sweep_id=self.log.search_id,
            project=self.log.project,
            question=self.question,
            decisions=self.log.decisions,
            rows=rows,
            comparison=compare_by(rows, list(self.question.fields())),
            spent_usd_micros=self.fleet.spent_usd_micros(),
            is_whole=all(row.outcome.state == "succeeded" for row in rows),
        )
