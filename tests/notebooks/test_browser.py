"""Notebooks as apps in a real browser: what is drawn, and that a double click launches once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger
from patron_core.store import runs as store_runs

pytestmark = MARKS


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Serve a notebook on a free loopback port; gives its address."""
    with ExitStack() as servers:
        yield lambda name: servers.enter_context(served(next(path for path in labs.NOTEBOOKS if path.stem == name)))


def test_estimate_draws_a_table_and_a_chart_and_follows_the_form(
    page: Any, serve: Callable[[str], str], home: Path
) -> None:
    page.goto(serve("1_estimate"))
    page.get_by_role("cell", name="over budget").wait_for(timeout=PATIENCE_MS)
    page.locator(".vega-embed canvas, .vega-embed svg").first.wait_for(timeout=PATIENCE_MS)
    budget = page.get_by_role("textbox", name="Budget, min")
    budget.fill("300")
    budget.press("Enter")
    page.get_by_role("cell", name="over budget").wait_for(state="detached", timeout=PATIENCE_MS)
    assert not (home / "patron.db").exists()


def test_a_double_click_holds_and_launches_once(
    page: Any, serve: Callable[[str], str], runs: dict[str, Run], store: Store, tmp_path: Path
) -> None:
    run = labs.proven(store, depth=2, name="d2-clicked", at=labs.START + 9000)
    labs.prove_here(store, run)
    page.goto(f"{serve('3_launch')}/?run={run.id}")
    button = page.get_by_role("button", name="and launch")
    button.wait_for(timeout=PATIENCE_MS)
    button.dblclick()
    page.get_by_text("is launching").wait_for(timeout=PATIENCE_MS)
    button.wait_for(state="detached", timeout=PATIENCE_MS)  # the page takes it away a moment later
    assert [a.id for a in attempts.for_run(store, run.id) if a.kind == "train"] == [f"{run.id}-train-1"]
    holds = [line for line in ledger.statement(store, "lab") if line.run_id == run.id and line.kind == "hold"]
    assert len(holds) == 2  # the dryrun's, and one for training
    assert store_runs.get_run(store, run.id).state is RunState.LAUNCHING
