"""A fleet: the runs of one unattended plan, from draft to end, so many at once. Sweep and search are built on it.

Whatever it did in an earlier life is found again under its keys: a run is planned once, proven once, funded once and
launched once, and its money counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from patron_core.errors import Busy, Refused, Unavailable
from patron_core.lifecycle import holds, supervisor
from patron_core.machines.target import Target, target_of
from patron_core.money import format_usd
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs.adopt import adopt
from patron_core.verbs.control import cancel, launch
from patron_core.verbs.dryrun import dryrun, dryrun_quote, hold_for_dryrun, ran_out, repriced
from patron_core.verbs.fund import fund, hold_for, slower_than_said
from patron_core.verbs.plan import plan
from patron_core.verbs.search_log import SearchLog
from patron_core.verbs.watch import RESTING, RunView, view
from trainer.contract.spec import TrainSpec, canonical_json

LOOK_EVERY_S = 1.0
MOST_LAUNCHES = 3  # of a run for which no machine is found
MOST_TOP_UPS = 2  # of a run that came no further since the first of them
MOST_DRYRUNS = 4  # of a shape, each with twice the hold of the one that ran out
OnLook = Callable[[RunView], None]


def between_looks(store: Store) -> None:
    """Wait for the next look; a supervisor that died meanwhile is started again."""
    supervisor.ensure_running(store)
    time.sleep(LOOK_EVERY_S)


class Fleet:
    """`max_parallel`: attempts at once. On this machine one: two would measure each other."""

    def __init__(self, store: Store, log: SearchLog, *, kind: str, budget_usd_micros: int, max_parallel: int = 1):
        self.store, self.log, self.kind = store, log, kind
        self.budget_usd_micros, self.max_parallel = budget_usd_micros, max_parallel
        self.ids: dict[str, str] = {}  # label: run
        self.on_look: OnLook | None = None  # asked at each look at a run that trains

    # --- planning ----------------------------------------------------------------------------------------------------

    def key(self, label: str) -> str:
        return f"{self.kind}:{self.log.search_id}:{label}"

    def find(self, label: str) -> Run | None:
        """The run of a label, if this life or an earlier one planned it."""
        run = runs.find_by_key(self.store, project=self.log.project, key=self.key(label))
        if run is None:
            return None
        self.ids[label] = run.id
        if self.log.answer is None and run.max_usd_micros is not None and run.max_usd_micros < self.budget_usd_micros:
            with self.store.begin() as conn:  # its fleet was given more
                return runs.set_fields(conn, run.id, now=time.time(), max_usd_micros=self.budget_usd_micros)
        return run

    def plan(self, label: str, spec: TrainSpec, target: Target, *, name: str, budget_s: float | None = None) -> Run:
        run = self.find(label) or plan(
            self.store,
            spec=spec.to_dict(),
            project=self.log.project,
            name=name,
            target=target,
            max_usd_micros=self.budget_usd_micros,
            budget_s=budget_s,
            actor=self.log.actor,
            key=self.key(label),
        )
        self.ids[label] = run.id
        return run

    def runs(self) -> list[Run]:
        return [runs.get_run(self.store, run_id) for run_id in self.ids.values()]

    # --- proving -----------------------------------------------------------------------------------------------------

    def prove(self, labels: Sequence[str]) -> list[Run]:
        """A dryrun for each shape among them, so many at once; the others of a shape share its proof.

        Returns those that are proven now, in the order asked for; of the others a decision says why not.
        """
        shapes: dict[str, list[str]] = {}
        for label in labels:
            run = runs.get_run(self.store, self.ids[label])
            shape = TrainSpec.from_dict(run.spec).shape() | {"data_shards": None, "target": target_of(run).to_dict()}
            shapes.setdefault(canonical_json(shape), []).append(label)
        first = [self._first_of(group) for group in shapes.values()]
        self._in_waves(first, self._begin_dryrun, until=RESTING, on_rest=self._dryrun_again)
        for label, group in zip(first, shapes.values(), strict=True):
            self._share(label, group)
        return [run for label in labels if (run := runs.get_run(self.store, self.ids[label])).dryrun]

    def _first_of(self, group: Sequence[str]) -> str:
        """Who makes the dryrun: one that has a proof, or one that is at it, before the first of them."""
        found = {label: runs.get_run(self.store, self.ids[label]) for label in group}
        begun = [label for label, run in found.items() if run.dryrun or run.state is not RunState.DRAFT]
        return begun[0] if begun else group[0]

    def _begin_dryrun(self, label: str) -> bool:
        run = runs.get_run(self.store, self.ids[label])
        if run.state is not RunState.DRAFT:
            return run.state is RunState.DRYRUN
        try:
            needed = self.dryrun_hold(run)
            if needed > self.money_left():
                raise Refused(
                    f"a dryrun needs {format_usd(needed)}, {format_usd(self.money_left())} are left; "
                    f"{self._more_words(needed)}",
                    next="allow more money",
                )
            self.log.progress(f"{run.name}: dryrun on {target_of(run).words}", None)
            dryrun(self.store, run.id, actor=self.log.actor)
        except (Refused, Busy, Unavailable) as error:
            self.log.decide("skip", f"{run.name}: {error.message}.", label=label, run=run.id)
            return False
        return True

    def dryrun_hold(self, run: Run) -> int:
        return hold_for_dryrun(self.store, run, dryrun_quote(run))

    def _dryrun_again(self, label: str) -> bool:
        """Whether a dryrun that came to rest is made again: its hold ran out on a machine busier than was estimated."""
        run = runs.get_run(self.store, self.ids[label])
        if run.state is not RunState.DRAFT or run.reason is not EndReason.OUT_OF_FUNDS:
            return False
        tried = len(ran_out(self.store, run.id))
        if tried >= MOST_DRYRUNS:
            return False
        if len(self.log.all_of("top_up", run=run.id)) < tried:
            hold = self.dryrun_hold(run)
            said = f"{run.name}: its dryrun took longer than was held for; another needs {format_usd(hold)}."
            self.log.decide("top_up", said, run=run.id, usd_micros=hold)
        return self._begin_dryrun(label)

    def _more_words(self, needed: int) -> str:
        """What would let it go on."""
        enough = format_usd(self.spent_usd_micros() + needed)
        return f"under its key ({self.log.key}) it goes on where it is, with a budget of more than {enough} in all"

    def _share(self, label: str, group: Sequence[str]) -> None:
        proven = runs.get_run(self.store, self.ids[label])
        if proven.state is RunState.FAILED and not proven.dryrun and not self.log.all_of("drop", run=proven.id):
            said = view(self.store, proven.id).sentence
            self.log.decide("drop", f"{proven.name}: its dryrun failed. {said}", label=label, run=proven.id)
        if proven.state is RunState.DRAFT and proven.reason and not self.log.all_of("skip", run=proven.id):
            said = view(self.store, proven.id).sentence if proven.detail in ("", proven.reason) else f"{proven.detail}."
            self.log.decide("skip", f"{proven.name}: {said}", label=label, run=proven.id)
        if not proven.dryrun:
            return
        for other in group:
            try:
                adopt(self.store, self.ids[other], proven.id, actor=self.log.actor) if other != label else None
            except Refused as error:
                self.log.decide("drop", f"{other}: {error.message}.", label=other, run=self.ids[other])

    # --- training ----------------------------------------------------------------------------------------------------

    def train(self, labels: Sequence[str]) -> list[RunView]:
        """Launch those that are funded, so many at once, and see them to their ends; a view of each, in that order."""
        self._in_waves(labels, self._begin_training, until=RESTING, on_rest=self._go_on)
        return [view(self.store, self.ids[label]) for label in labels]

    def _begin_training(self, label: str) -> bool:
        run = runs.get_run(self.store, self.ids[label])
        try:
            if run.state is RunState.PAUSED and run.reason is EndReason.OUT_OF_FUNDS:
                return self._go_on(label)
            if run.state is RunState.FUNDED:
                self.log.progress(f"{run.name}: training on {target_of(run).words}", None)
                launch(self.store, run.id, actor=self.log.actor)
                return True
        except (Refused, Busy, Unavailable) as error:
            self.log.decide("stop", f"{run.name}: {error.message}.", label=label, run=run.id, next=error.next)
            return False
        return run.state not in RESTING

    def _go_on(self, label: str) -> bool:
        """Whether a run that came to rest is to be followed further: for more money, or another look for a machine."""
        run = runs.get_run(self.store, self.ids[label])
        tried = [a for a in attempts.for_run(self.store, run.id) if a.kind == "train"]
        if run.state is RunState.FUNDED and run.reason is EndReason.NO_CAPACITY and len(tried) < MOST_LAUNCHES:
            launch(self.store, run.id, actor=self.log.actor)
            return True
        return run.state is RunState.PAUSED and run.reason is EndReason.OUT_OF_FUNDS and self._top_up(run, len(tried))

    def _top_up(self, run: Run, times: int) -> bool:
        """A machine that became busier than its dryrun eats up the hold: it goes on while money lasts."""
        row = repriced(self.store, run)
        amount = min(hold_for(run, row, slower=slower_than_said(self.store, run, row)), self.money_left())
        stop_s = holds.stop_s(run.run_dir, is_rented=not target_of(run).is_local)
        if amount < holds.for_one_start(row.to_dict(), row.price.usd_micros_per_hour, stop_s=stop_s):
            return False
        seen = view(self.store, run.id)
        if len(self.log.all_of("top_up", run=run.id, step=seen.step)) >= MOST_TOP_UPS:
            return False
        self.log.decide(
            "top_up",
            f"{run.name} is slower than its dryrun was: {format_usd(amount)} more to go on from step {seen.step} of "
            f"{seen.num_steps}.",
            run=run.id,
            usd_micros=amount,
            step=seen.step,
        )
        fund(self.store, run.id, usd_micros=amount, actor=self.log.actor, key=f"{self.key('more')}:{run.id}:{times}")
        launch(self.store, run.id, actor=self.log.actor)
        return True

    def stop(self, run_id: str) -> None:
        cancel(self.store, run_id, actor=self.log.actor)

    def _in_waves(
        self,
        labels: Sequence[str],
        begin: Callable[[str], bool],
        *,
        until: frozenset[RunState],
        on_rest: Callable[[str], bool] | None = None,
    ) -> None:
        waiting, alive = list(labels), list[str]()
        while waiting or alive:
            while waiting and len(alive) < self.max_parallel:
                if begin(label := waiting.pop(0)):
                    alive.append(label)
            for label in list(alive):
                seen = view(self.store, self.ids[label])
                self.log.progress("", seen)
                rests = seen.run.state in until and not seen.run.stop_requested
                if rests and not (on_rest and on_rest(label)):
                    alive.remove(label)
                elif not rests and on_rest and self.on_look:
                    self.on_look(seen)
            if alive:
                between_looks(self.store)

    # --- money -------------------------------------------------------------------------------------------------------

    def spent_usd_micros(self) -> int:
        """Charged or held, of all its runs."""
        money = ledger.runs_money(self.store, self.ids.values())
        return sum(m.charged_usd_micros + m.held_usd_micros for m in money.values())

    def money_left(self) -> int:
        return self.budget_usd_micros - self.spent_usd_micros()

    def authorise(self) -> None:
        """The wallet is filled up to the budget, once, whatever lives come after this one; and once more where a life
        is given a larger one."""
        known = [decision["budget_usd_micros"] for decision in self.log.all_of("authorise")]
        if known and max(known) >= self.budget_usd_micros:
            return
        key = f"{self.kind}:{self.log.search_id}:{self.budget_usd_micros}"
        with self.store.begin() as conn:  # a life that was cut short after this has no decision to show for it
            added = ledger.fill_up(
                conn,
                project=self.log.project,
                to_usd_micros=self.money_left(),
                key=key,
                actor=self.log.actor,
                now=time.time(),
            )
        self.log.decide(
            "authorise",
            f"At most {format_usd(self.budget_usd_micros)} may be spent; {format_usd(added)} were added to the wallet "
            "for it.",
            budget_usd_micros=self.budget_usd_micros,
            added_usd_micros=added,
        )


def labelled(values: Mapping[str, Any]) -> str:
    """What tells one run of a fleet from another, in a few words: depth=8 lr_scale=2."""
    return " ".join(f"{name}={value}" for name, value in values.items())
