"""Any sequence of calls does to the ledger what it does to the simplest possible books."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patron_core.errors import Conflict, Refused
from patron_core.store import Run, Store, attempts, ledger, runs

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["deposit", "withdraw", "hold", "release", *ledger.CHARGES, *(f"up to {kind}" for kind in ledger.CHARGES)]
        ),
        st.integers(0, 1),  # which run
        st.integers(1, 120),  # how much
        st.integers(0, 7),  # which key: few, so that they repeat
    ),
    max_size=25,
)


class Model:
    """The same books kept the simplest way: three numbers a run and one wallet, and what each key was answered."""

    def __init__(self) -> None:
        self.wallet = 0
        self.held, self.spent = [0, 0], [0, 0]
        self.attempt_paid = {(run, kind): 0 for run in (0, 1) for kind in ledger.CHARGES}
        self.answers: dict[str, tuple[Any, int]] = {}

    def step(self, kind: str, run: int, amount: int, key: str) -> int | type[Exception]:
        question = (kind, None if kind in ("deposit", "withdraw") else run, 0 if kind == "release" else amount)
        if key in self.answers:
            asked, answer = self.answers[key]
            return answer if asked == question else Conflict
        if kind in ("withdraw", "hold") and amount > self.wallet:
            return Refused
        is_charge = kind in ledger.CHARGES
        moved = min(amount, self.held[run]) if is_charge else self.held[run] if kind == "release" else amount
        self.wallet += {"deposit": moved, "withdraw": -moved, "hold": -moved, "release": moved}.get(kind, 0)
        self.held[run] += {"hold": moved, "release": -moved}.get(kind, -moved if is_charge else 0)
        self.spent[run] += moved if is_charge else 0
        self.answers[key] = (question, moved)
        return moved

    def up_to(self, run: int, kind: str, total: int) -> int:
        """Only charges of this kind and of the run's attempt count; `charge` in this test names none."""
        paid = self.attempt_paid
        moved = max(0, min(total - paid[run, kind], self.held[run]))
        paid[run, kind] += moved
        self.held[run] -= moved
        self.spent[run] += moved
        return paid[run, kind]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_keeps_the_books_right(sqlite_store: Store, make_run, steps: list[Any]) -> None:
    _follow(sqlite_store, make_run, steps)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_keeps_the_books_right_on_postgresql(postgres_store: Store, make_run, steps: list[Any]) -> None:
    _follow(postgres_store, make_run, steps)


def _follow(store: Store, make_run: Any, steps: list[Any]) -> None:
    """Each example plays in a project of its own."""
    project, model = runs.new_id("p"), Model()
    made = [make_run(store, project=project), make_run(store, project=project)]
    with store.begin() as conn:
        tried = [attempts.create(conn, run, kind="train", usd_micros_per_hour=1, price={}, now=1.0) for run in made]
    for kind, which, amount, key_number in steps:
        key = f"k{key_number}"
        to = kind.removeprefix("up to ")
        expected = model.up_to(which, to, amount) if to != kind else model.step(kind, which, amount, key)
        if isinstance(expected, int):
            assert _really(store, kind, made[which], tried[which].id, amount, key) == expected
        else:
            with pytest.raises(expected):
                _really(store, kind, made[which], tried[which].id, amount, key)
    found = ledger.wallet(store, project)
    assert found.available_usd_micros == model.wallet >= 0
    assert (found.held_usd_micros, found.spent_usd_micros) == (sum(model.held), sum(model.spent))
    total = found.available_usd_micros + found.held_usd_micros + found.spent_usd_micros
    assert total == found.deposited_usd_micros
    for which, run in enumerate(made):
        books = ledger.run_money(store, run.id)
        assert (books.held_usd_micros, books.charged_usd_micros) == (model.held[which], model.spent[which])
        assert books.charged_usd_micros == sum(books.by_kind_usd_micros.values())
        assert 0 <= books.charged_usd_micros <= books.funded_usd_micros - books.released_usd_micros
    assert ledger.verify(store) == []


def _really(store: Store, kind: str, run: Run, attempt_id: str, amount: int, key: str) -> int:
    """The step that the model has taken, on the real ledger."""
    with store.begin() as conn:
        if kind in ledger.CHARGES:
            return ledger.charge(conn, run, None, amount, key=key, now=1.0, kind=kind)
        if kind == "release":
            return ledger.release(conn, run, key=key, now=1.0)
        if kind.startswith("up to "):
            to = kind.removeprefix("up to ")
            return ledger.charge_up_to(conn, run, attempt_id, amount, now=1.0, kind=to)
        if kind == "hold":
            return ledger.hold(conn, run, amount, key=key, actor="ada", now=1.0).usd_micros
        move = ledger.deposit if kind == "deposit" else ledger.withdraw
        return move(conn, project=run.project, usd_micros=amount, key=key, actor="ada", now=1.0).usd_micros
