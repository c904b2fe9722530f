"""The ledger of errors: what was said of a run before it was paid for stays, and is compared with what came out."""

import math
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.estimate.accuracy import ENOUGH, Forecast, accuracy, stretch
from patron_core.machines.target import Target
from patron_core.scaling import predict
from patron_core.states import RunState
from patron_core.store import Store, calibrations, runs
from patron_core.verbs.forecasts import PLANNED, planned
from patron_core.verbs.measured import fit_of


def forecast(**changes) -> Forecast:
    said = {"quantity": "wall_s", "stage": "funding", "low": 80.0, "mid": 100.0, "high": 125.0, "actual": 110.0}
    about = {"run": "r1", "name": "one", "device": "cpu", "corpus": "stdlib", "depth": 2}
    return Forecast(**(about | said | changes))


def test_error_bias_and_coverage():
    rows = [forecast(actual=110.0), forecast(actual=90.0), forecast(actual=150.0), forecast(quantity="val_bpb")]
    bpb, wall = accuracy(rows)
    assert (bpb.quantity, bpb.runs) == ("val_bpb", 1)
    assert (wall.quantity, wall.runs) == ("wall_s", 3)
    assert wall.mean_abs_error == pytest.approx((0.1 + 0.1 + 0.5) / 3)
    assert wall.bias == pytest.approx((0.1 - 0.1 + 0.5) / 3)
    assert wall.coverage == pytest.approx(2 / 3)
    assert wall.stretch is None  # three runs say nothing of nine in ten


def test_one_row_for_each_device_and_stage():
    rows = [forecast(), forecast(device="H100"), forecast(stage="plan"), forecast(device="H100", corpus="climbmix")]
    found = [(row.group, row.stage, row.runs) for row in accuracy(rows, by="device")]
    assert found == [("H100", "funding", 2), ("cpu", "plan", 1), ("cpu", "funding", 1)]
    assert {row.group for row in accuracy(rows, by="corpus")} == {"climbmix", "stdlib"}


@given(scores=st.lists(st.floats(0, 10), min_size=ENOUGH, max_size=60))
def test_stretched_intervals_hold_nine_in_ten(scores):
    factor = stretch(scores)
    assert sum(score <= factor for score in scores) >= 0.9 * len(scores)


def test_a_stretch_covers_the_next_run_nine_times_in_ten():
    inside = 0
    for seed in range(400):
        rng = random.Random(seed)
        scores = [abs(rng.gauss(0, 1.4)) for _ in range(31)]
        inside += scores[-1] <= stretch(scores[:-1])
    assert 0.86 <= inside / 400 <= 0.96


def test_an_interval_is_measured_on_its_own_side():
    assert forecast(actual=125.0).widths_away == pytest.approx(1)
    assert forecast(actual=80.0).widths_away == pytest.approx(1)
    assert forecast(low=100.0, high=100.0, actual=100.0).widths_away == 0


def test_what_was_said_at_planning_survives_funding():
    first = {"val_bpb": {"mid": 2.0}, "wall_s": {"mid": 1.0}, "cost_usd_micros": {"mid": 3}, "step_s": {"mid": 4}}
    first["eval_s"] = {"mid": 5}
    kept = planned(first)
    assert set(kept[PLANNED]) == {"val_bpb", "step_s", "wall_s", "cost_usd_micros"}
    assert planned(first | kept) == {}
    assert planned(None) == {}


def test_a_finished_run_is_compared_at_both_stages(home: Path):
    """A run as planning and funding leave it; one that was cut short has no outcome."""
    said = {
        "device": "cpu",
        "val_bpb": {"low": 1.8, "mid": 1.9, "high": 2.0},
        "wall_s": {"low": 50, "mid": 60, "high": 80},
        "step_s": {"low": 1.0, "mid": 1.2, "high": 1.4},
        PLANNED: {
            "val_bpb": {"low": 1.5, "mid": 1.7, "high": 1.8},
            "memory": {"peak_bytes": {"low": 1, "mid": 2, "high": 3}},
        },
    }
    with closing(Store.open()) as store:
        for name, state in (("whole", RunState.SUCCEEDED), ("cut", RunState.PAUSED)):
            run = verbs.plan(store, spec={"depth": 1, "data": "stdlib", "num_steps": 20}, name=name, actor="ada")
            with store.begin() as conn:
                result = {"val_bpb": 1.85, "peak_memory_bytes": 4, "train_s": 30.0, "step": 20}
                runs.set_fields(conn, run.id, now=1.0, estimate=said, result=result)
                conn.exec_driver_sql("UPDATE runs SET state = ? WHERE id = ?", (state.value, run.id))
        found = verbs.forecasts(store)
    assert [(f.name, f.quantity, f.stage, f.is_inside) for f in found] == [
        ("whole", "val_bpb", "plan", False),
        ("whole", "peak_memory_bytes", "plan", False),
        ("whole", "val_bpb", "funding", True),
        ("whole", "step_s", "funding", False),
    ]


def test_what_may_run_out_of_memory_can_be_tried_all_the_same(home: Path):
    spec = {"depth": 40, "data": "stdlib", "num_steps": 20, "device_batch_size": 64, "batch_tokens": 64 * 2048}
    with closing(Store.open()) as store:
        with pytest.raises(InvalidInput, match=r"runs out with \d+%") as refused:
            verbs.plan(store, spec=spec, actor="ada")
        assert "--try-anyway" in refused.value.next
        assert verbs.plan(store, spec=spec, actor="ada", try_anyway=True).state is RunState.DRAFT


def test_a_card_known_by_its_datasheet_is_not_rented():
    with pytest.raises(InvalidInput, match="L40S is estimated by its datasheet"):
        Target(executor="sky", device="L40S").check()


def test_where_runs_come_out_further_away_than_said_the_next_interval_is_wider(home: Path):
    """Twelve runs of which each was told an interval a third as wide as it would have had to be."""
    about = {"corpus": "stdlib", "depth": 1, "num_params": 1e6, "vocab_size": 4096, "sequence_len": 256}
    rng = random.Random(0)
    with closing(Store.open()) as store:
        told = []
        for number in range(12):
            tokens = 3e5 * 1.1**number
            before = fit_of(store, "stdlib")
            said = predict(before, 1e6, tokens)
            told.append((before.stretch, said))
            actual = said.mid * (said.high / said.mid) ** (3 / before.stretch * rng.choice([-1, 1]))
            values = about | {
                "num_tokens": tokens,
                "val_bpb": actual,
                "said_bpb": said.to_dict(),
                "stretch": before.stretch,
            }
            with store.begin() as conn:
                calibrations.record(conn, machine="m", kind="run", values=values, now=1.0)
        fit = fit_of(store, "stdlib")
        assert {factor for factor, _ in told[:10]} == {1.0}  # ten runs say something, fewer do not
        assert fit.stretch == pytest.approx(3.0, rel=1e-6)  # of the intervals as they were before any stretching
        assert "3.0 x as wide" in fit.source
        wide, plain = predict(fit, 1e6, 1e6), predict(replace(fit, stretch=1.0), 1e6, 1e6)
        assert math.log(wide.high / wide.mid) == pytest.approx(3 * math.log(plain.high / plain.mid))
        assert fit_of(store, "climbmix").stretch == 1.0
