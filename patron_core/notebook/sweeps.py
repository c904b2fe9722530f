"""A sweep in a notebook: estimated, launched with one call, waited for while the kernel stays free."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.errors import Refused
from patron_core.money import from_usd
from patron_core.scaling.seeds import GroupComparison
from patron_core.store import runs, searches
from patron_core.store.engine import dumps
from patron_core.verbs.sweep_question import verdict

if TYPE_CHECKING:
    from patron_core.notebook.lab import Lab

LOOK_EVERY_S = 0.5
_TERMS = ("budget_usd_micros", "max_parallel")


class SweepHandle:
    """Made by `lab.sweep`. Its key is made of the question: the same call after a restart is the same sweep."""

    def __init__(self, lab: Lab, question: verbs.Sweep):
        question.runs()
        self._lab, self.question = lab, question
        self.lines: list[str] = []  # what it said so far
        self.report: verbs.SweepReport | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def estimate(self) -> verbs.SweepEstimate:
        """What it would take; spends nothing."""
        return verbs.estimate_sweep(self._lab.store, self.question)

    def launch(self, *, max_usd: float, max_parallel: int = 1) -> SweepHandle:
        """Spend at most `max_usd` on all of it: one dryrun for a shape, one hold, so many at once. Returns at once.

        It goes on in this process; should that end, the same call goes on where it was. Called again while it runs,
        it does nothing. Raises InvalidInput for an amount that is none.
        """
        if self._thread is not None and self._thread.is_alive():
            return self
        self.question = replace(self.question, budget_usd_micros=from_usd(max_usd), max_parallel=max_parallel)
        self.question.runs()
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"sweep {self.question.name}")
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            self.report = verbs.sweep(
                self._lab.store,
                self.question,
                project=self._lab.project,
                actor=self._lab.actor,
                key=self.key,
                on_progress=lambda line, _: self.lines.append(line) if line else None,
            )
        except BaseException as error:  # it is raised where it is waited for
            self._error = error

    async def wait(self) -> verbs.SweepReport:
        """Until every run has come to its end. Raises what the sweep raised; Refused where it was not launched."""
        if self._thread is None:
            raise Refused("the sweep is not launched", next="sweep.launch(max_usd=0.05)")
        while self._thread.is_alive():
            await asyncio.sleep(LOOK_EVERY_S)
        if self._error is not None:
            raise self._error
        assert self.report is not None
        return self.report

    @property
    def key(self) -> str:
        """Of this very question. With other terms it is a Conflict, never a second sweep that spends as much again."""
        asked = {name: value for name, value in asdict(self.question).items() if name not in _TERMS}
        return f"{self.question.name}-{hashlib.sha256(dumps(asked).encode()).hexdigest()[:12]}"[:100]

    @property
    def ids(self) -> list[str]:
        """Of its runs, as far as they are planned. Raises Refused before the first is."""
        store, project = self._lab.store, self._lab.project
        known = searches.find(store, project=project, key=self.key)
        keys = [f"sweep:{known.id}:{run.label}" for run in self.question.runs()] if known else []
        found = [run.id for key in keys if (run := runs.find_by_key(store, project=project, key=key)) is not None]
        if not found:
            raise Refused("the sweep has no runs yet", next="sweep.launch(max_usd=0.05)")
        return found

    def compare(self, by: str | list[str] = "") -> Comparison:
        """Mean, spread over seeds, and whether a difference is real, by these fields; by the whole grid without.

        Raises InvalidInput for a field that the grid does not have, Refused before it has come to its end.
        """
        if self.report is None:
            raise Refused("the sweep has not come to its end", next="await sweep.wait()")
        fields = [by] if isinstance(by, str) and by else list(by) or list(self.question.fields())
        return Comparison(verbs.compare_by(self.report.rows, fields))

    def _repr_html_(self) -> str:
        from patron_core.ui import inert

        said = self.report.sentence if self.report else (self.lines[-1] if self.lines else self.estimate().sentence)
        return inert.page(inert.html("<p><b>{}</b>: {}</p>", self.question.name, said))


class Comparison:
    """What `compare` found; shown as a table, `.groups` and `.contrasts` for more."""

    def __init__(self, found: GroupComparison):
        self.groups, self.contrasts, self._found = found.groups, found.contrasts, found

    @property
    def sentence(self) -> str:
        """Which is best, and whether it is beyond the noise of seeds."""
        return verdict(self._found)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: groups, contrasts with their intervals, p-values."""
        return self._found.to_dict()

    def _repr_html_(self) -> str:
        from patron_core.ui import inert, show, tables

        table = show.html_table(self.groups, tables.sweep_groups(self._found))
        return inert.page(inert.html("<p>{}</p>", self.sentence)) + table

    def __repr__(self) -> str:
        return self.sentence
