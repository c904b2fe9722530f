"""Notebooks as apps in a real browser: what is drawn. What is pressed: test_path.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

pytestmark = MARKS
# what is written on canvases, and on which side of its place
WORDS_OF_CHARTS = """
    window.words = [];
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (said, ...where) {
        words.push([said, this.textAlign]);
        fillText.call(this, said, ...where);
    };
"""


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
    page.add_init_script(WORDS_OF_CHARTS)
    page.goto(serve("1_estimate"))
    page.get_by_role("cell", name="over budget").wait_for(timeout=PATIENCE_MS)
    chart = page.locator(".pb-panel[data-points='4']")
    chart.locator("canvas").evaluate("canvas => { canvas.isTheOneFromBefore = true }")
    legend = chart.locator(".pb-readout")
    legend.get_by_text("over budget").wait_for(timeout=PATIENCE_MS)
    budget = page.get_by_role("textbox", name="Budget, min")
    budget.fill("300")
    budget.press("Enter")
    page.get_by_role("cell", name="over budget").wait_for(state="detached", timeout=PATIENCE_MS)
    legend.get_by_text("over budget").wait_for(state="detached", timeout=PATIENCE_MS)
    assert chart.locator("canvas").evaluate("canvas => canvas.isTheOneFromBefore")
    plot = chart.locator(".u-over").bounding_box()
    for share in range(1, 100):  # somewhere on the way lies a point
        page.mouse.move(plot["x"] + plot["width"] * share / 100, plot["y"] + plot["height"] / 2)
        if "d8 on A100-40GB" in legend.inner_text():
            break
    assert "d8 on A100-40GB" in legend.inner_text()
    assert page.evaluate("[...words].filter(([said]) => said === 'd12').every(([, align]) => align === 'left')")
    right, middle = plot["x"] + plot["width"] - 5, plot["y"] + plot["height"] / 2
    page.mouse.move(right - plot["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(right, middle, steps=3)
    page.evaluate("words.length = 0")
    page.mouse.up()
    page.locator(".pb-panel[data-window]").wait_for(timeout=PATIENCE_MS)
    page.wait_for_function("words.some(([said]) => said === 'd12')")
    assert not page.evaluate("words.some(([said]) => said === 'd6')")  # left of the window
    assert page.evaluate("words.some(([said]) => said === '200')")  # of the axis, whatever it begins with
    assert not (home / "patron.db").exists()
