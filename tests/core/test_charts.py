"""Charts: drawable when there is nothing, and the same size each time. Curves: test_series.py."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from patron_core.store import LedgerEntry
from patron_core.ui import charts, show
from patron_core.verbs import Comparison


def spec_of(chart: Any) -> dict[str, Any]:
    """What the browser gets: altair has checked it against the schema."""
    value: dict[str, Any] = json.loads(chart.to_json())
    return value


def num_rows(chart: Any) -> int:
    return max((len(rows) for rows in spec_of(chart).get("datasets", {}).values()), default=0)


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = dict.fromkeys(Comparison.__dataclass_fields__)
    values |= {"run": "r1", "name": "a", "state": "succeeded", "depth": 2, "num_params_scaling": 10, "train_tokens": 20}
    values |= {"wall_s": 0.0, "held_usd_micros": 0, "charged_usd_micros": 0, "train_usd_micros": 0, "attempts": 0}
    return Comparison(**(values | changes))


def test_predictions_draw_with_and_without_an_outcome() -> None:
    done = comparison(predicted_bpb_low=1.0, predicted_bpb=1.1, predicted_bpb_high=1.2, val_bpb=1.15)
    waiting = comparison(name="b", predicted_bpb_low=1.0, predicted_bpb=1.1, predicted_bpb_high=1.2)
    assert num_rows(charts.outcome_chart([done, waiting, comparison(name="c")])) == 2
    spec_of(charts.outcome_chart([]))


def test_a_figure_of_a_run_that_was_cut_short_says_so() -> None:
    assert comparison(val_bpb=1.1).cut_short_words == ""
    paused = {"state": "paused", "reason": "deadline"}
    assert comparison(**paused).cut_short_words == ""  # no figure to be qualified
    assert comparison(**paused, val_bpb=1.1).cut_short_words == ", cut short: paused (deadline)"


def test_money_over_time_adds_up() -> None:
    shared: dict[str, Any] = {"project": "p", "key": "k", "asked_usd_micros": 0, "source": "", "target": ""}
    shared |= {"run_id": None, "attempt_id": None, "memo": "", "actor": "ada"}
    moves = [("deposit", 50), ("hold", 30), ("charge", 10), ("release", 20)]
    moves += [("hold", 30), ("teardown", 5), ("storage", 5), ("egress", 5)]
    lines = [
        LedgerEntry(id=i, kind=kind, usd_micros=amount * 10_000, time=1e9 + i, **shared)
        for i, (kind, amount) in enumerate(moves)
    ]
    chart = spec_of(charts.wallet_chart(list(reversed(lines))))
    (rows,) = chart["datasets"].values()
    assert [row["dollars"] for row in rows if row["what"] == "held"] == [0.0, 0.3, 0.2, 0.0, 0.3, 0.25, 0.2, 0.15]
    assert [row["dollars"] for row in rows if row["what"] == "spent"] == [0.0, 0.0, 0.1, 0.1, 0.1, 0.15, 0.2, 0.25]
    spec_of(charts.wallet_chart([]))


def test_charts_cost_nothing_until_one_is_drawn() -> None:
    code = (
        "import sys; from patron_core.ui import charts, show; print('altair' in sys.modules, 'polars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_table_is_aligned_in_a_terminal_and_escaped_in_a_page() -> None:
    columns = [
        show.Column("name", lambda row: show.Mark(row[0], href="?a=1&b='x'"), "left"),
        show.Column("n", lambda row: str(row[1])),
        show.Column("state", lambda row: show.mark("sweet_spot"), "left"),
    ]
    rows = [("<b>", 7), ("longer", 1234)]
    assert show.text_table(rows, columns).splitlines() == [
        "name       n  state",
        "<b>        7  sweet spot",
        "longer  1234  sweet spot",
    ]
    page = show.html_table(rows, columns)
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "href='?a=1&amp;b=&#x27;x&#x27;'" in page
    assert "Nothing yet" in show.html_table([], columns)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (show.one_line("def f():\n\treturn 'né'\x1b", 40), "def f():⏎⇥return 'né'\ufffd"),
        (show.one_line("0123456789", 10), "0123456789"),
        (show.one_line("0123456789a", 10), "012345678…"),
        (show.seconds(0.0042), "4.2 ms"),
        (show.seconds(0.5), "0.50 s"),
        (show.seconds(59.6), "60 s"),
        (show.seconds(150), "2.5 min"),
        (show.seconds(3600), "60 min"),
        (show.seconds(7380), "2.0 h"),
        (show.count(73_531_538), "73.5 M"),
        (show.count(1.32e9), "1.32 B"),
        (show.count(999), "999"),
        (show.count(999_999), "1000 k"),
        (show.size(14.4e9), "14.4 GB"),
        (show.usd(3_334), "$0.00333"),
        (show.usd(4_360_000), "$4.36"),
        (show.usd(0), "$0.00"),
        (show.percent(0.0213, signed=True), "+2.1%"),
        (show.between((540.0, 780.0, 1380.0), show.seconds), "13 min (9.0 to 23)"),
        (show.between({"low": 0.873, "mid": 0.912, "high": 0.953}, show.bpb), "0.912 (0.873 to 0.953)"),
        (show.between((50.0, 130.0, 400.0), show.seconds), "2.2 min (50 s to 6.7 min)"),
        (show.seconds(None), show.DASH),
    ],
)
def test_numbers_in_words(said: str, meant: str) -> None:
    assert said == meant


def test_notebooks_link_to_each_other_only_where_they_are_served_together() -> None:
    assert show.page({}, "4_watch", run="r1") is None
    assert show.page({"file": "0_lab.py", "run": "r0"}, "4_watch", run="r1") == "?file=4_watch.py&run=r1"
    assert show.page({"file": "a/b/0_lab.py"}, "4_watch", run="r1") == "?file=a%2Fb%2F4_watch.py&run=r1"
