"""Watch in a real browser: it comes alive, shows a spike among 100,000 points, and a tick takes nothing away."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core.states import RunState
from patron_core.store import Run, Store

pytestmark = MARKS
NUM = 100_000
SPIKE_AT, SPIKE = 63_001, 9.5
WATCH = next(path for path in labs.NOTEBOOKS if path.stem == "4_watch")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def begin(store: Store, run: Run) -> str:
    """As a supervisor would. Gives its attempt."""
    with store.begin() as conn:
        attempt = labs._attempt(conn, run, "train", hold=20_000, at=labs.START + 9500)
        for state in (RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING):
            labs._move(conn, run, state, labs.START + 9500)
    return str(attempt.id)


def write_steps(run: Run, attempt: str, first: int, last: int, *, number: int) -> None:
    """One closed segment with a loss that has one spike in it."""
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [] if number else [labs._event(0, labs.START, attempt, "start", None, num_steps=2 * NUM)]
    for step in range(first, last + 1):
        loss = SPIKE if step == SPIKE_AT else 3 + 7 * math.exp(-step / 3000) + 0.05 * math.sin(13.7 * step)
        head = f'{{"seq": {step}, "time": {labs.START + 0.1 * step:.1f}, "attempt": "{attempt}", "kind": "metrics", '
        lines.append(f'{head}"step": {step}, "metrics": {{"train/loss": {loss:.5f}, "train/step_s": 0.1}}}}')
    (folder / f"{attempt}-{number:06d}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_page_opened_before_its_run_comes_alive_and_keeps_hover_and_zoom(
    page: Any, runs: dict[str, Run], store: Store
) -> None:
    run = labs.proven(store, depth=2, name="d2-watched", at=labs.START + 9000)
    with served(WATCH) as address:
        page.goto(f"{address}/?run={run.id}")
        page.get_by_text("waiting for money").wait_for(timeout=PATIENCE_MS)
        page.get_by_text("No curve yet").wait_for(timeout=PATIENCE_MS)
        attempt = begin(store, run)
        write_steps(run, attempt, 1, NUM, number=0)

        loss = page.locator(".pb-panel").first
        loss.locator("canvas").wait_for(timeout=PATIENCE_MS)
        page.locator(f".pb-panel[data-points='{NUM}']").wait_for(timeout=PATIENCE_MS)
        assert loss.get_attribute("data-spikes") == f"1 spike, step {SPIKE_AT:,}"
        assert int(loss.get_attribute("data-drawn")) <= 1100
        page.locator("option", has_text="d2-watched (running)").wait_for(state="attached", timeout=PATIENCE_MS)

        loss.locator("canvas").evaluate("canvas => { canvas.isTheOneFromBefore = true }")
        plot = loss.locator(".u-over").bounding_box()
        share = SPIKE_AT / (2 * NUM)  # the axis goes to where the run will end
        x, y = plot["x"] + share * plot["width"], plot["y"] + plot["height"] / 2
        page.mouse.move(x, y)
        loss.get_by_text(f"to {SPIKE}").wait_for(timeout=PATIENCE_MS)  # the highest of the column under the mouse

        write_steps(run, attempt, NUM + 1, NUM + 50, number=1)
        page.locator(f".pb-panel[data-points='{NUM + 50}']").wait_for(timeout=PATIENCE_MS)
        assert f"to {SPIKE}" in loss.locator(".pb-readout").inner_text()
        assert loss.locator("canvas").evaluate("canvas => canvas.isTheOneFromBefore")

        page.mouse.move(x - 6, y)
        page.mouse.down()
        page.mouse.move(x + 6, y, steps=3)
        page.mouse.up()
        page.get_by_role("button", name="Show all").first.wait_for(timeout=PATIENCE_MS)
        page.locator(f".pb-panel[data-points='{NUM + 50}'][data-window]").first.wait_for(timeout=PATIENCE_MS)
        low, high = json.loads(loss.get_attribute("data-window"))
        assert high - low < NUM / 10
        page.mouse.move(plot["x"] + plot["width"] * (SPIKE_AT - low) / (high - low), y)
        loss.get_by_text(f"{SPIKE})").wait_for(timeout=PATIENCE_MS)
        write_steps(run, attempt, NUM + 51, NUM + 60, number=2)
        page.locator(f".pb-panel[data-points='{NUM + 60}']").wait_for(timeout=PATIENCE_MS)
        assert json.loads(loss.get_attribute("data-window")) == [low, high]


def test_it_opens_on_the_run_that_works(page: Any, runs: dict[str, Run]) -> None:
    """The newest is a draft; one is running."""
    with served(WATCH) as address:
        page.goto(address)
        page.get_by_role("heading", name="d3-running").wait_for(timeout=PATIENCE_MS)
        log = page.locator(".pp-pane")
        log.get_by_text("step 149 done").wait_for(timeout=PATIENCE_MS)
        assert json.loads(
            log.evaluate("pane => JSON.stringify(pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 8)")
        )
