"""Several runs together: the frontier, what differs in their specs, and whether a difference is more than noise."""

from __future__ import annotations

from typing import Any

from test_charts import comparison, spec_of

from patron_core import verbs
from patron_core.scaling import Observation, refit
from patron_core.ui import compare_charts
from patron_core.verbs import Comparison


def run(name: str, val_bpb: float | None, *, wall_s: float = 60.0, usd_micros: int = 100, **spec: Any) -> Comparison:
    return comparison(
        run=f"r{name}",
        name=name,
        val_bpb=val_bpb,
        wall_s=wall_s,
        train_usd_micros=usd_micros,
        spec={"depth": 2, **spec},
    )


def test_nobody_on_the_frontier_is_beaten() -> None:
    rows = [
        run("slow", 1.0, wall_s=100, usd_micros=10),
        run("fast", 1.5, wall_s=10, usd_micros=90),
        run("beaten", 1.6, wall_s=50, usd_micros=95),
        run("tie", 1.0, wall_s=120, usd_micros=20),
        run("unfinished", None, wall_s=1),
        run("free", 1.2, wall_s=0, usd_micros=0),
    ]
    assert [row.name for row in verbs.frontier(rows, "wall_s")] == ["fast", "slow"]
    assert [row.name for row in verbs.frontier(rows, "train_usd_micros")] == ["slow"]
    assert verbs.frontier([], "wall_s") == []


def test_only_what_differs_is_shown_and_a_default_counts_as_given() -> None:
    rows = [run("a", 1.0, lr_scale=1.0), run("b", 1.0), run("c", 1.0, lr_scale=2.0, seed=7)]
    found = {one.field: one.values for one in verbs.spec_differences(rows)}
    assert found["lr_scale"] == (1.0, 1.0, 2.0)
    assert found["seed"][2] == 7
    assert "depth" not in found
    assert verbs.spec_differences(rows[:1]) == []


def test_a_difference_is_held_against_the_spread_of_seeds() -> None:
    clear = [run(f"{n}", 1.5 + 0.2 * (n % 2) + 0.001 * n, lr_scale=1.0 + n % 2, seed=n // 2) for n in range(6)]
    found = verbs.seed_noise(clear)
    assert [(group.label, group.num_runs) for group in found.groups] == [("lr_scale 1.0", 3), ("lr_scale 2.0", 3)]
    assert "better than every other by more than the noise" in verbs.noise_sentence(found)
    blurred = [run(f"{n}", 1.5 + 0.001 * (n % 2) + 0.05 * n, lr_scale=1.0 + n % 2, seed=n // 2) for n in range(6)]
    assert "may be as good" in verbs.noise_sentence(verbs.seed_noise(blurred))
    alone = [run("a", 1.5, lr_scale=1.0), run("b", 1.6, lr_scale=2.0)]
    assert "run the best two again with another seed" in verbs.noise_sentence(verbs.seed_noise(alone))
    assert "nothing to tell apart" in verbs.noise_sentence(verbs.seed_noise(alone[:1]))


def test_the_same_name_twice_is_told_by_ids() -> None:
    named = verbs.with_distinct_names([run("a", 1.0), run("b", 1.0), comparison(run="r2", name="a", spec={})])
    assert [row.name for row in named] == ["a (ra)", "b", "a (r2)"]


def test_frontier_and_law_draw_the_chosen_runs_and_draw_nothing_too() -> None:
    rows = [run("slow", 1.0, wall_s=100), run("fast", 1.5, wall_s=10), run("open", None)]
    for cost in ("wall_s", "train_usd_micros"):
        chart = spec_of(compare_charts.frontier_chart(rows, verbs.frontier(rows, cost), cost))  # type: ignore[arg-type]
        assert max(len(found) for found in chart["datasets"].values()) == 2
        spec_of(compare_charts.frontier_chart([], [], cost))
    fit = refit("stdlib", [Observation(num_params=1e6, num_tokens=1e7, val_bpb=2.0, label="rslow")])
    chart = spec_of(compare_charts.law_chart(fit, rows))
    (points,) = [found for found in chart["datasets"].values() if found and "whose" in found[0] and len(found) > 2]
    assert [point["run"] for point in points if point["whose"] == "chosen"] == ["slow", "fast"]
    assert "rslow" not in {point["run"] for point in points}  # not twice
    spec_of(compare_charts.law_chart(refit("path:/nowhere"), []))
