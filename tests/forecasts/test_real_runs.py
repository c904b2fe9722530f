"""The small real runs that are kept, of a machine whose load changed threefold: the next run lies where they say."""

import json
from pathlib import Path

import pytest

from tests.bench.forecasts import steps_again

RUNS = json.loads((Path(__file__).parents[1] / "bench" / "results" / "forecasts.json").read_text())["runs"]


@pytest.mark.parametrize(("known", "least", "most"), [("before", 0.80, 1.0), ("others", 0.83, 0.97)])
def test_a_busy_machines_steps_are_inside_by_what_other_runs_took(known, least, most):
    again = steps_again(RUNS, known)
    assert least <= sum(one.is_inside for one in again) / len(again) <= most
    told = [one for run in RUNS for one in run["forecasts"] if (one["quantity"], one["stage"]) == ("step_s", "funding")]
    before = sum(abs(one["actual"] / one["mid"] - 1) for one in told) / len(told)
    assert sum(abs(one.error) for one in again) / len(again) < before
