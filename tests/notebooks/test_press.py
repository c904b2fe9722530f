"""A press is answered where it is made: its button is off before the server has heard of it, and on again after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core import verbs
from patron_core.store import Run, Store
from patron_core.ui import background

NOTEBOOKS = {path.stem: path for path in labs.NOTEBOOKS}


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


class Held:
    """What the page wants to tell the server, kept back until `let_go`."""

    def __init__(self, page: Any):
        self.routes: list[Any] = []
        self.is_over = False
        page.route("**/api/kernel/**", self._come)

    def _come(self, route: Any) -> None:
        if self.is_over:
            route.continue_()
        else:
            self.routes.append(route)

    def let_go(self) -> None:
        self.is_over = True
        for route in self.routes:
            route.continue_()


def pressed_while_held(page: Any, name: str) -> Held:
    """Press it twice, and see it go off although nothing has left the page."""
    button = page.get_by_role("button", name=name, exact=True)
    button.wait_for(timeout=PATIENCE_MS)
    assert button.is_enabled()
    held = Held(page)
    button.dblclick()
    assert button.is_disabled()
    assert button.get_attribute("aria-busy") == "true"
    return held


@pytest.mark.parametrize("path", labs.NOTEBOOKS, ids=lambda path: path.stem)
def test_every_page_with_a_press_has_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    has_press = any(words in text for words in ("background.pressed(", "unattended.Unattended(", ".keep("))
    assert has_press == ("background.presses()" in text) == (".look(get_" in text or ".look(work)" in text)


def test_a_look_is_told_as_one_value() -> None:
    """A page hears of each value by itself, in an order that changes from process to process."""
    presses, told = background.presses(), []
    presses.observe(lambda change: told.append((change.name, change.new)))
    presses.look(None, background.Work(key="k"))
    presses.look(None, background.Work(key="k", done=True))
    assert told == [("looked", [1, True]), ("looked", [2, False])]


class TestInABrowser:
    pytestmark = MARKS

    def test_a_note_is_kept_once_and_the_next_can_be_written(
        self, page: Any, runs: dict[str, Run], store: Store
    ) -> None:
        run = runs["finished"]
        before = len(verbs.notes_of(store, run.id))
        with served(NOTEBOOKS["4_watch"]) as address:
            page.goto(f"{address}/?run={run.id}")
            text = page.get_by_placeholder("What do you see?")
            text.fill("flat from step 100 on", timeout=PATIENCE_MS)
            held = pressed_while_held(page, "Keep note")
            assert len(verbs.notes_of(store, run.id)) == before
            held.let_go()
            page.locator(".patron-note", has_text="flat from step 100 on").wait_for(timeout=PATIENCE_MS)
            page.locator("button:not([disabled])", has_text="Keep note").wait_for(timeout=PATIENCE_MS)
        assert len(verbs.notes_of(store, run.id)) == before + 1

    def test_chosen_runs_are_tagged(self, page: Any, runs: dict[str, Run], store: Store) -> None:
        with served(NOTEBOOKS["0_lab"]) as address:
            page.goto(address)
            page.locator("marimo-table [role=checkbox]").nth(1).click(timeout=PATIENCE_MS)  # of the first row
            page.get_by_placeholder("a word").fill("to-keep", timeout=PATIENCE_MS)
            page.get_by_role("button", name="Add tag", exact=True).click()
            page.locator("marimo-table").get_by_text("to-keep").wait_for(timeout=PATIENCE_MS)
            page.locator("button:not([disabled])", has_text="Add tag").wait_for(timeout=PATIENCE_MS)
        assert [row.run.name for row in verbs.run_table(store) if "to-keep" in row.tags] == [runs["draft"].name]

    def test_a_launch_is_off_before_the_server_has_heard_of_it(
        self, page: Any, runs: dict[str, Run], store: Store
    ) -> None:
        run = labs.proven(store, depth=2, name="d2-pressed", at=labs.START + 9000)
        with served(NOTEBOOKS["3_launch"]) as address:
            page.clock.install()
            page.goto(f"{address}/?run={run.id}")
            pressed_while_held(page, "Hold the money and launch")
            assert verbs.find_run(store, run.id).state == run.state
            page.clock.fast_forward("00:31")  # nobody answers
            page.locator("button:not([disabled])", has_text="Hold the money").wait_for(timeout=PATIENCE_MS)
