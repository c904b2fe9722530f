"""A search that was cut short goes on under its key with its money and its runs, and says why it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runs_in_states import AMOUNT

from patron_core import verbs
from patron_core.errors import Conflict, Refused
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs
from patron_core.verbs import fleet
from patron_core.verbs.question import Question
from patron_core.verbs.search import _Search
from patron_core.verbs.search_log import SearchLog
from patron_core.verbs.search_training import BudgetUsedUp, Training

BUDGET = 10 * AMOUNT
SMALL = {"vocab_size": 512, "sequence_len": 64, "batch_tokens": 1024, "num_steps": 20, "eval_tokens": 4096}
ASKED = Question(budget_usd_micros=BUDGET, depths=(1, 2), spec=SMALL)


class Killed(BaseException):
    """The process is gone."""


def life(store: Store, question: Question = ASKED, key: str = "night") -> _Search:
    """One process of the search."""
    log = SearchLog(store, question, project="lab", actor="ada", key=key, on_progress=None)
    return _Search(store, question, log)


def label_of(search: _Search, depth: int) -> str:
    return next(shapes[0].label for _, known, shapes in search.candidates.each() if known == depth)


def a_run(store: Store, search: _Search, depth: int, *states: RunState, charged: int = AMOUNT) -> Run:
    """What an earlier life left of a depth: 2 AMOUNT held, some of it charged."""
    key = f"search:{search.log.search_id}:{label_of(search, depth)}"
    run = verbs.plan(store, spec=SMALL | {"depth": depth}, actor="ada", key=key, now=1.0)
    with store.begin() as conn:
        ledger.hold(conn, run, 2 * AMOUNT, key=f"h{depth}", actor="ada", now=1.0)
        ledger.charge(conn, run, None, charged, key=f"c{depth}", now=1.0)
        for new in states:
            run = runs.transition(conn, run.id, old=run.state, new=new, actor="ada", now=1.0)
    return run


def killed_before_its_first_decision(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life that has filled the wallet and said so nowhere."""

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    first = life(store)
    with monkeypatch.context() as patch:
        patch.setattr(SearchLog, "decide", killed)
        with pytest.raises(Killed):
            first.fleet.authorise()


def test_killed_between_its_deposit_and_its_first_decision_it_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_its_first_decision(store, monkeypatch)
    assert ledger.wallet(store, "lab").available_usd_micros == BUDGET
    other = verbs.plan(store, spec=SMALL | {"depth": 3}, actor="bob", now=1.0)
    with store.begin() as conn:  # so that the wallet lacks another amount than it did
        ledger.hold(conn, other, 3 * AMOUNT, key="other", actor="bob", now=1.0)
    second = life(store)
    second.fleet.authorise()
    assert [d["added_usd_micros"] for d in second.log.all_of("authorise")] == [BUDGET]
    assert ledger.wallet(store, "lab").deposited_usd_micros == BUDGET


def test_killed_there_it_goes_on_with_a_larger_budget_and_the_money_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_its_first_decision(store, monkeypatch)
    second = life(store, replace(ASKED, budget_usd_micros=3 * BUDGET))
    second.fleet.authorise()
    assert ledger.wallet(store, "lab").available_usd_micros == 3 * BUDGET


def test_two_lives_at_once_fill_the_wallet_once(store: Store, in_threads: Any) -> None:
    def fill(_: int) -> int:
        with store.begin() as conn:
            return ledger.fill_up(conn, project="lab", to_usd_micros=BUDGET, key="k", actor="ada", now=1.0)

    assert in_threads(fill, 10) == [BUDGET] * 10
    assert ledger.wallet(store, "lab").deposited_usd_micros == BUDGET


def test_money_of_every_depth_is_spent_after_a_restart(store: Store) -> None:
    first = life(store)
    first.fleet.authorise()
    for depth in (1, 2):
        a_run(store, first, depth)
    again = life(store)
    again._find_begun()
    assert again.fleet.spent_usd_micros() == 4 * AMOUNT
    assert again.fleet.money_left() == BUDGET - 4 * AMOUNT


def test_what_was_begun_is_finished_first_and_what_is_finished_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = life(store)
    first.fleet.authorise()
    funded = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED)
    done, begun = a_run(store, first, 1, *funded), a_run(store, first, 2, *funded)
    with store.begin() as conn:
        attempt = attempts.create(conn, done, kind="train", usd_micros_per_hour=1, price={}, now=1.0)
        attempts.ended(conn, attempt.id, reason=EndReason.COMPLETED, exit_code=0, evidence={}, now=1.0)
    again = life(store)
    again._find_begun()
    assert [again.fleet.ids[label] for label in again._begun()] == [done.id, begun.id]
    first.log.decide("result", "Depth 1: done.", run=done.id, depth=1)
    second = life(store)
    second._find_begun()
    assert [second.fleet.ids[label] for label in second._begun()] == [begun.id]
    assert second.training.finished == [done.id]
    assert second._train([]) == "every proven depth was trained"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Refused("the environment changed: torch", next="x"), "the environment changed: torch"),
        (BudgetUsedUp("$0.01 of the budget are left", next="x"), "the budget is used up"),
    ],
)
def test_a_refusal_is_reported_with_its_true_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Refused, why: str
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Training, "fund", refuse)
    search = life(store)
    _, _, (candidate, *_) = next(search.candidates.each())
    fitted = search.candidates.fit(candidate, BUDGET)
    search.fleet.plan(candidate.label, candidate.spec, candidate.target, name="one")
    assert search._train([fitted]) == why
    assert search.log.decisions[-1]["sentence"] == error.message


def test_why_no_depth_passed_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    search = life(store)
    sentence = "Depth 1: its dryrun failed. The corpus has 500 tokens."

    def drop(self: _Search, wanted: Any) -> list[Any]:
        self.log.decide("drop", sentence, depth=1)
        return []

    monkeypatch.setattr(_Search, "_measure", drop)
    _, _, (candidate, *_) = next(search.candidates.each())
    with pytest.raises(Refused, match=r"The corpus has 500 tokens\."):
        search._prove([search.candidates.fit(candidate, BUDGET)])


@pytest.mark.parametrize(
    "changed", [{"budget_usd_micros": BUDGET // 2}, {"depths": (1, 2, 3)}, {"spec": SMALL | {"data": "fineweb-edu"}}]
)
def test_a_used_key_with_another_question_is_a_conflict(store: Store, changed: dict[str, Any]) -> None:
    life(store)
    life(store)  # the same question goes on
    with pytest.raises(Conflict, match=rf"asked another question in search s\w+: {next(iter(changed))} .*, now "):
        verbs.search(store, replace(ASKED, **changed), actor="ada", key="night")


def test_a_search_that_is_done_is_answered_again_and_does_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = life(store)
    first.fleet.authorise()
    report = first._report("every proven depth was trained")
    first.log.save("done", report)

    def fail(*_: Any) -> None:
        raise AssertionError("it began anew")

    monkeypatch.setattr(_Search, "_enumerate", fail)
    monkeypatch.setattr(fleet, "dryrun", fail)
    again = verbs.search(store, ASKED, actor="ada", key="night")
    assert again.to_dict() == report.to_dict()
