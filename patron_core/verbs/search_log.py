"""What a search or a sweep writes down: every decision with its numbers as it is made, and notes that outlive it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from typing import Any, Protocol

from patron_core.errors import Conflict
from patron_core.store import Search, Store, runs, searches
from patron_core.store.engine import dumps
from patron_core.verbs.journal import write_note
from patron_core.verbs.watch import RunView

BUDGET = "budget_usd_micros"
Progress = Callable[[str, RunView | None], None]


class Report(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class SearchLog:
    """The written side of one search. Opened again under the same key, it goes on where it was; as long as it is not
    done also with a larger budget, for all of it."""

    def __init__(
        self,
        store: Store,
        question: Any,  # a dataclass
        *,
        project: str,
        actor: str,
        key: str | None,
        on_progress: Progress | None,
        letter: str = "s",
    ):
        self.store, self.question, self.project, self.actor = store, question, project, actor
        self.key = key or uuid.uuid4().hex[:12]
        self.progress = on_progress or (lambda line, view: None)
        known = searches.find(store, project=project, key=self.key)
        if known is not None:
            _check_same(known, question)
        self.answer = known.result if known and known.state == "done" else None
        self.search_id = known.id if known else runs.new_id(letter)
        self.decisions: list[dict[str, Any]] = list(known.decisions) if known else []
        if self.answer is None:
            self.save("running")

    def decide(self, kind: str, sentence: str, **numbers: Any) -> None:
        """Write a decision down, with the numbers it rests on, and say it."""
        self.decisions.append({"kind": kind, "sentence": sentence, **numbers})
        self.save("running")
        self.progress(sentence, None)

    def all_of(self, *kinds: str, **values: Any) -> list[dict[str, Any]]:
        """The decisions of these kinds with these values, oldest first."""
        found = [decision for decision in self.decisions if decision["kind"] in kinds]
        return [each for each in found if all(each.get(name) == value for name, value in values.items())]

    def against(self, since: int) -> str:
        """What speaks against its runs, by the decisions after so many; where none does, by those of earlier lives."""
        for decisions in (self.decisions[since:], self.decisions):
            if said := " ".join(d["sentence"] for d in decisions if d["kind"] in ("drop", "skip")):
                return said
        return ""

    def save(self, state: str, report: Report | None = None) -> None:
        result = None
        if report is not None:
            result = {key: value for key, value in report.to_dict().items() if key != "decisions"}
        with self.store.begin() as conn:
            searches.save(
                conn,
                search_id=self.search_id,
                project=self.project,
                key=self.key,
                question=asdict(self.question),
                state=state,
                decisions=self.decisions,
                result=result,
                now=time.time(),
            )

    def note(self, kind: str, title: str, body: str, run_id: str | None = None) -> None:
        write_note(
            self.store,
            project=self.project,
            kind=kind,
            title=title,
            body=body,
            run_id=run_id,
            links={"search": self.search_id},
            actor=self.actor,
        )


def goes_on(store: Store, question: Any, *, project: str, key: str) -> bool:
    """Whether this question can be asked under this key: nobody asked another one under it."""
    known = searches.find(store, project=project, key=key)
    try:
        _check_same(known, question) if known is not None else None
    except Conflict:
        return False
    return True


def _check_same(known: Search, question: Any) -> None:
    """Raises Conflict where the key belongs to another question. Stored as JSON, so both are compared as that."""
    asked: dict[str, Any] = json.loads(dumps(asdict(question)))
    # what could not be asked when it was, was at its default
    usual = {f.name: json.loads(dumps(f.default)) for f in fields(question) if f.default is not MISSING}
    was = usual | known.question
    differs = [name for name in sorted({*asked, *was}) if was.get(name) != asked.get(name)]
    if differs == [BUDGET] and known.state != "done" and asked[BUDGET] > was[BUDGET]:
        return  # the same question goes on with more money
    if differs:
        said = ", ".join(f"{name} {was.get(name)}, now {asked.get(name)}" for name in differs)
        raise Conflict(
            f"key {known.key!r} of project {known.project!r} asked another question in search {known.id}: {said}",
            next="use a new key for a new search, or ask the old question to go on with the old one",
        )
