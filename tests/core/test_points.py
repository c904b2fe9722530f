"""Candidates as points: what reaches the page of them, and that a budget that moves computes nothing but verdicts."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui import estimate_points
from patron_core.ui.plot.lines import Look, packed
from patron_core.ui.plot.points import MOST_NAMED

DEVICES = ["A100-40GB", "H100"]


def sent(depths: list[int], **look: Any) -> tuple[dict[str, Any], Any]:
    """The chart as the page gets it, and its numbers."""
    rows = verbs.estimates(None, depths=depths, devices=DEVICES, budget_s=1800)
    block = packed([estimate_points.points(rows, budget_s=1800)], Look(**look))
    length = int.from_bytes(block[:4], "little")
    floats = np.frombuffer(block[4 + length :], "<f8")
    (chart,) = json.loads(block[4 : 4 + length])["panels"]
    return chart, lambda at: floats[at[0] : at[0] + at[1]]


def test_points_come_with_both_their_intervals_and_the_budget_as_a_line() -> None:
    chart, array = sent([12, 6])
    points, x = chart["points"], array(chart["x"])
    assert len(x) == 4
    assert list(x) == sorted(x)  # as uPlot needs them
    assert (array(points["x_low"]) < x).all()
    assert (x < array(points["x_high"])).all()
    assert (array(points["y_low"]) < array(points["y"])).all()
    assert (array(points["y"]) < array(points["y_high"])).all()
    assert [(mark["x"], mark["words"]) for mark in chart["marks"]] == [(30.0, "budget, 30 min")]
    low, high = chart["x_span"]
    assert low == array(points["x_low"]).min()
    assert high >= 30
    assert {words.split(",")[0] for words in points["words"]} == {
        f"d{d} on {name}" for d in (6, 12) for name in DEVICES
    }
    shapes = {
        words.split(" on ")[1].split(",")[0]: n for words, n in zip(points["words"], points["group"], strict=True)
    }
    assert [chart["groups"][shapes[name]] for name in DEVICES] == DEVICES


def test_what_cannot_be_judged_is_drawn_as_nothing() -> None:
    block = packed([estimate_points.points([], budget_s=60)], Look(log_x=True))
    assert b'"names": []' in block


def test_of_many_points_the_names_are_read_under_the_mouse() -> None:
    few, _ = sent([6])
    many, _ = sent(list(range(1, MOST_NAMED)))
    assert few["points"]["are_named"]
    assert not many["points"]["are_named"]


def test_a_budget_that_moves_computes_nothing_but_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"depths": [6, 8, 10], "devices": DEVICES, "usd_micros_per_hour": 3_123_457}
    before = verbs.estimates(None, **asked, budget_s=3600)
    made: list[int] = []
    plan = import_module("patron_core.verbs.plan")
    real = plan.estimate
    monkeypatch.setattr(plan, "estimate", lambda *args, **more: made.append(args[0].depth) or real(*args, **more))
    after = verbs.estimates(None, **asked, budget_s=60)
    assert made == []
    assert [row.wall_s for row in after] == [row.wall_s for row in before]
    assert {row.budget.s for row in after} == {60}
    assert {row.verdict for row in after} == {"over_budget"} != {row.verdict for row in before}
    verbs.estimates(None, **asked | {"depths": [6, 7, 8]}, budget_s=60)
    assert made == [7, 7]  # the one that is new, on each device
    (dearer, *_) = verbs.estimates(None, **asked | {"usd_micros_per_hour": 6_000_000})
    assert dearer.cost_usd_micros > before[0].cost_usd_micros
    with pytest.raises(InvalidInput, match="above 0"):
        verbs.estimates(None, **asked, budget_s=0)
