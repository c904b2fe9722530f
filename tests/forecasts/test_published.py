"""The published runs, each predicted without itself: what the table in CHANGELOG.md says, as bounds."""

import pytest

from tests.forecasts.leave_one_out import PUBLISHED, forecasts, table


@pytest.mark.parametrize(
    ("quantity", "runs", "error", "coverage"),
    [
        ("val_bpb", 16, 0.010, 0.85),
        ("step_s", 7, 0.085, 0.85),  # depth 8 lies outside, by a hair
        ("wall_s", 4, 0.10, 0.85),
        ("peak_memory_bytes", 3, 0.07, 0.85),
    ],
)
def test_published_runs_are_predicted_without_themselves(quantity, runs, error, coverage):
    (row,) = [row for row in table() if row.quantity == quantity]
    assert row.runs == runs
    assert row.mean_abs_error <= error
    assert row.coverage >= coverage


def test_every_published_run_says_where_it_is_from():
    rows = [row for name in ("step", "memory", "wall") for row in PUBLISHED[name]]
    assert all(row["source"] and row["label"] for row in rows)
    assert {row["label"] for row in rows} <= {one.name for one in forecasts()}
