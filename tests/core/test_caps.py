"""What a run may cost, under many at once: threads and processes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
from runs_in_states import ALL_AT_ONCE, AMOUNT, SPEC, made

from patron_core import verbs
from patron_core.errors import InvalidInput, Refused
from patron_core.money import check_usd_micros
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger, runs


def refused(results: list[Any]) -> int:
    """How many were refused; every other one has to be a run."""
    assert all(isinstance(each, Run | Refused) for each in results), results
    return sum(isinstance(each, Refused) for each in results)


@pytest.mark.parametrize(("allowed", "state"), [(1, RunState.RUNNING), (9, RunState.FUNDED)])
def test_of_fifty_top_ups_at_once_just_the_allowed_pass(
    store: Store, in_threads: Callable[..., list[Any]], allowed: int, state: RunState
) -> None:
    run = made(store, state, max_usd_micros=AMOUNT + allowed * AMOUNT)

    def top_up(number: int) -> Run:
        return verbs.fund(store, run.id, usd_micros=AMOUNT, actor="ada", key=f"k{number}", now=2.0)

    results = in_threads(top_up, ALL_AT_ONCE)
    assert refused(results) == ALL_AT_ONCE - allowed
    assert ledger.run_money(store, run.id).held_usd_micros == AMOUNT + allowed * AMOUNT
    assert ledger.verify(store) == []


def _top_up_in_a_process(url: str, run_id: str, first: int, barrier: Any, passed: Any) -> None:
    store = Store.open(url)
    barrier.wait()
    count = 0
    for number in range(first, first + 10):
        try:
            verbs.fund(store, run_id, usd_micros=AMOUNT, actor="ada", key=f"k{number}", now=2.0)
            count += 1
        except Refused:
            pass
    store.close()
    passed.put(count)


def test_processes_obey_one_cap(store: Store) -> None:
    run = made(store, RunState.RUNNING, max_usd_micros=8 * AMOUNT)
    url = store.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    passed, barrier = context.Queue(), context.Barrier(2)
    calls = [(url, run.id, first, barrier, passed) for first in (0, 10)]
    workers = [context.Process(target=_top_up_in_a_process, args=call) for call in calls]
    for worker in workers:
        worker.start()
    assert sum(passed.get(timeout=60) for _ in workers) == 7
    for worker in workers:
        worker.join(timeout=60)
    assert ledger.run_money(store, run.id).held_usd_micros == 8 * AMOUNT


def test_what_was_charged_counts_and_what_was_given_back_does_not(store: Store) -> None:
    run = made(store, RunState.RUNNING, max_usd_micros=3 * AMOUNT, held=2 * AMOUNT)
    with store.begin() as conn:
        ledger.charge(conn, run, None, AMOUNT, key="c", now=2.0)
    with pytest.raises(Refused, match=r"may cost \$0.30; \$0.20 is spent or held"):
        verbs.fund(store, run.id, usd_micros=AMOUNT + 1, actor="ada", key="too much", now=2.0)
    with store.begin() as conn:
        ledger.release(conn, run, key="r", now=2.0)
    verbs.fund(store, run.id, usd_micros=2 * AMOUNT, actor="ada", key="the rest", now=2.0)


def test_a_dryrun_obeys_the_cap(store: Store) -> None:
    run = made(store, RunState.DRAFT, max_usd_micros=1_000)
    with pytest.raises(Refused, match=r"may cost \$0.001"):
        verbs.dryrun(store, run.id, actor="ada", now=2.0)
    assert runs.get_run(store, run.id).state is RunState.DRAFT
    assert attempts.for_run(store, run.id) == []
    assert ledger.wallet(store, "lab").held_usd_micros == 0


@pytest.mark.parametrize("amount", [1.5, True, "5", 0, -1, float("nan"), 10**16])
def test_an_amount_is_a_whole_number_of_micro_dollars(store: Store, amount: Any) -> None:
    run = made(store, RunState.RUNNING)
    calls: list[Callable[[], Any]] = [
        lambda: check_usd_micros(amount),
        lambda: verbs.deposit(store, usd_micros=amount, key="k", actor="ada"),
        lambda: verbs.plan(store, spec=SPEC, max_usd_micros=amount, actor="ada"),
        lambda: verbs.fund(store, run.id, usd_micros=amount, actor="ada", key="k"),
        lambda: verbs.Question(budget_usd_micros=amount).check(),
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert ledger.run_money(store, run.id).held_usd_micros == AMOUNT
