"""No page is a dead end: what was refused is corrected and pressed again, and an address of nothing says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core import verbs
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger

pytestmark = [*MARKS, pytest.mark.timeout(400)]


@pytest.fixture
def page(runs: dict[str, Run]) -> Iterator[Any]:
    """Of a lab with a past, whose supervisor does nothing: what a press begins stays where it is."""
    with served(labs.NOTEBOOKS[0].parent) as address, chromium() as opened:
        opened.set_default_timeout(PATIENCE_MS)
        opened.base = address
        yield opened


def begun(store: Store, before: set[str]) -> list[Run]:
    return [verbs.find_run(store, run.id) for run in verbs.overview(store) if run.id not in before]


def test_a_sweep_is_asked_again_until_it_can_begin(page: Any, store: Store) -> None:
    before = {run.id for run in verbs.overview(store)}
    page.goto(f"{page.base}/?file=sweep.py&key=nobody")
    page.get_by_text("No sweep has the key nobody").wait_for()
    grid = page.get_by_label("Grid: a field and its values a line")
    budget = page.get_by_role("textbox", name="Budget, $")
    press = page.get_by_role("button", name="Sweep", exact=True)
    grid.fill("lr_scal=1")
    press.click()  # what was typed is on its way
    page.get_by_text("did you mean lr_scale").first.wait_for()
    page.get_by_text("correct it, and press again").wait_for()

    grid.fill("lr_scale=1")
    budget.fill("0.001")
    press.dblclick()
    page.get_by_text("under its key").first.wait_for()
    assert begun(store, before)[0].state is RunState.DRAFT

    budget.fill("0.07")
    press.dblclick()
    page.get_by_text("At most $0.07 may be spent").wait_for()
    page.get_by_text("dryrun on this machine").wait_for()
    (run,) = begun(store, before)  # it went on with what was planned
    assert [a.kind for a in attempts.for_run(store, run.id)] == ["dryrun"]
    page.reload()
    page.get_by_text("dryrun on this machine").wait_for()
    page.get_by_role("button", name="Under way").wait_for()
    assert [e.kind for e in ledger.statement(store, "lab", run_id=run.id)] == ["hold"]


def test_a_search_is_asked_again_until_it_can_begin(page: Any, store: Store) -> None:
    before = {run.id for run in verbs.overview(store)}
    page.goto(f"{page.base}/?file=search.py")
    budget, press = page.get_by_role("textbox", name="Budget, $"), page.get_by_role("button", name="Search", exact=True)
    page.get_by_role("button", name="Recipe and project").click()
    others = page.get_by_label("Any other field, key=value a line")
    others.fill("depht=1")
    press.click()
    page.get_by_text("correct it, and press again").wait_for()

    others.fill("depth=1")
    budget.fill("0.0001")
    press.dblclick()
    page.get_by_text("no depth").first.wait_for()
    assert begun(store, before) == []

    others.fill("vocab_size=512")
    budget.fill("0.05")
    press.dblclick()
    page.get_by_text("At most $0.05 may be spent").wait_for()
    with store.read() as conn:  # another question, so another search
        asked = [
            json.loads(row[0]) for row in conn.exec_driver_sql("SELECT question FROM searches ORDER BY created_at")
        ]
    assert [(one["spec"], one["budget_usd_micros"]) for one in asked[-2:]] == [
        ({"depth": 1}, 100),
        ({"vocab_size": 512}, 50_000),
    ]


@pytest.mark.parametrize(
    ("address", "said", "onward"),
    [
        ("3_launch.py&run=nobody", "there is no run", "To the lab"),
        ("4_watch.py&run=nobody", "there is no run", "To the lab"),
        ("5_compare.py&runs=nobody", "there is no run", "To the lab"),
        ("6_journal.py&run=nobody", "there is no run", "To the lab"),
        ("0_lab.py&project=nobody", "no project nobody", "Plan this"),
    ],
)
def test_an_address_of_nothing_says_what_to_do(page: Any, address: str, said: str, onward: str) -> None:
    page.goto(f"{page.base}/?file={address}")
    page.get_by_text(said).first.wait_for()
    page.get_by_role("link", name=onward).first.wait_for()
