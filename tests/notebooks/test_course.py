"""Where a run is heading, of runs in a store: bits, end, money, goodput; and its curves, followed through a resume."""

from __future__ import annotations

import json
from pathlib import Path

import labs
import numpy as np
import pytest

from patron_core import verbs
from patron_core.interval import Interval
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.store import Run, Store
from patron_core.store import runs as store_runs
from patron_core.ui import course_view, run_panels

ESTIMATE = {
    "val_bpb": {"low": 1.9, "mid": 2.0, "high": 2.1},
    "wall_s": {"low": 60.0, "mid": 80.0, "high": 120.0},
    "cost_usd_micros": {"low": 2000, "mid": 3000, "high": 5000},
}


@pytest.fixture
def forecast(runs: dict[str, Run], store: Store) -> Run:
    """At step 150 of 400, of which each took 0.2 s; its loss falls towards 2.0 bits a byte."""
    with store.begin() as conn:
        return store_runs.set_fields(conn, runs["running"].id, now=labs.START + 6000, estimate=ESTIMATE)


def test_it_says_what_is_left_and_where_that_ends(forecast: Run, store: Store) -> None:
    seen = verbs.view(store, forecast.id)
    found = verbs.course(seen, now=1000.0)
    assert found.left_s is not None
    assert found.left_s.low < 250 * 0.2 < found.left_s.high
    assert found.left_s.high < 70
    assert found.ends_at == Interval(*(1000 + seconds for seconds in found.left_s))
    assert found.cost_usd_micros is not None
    assert found.cost_usd_micros.mid == pytest.approx(
        seen.money.charged_usd_micros + found.left_s.mid * labs.HOUR_USD_MICROS / 3600
    )
    assert found.is_covered
    assert found.goodput == pytest.approx(150 * 0.21 / 120)  # 50 s and 70 s were paid


def test_its_curve_narrows_the_forecast(forecast: Run, store: Store) -> None:
    found = verbs.course(verbs.view(store, forecast.id))
    assert found.forecast_bpb == Interval(1.9, 2.0, 2.1)
    assert found.final_bpb is not None
    assert found.final_bpb.high - found.final_bpb.low < 2.1 - 1.9
    assert found.final_bpb.high < 2.18  # what it has at step 150, before its warm-down
    assert found.forecast_band[-1][1].mid == pytest.approx(2.0, rel=0.01)
    assert found.bpb_band[0][0] == 150
    assert found.bpb_band[-1][0] == found.loss_band[-1][0] == 400
    said = dict(course_view.progress_facts(verbs.view(store, forecast.id), found))
    assert said["val_bpb forecast at funding"] == "2.000 (1.900 to 2.100)"
    assert json.loads(json.dumps(found.to_dict()))["final_bpb"]["mid"] == found.final_bpb.mid


def test_what_would_outgrow_its_hold_says_so_with_the_command(forecast: Run, store: Store) -> None:
    with store.begin() as conn:
        conn.exec_driver_sql("UPDATE attempts SET usd_micros_per_hour = 9000000 WHERE run_id = ?", (forecast.id,))
    seen = verbs.view(store, forecast.id)
    found = verbs.course(seen)
    assert found.is_covered is False
    assert "in all; it would then pause" in course_view.warnings(seen, found)[0]
    words = course_view.top_up(seen, found).split()
    assert words[:4] == ["patron", "launch", "--run", forecast.id]
    missing = found.cost_usd_micros.high - seen.money.charged_usd_micros - seen.money.held_usd_micros
    assert 0 <= 1e6 * float(words[5]) - missing <= 10_001


def test_what_is_over_or_was_never_begun_has_no_course(runs: dict[str, Run], store: Store) -> None:
    for word in ("finished", "draft", "proven"):
        found = verbs.course(verbs.view(store, runs[word].id))
        assert (found.left_s, found.ends_at, found.cost_usd_micros, found.final_bpb) == (None, None, None, None)
        assert found.bpb_band == []
    assert verbs.course(verbs.view(store, runs["finished"].id)).goodput is not None


def test_curves_are_followed_through_a_resume(runs: dict[str, Run], store: Store) -> None:
    run = labs.trained(store, depth=3, name="d3-resumed", at=labs.START + 5500, val_bpb=None, steps=150, live=True)
    followed = verbs.Followed(store, run.id)
    followed.look()
    before = followed.series["train/loss"]
    assert before.steps[-1] == 150
    followed.look()
    assert followed.series["train/loss"] is before
    attempt = f"{run.id}-train-3"
    lines = [labs._event(0, labs.START + 6000, attempt, "start", 100, resumed_step=100, num_steps=400)]
    for step in range(101, 161):
        values = {"train/loss": 99.0 if step == 140 else 5.0, "train/step_s": 0.2}
        lines.append(labs._event(step, labs.START + 6000 + step, attempt, "metrics", step, metrics=values))
    (Path(run.run_dir) / "events" / f"{attempt}-000000.jsonl").write_text("".join(f"{line}\n" for line in lines))
    record = followed.look()
    after = followed.series["train/loss"]
    assert np.array_equal(after.values, record.columns("train/loss")[2])
    assert len(after) == 160
    assert after.steps[after.spikes].tolist() == [140]


def test_a_board_marks_attempts_evaluations_and_what_only_mlflow_has(forecast: Run, store: Store) -> None:
    followed = verbs.Followed(store, forecast.id)
    record, seen = followed.look(), verbs.view(store, forecast.id)
    elsewhere = {"foreign/accuracy": followed.series["train/mfu"]}
    panels = run_panels.run_panels(followed, record, seen, verbs.course(seen), elsewhere)
    assert [panel.title for panel in panels.learning] == ["training loss", "val_bpb"]
    assert [mark.words for mark in panels.learning[0].marks if mark.kind == "trouble"] == [
        "preempted; resumed at step 75"
    ]
    assert [mark.step for mark in panels.learning[0].marks if mark.kind == "dot"] == [50, 100, 150]
    assert [band.name for band in panels.learning[1].bands] == ["forecast", "heading for"]
    assert "foreign/accuracy" in [panel.title for panel in panels.others]
    assert record is record_of(RunDir(forecast.run_dir))


def test_the_most_pressing_run_is_seen_first(runs: dict[str, Run], store: Store) -> None:
    found = verbs.overview(store)
    assert verbs.most_pressing(found) == next(run for run in found if run.id == runs["running"].id)
    rest = [run for run in found if run.id != runs["running"].id]
    assert verbs.most_pressing(rest) == next(run for run in rest if run.id == runs["proven"].id)
    assert verbs.most_pressing([]) is None
