"""Charts: pure functions from frames and records to altair charts of a fixed size, in one calm look.

altair and polars are imported inside the functions, so that a script that draws nothing does not pay for them. What is
long or many, and changes while somebody looks at it, is drawn by `plot` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patron_core.money import to_usd
from patron_core.ui import inert, theme

if TYPE_CHECKING:
    import altair as alt

    from patron_core.store import LedgerEntry
    from patron_core.verbs import Comparison

WIDTH, HEIGHT = 620, 280
COLOURS = theme.SERIES_ON_BOTH
INK = COLOURS[0]
IN_INK = "guide-label"  # the style of words beside points: the ink of the page's theme, light or dark


def outcome_chart(rows: Sequence[Comparison]) -> alt.LayerChart:
    """What was predicted, with its interval, and what came out."""
    import altair as alt
    import polars as pl

    done = [row for row in rows if row.predicted_bpb is not None]
    frame = pl.DataFrame(
        {
            "run": [inert.vega(row.name) for row in done],
            "low": [row.predicted_bpb_low for row in done],
            "predicted": [row.predicted_bpb for row in done],
            "high": [row.predicted_bpb_high for row in done],
            "actual": [row.val_bpb for row in done],
        },
        schema={"run": pl.String, "low": pl.Float64, "predicted": pl.Float64, "high": pl.Float64, "actual": pl.Float64},
    )
    bits = alt.Scale(domain=span([*frame["low"], *frame["high"], *frame["actual"].drop_nulls()]), nice=False)
    told = [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("predicted", "low", "high", "actual")]
    base = alt.Chart(frame).encode(y=alt.Y("run:N", title=None, sort=None))
    chart = alt.layer(
        base.mark_rule(strokeWidth=7, opacity=0.22, color=INK).encode(
            x=alt.X("low:Q", scale=bits, title="val_bpb: the bar is the prediction, the dot the outcome"), x2="high:Q"
        ),
        base.mark_tick(thickness=2, color=INK).encode(x=alt.X("predicted:Q", scale=bits)),
        base.mark_point(filled=True, size=90, color=COLOURS[1], opacity=1).encode(
            x=alt.X("actual:Q", scale=bits), tooltip=["run", *told]
        ),
    )
    return finish(chart, "Prediction against outcome", height=40 + 34 * max(1, len(done)))


def wallet_chart(statement: Sequence[LedgerEntry], *, width: int = WIDTH) -> alt.LayerChart:
    """What was spent and what was held over time, from the ledger's own lines."""
    import altair as alt
    import polars as pl

    from patron_core.store.ledger import CHARGES

    spent = held = 0
    rows: list[dict[str, Any]] = []
    for entry in sorted(statement, key=lambda line: line.id):
        spent += entry.usd_micros if entry.kind in CHARGES else 0
        held += {"hold": 1, "release": -1, **dict.fromkeys(CHARGES, -1)}.get(entry.kind, 0) * entry.usd_micros
        moment = int(1000 * entry.time)
        rows += [
            {"time": moment, "dollars": to_usd(value), "what": what}
            for what, value in (("spent", spent), ("held", held))
        ]
    frame = pl.DataFrame(rows, schema={"time": pl.Int64, "dollars": pl.Float64, "what": pl.String})
    frame = frame.with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
    line = alt.Chart(frame).mark_line(interpolate="step-after", strokeWidth=1.8)
    chart = alt.layer(
        line.encode(
            x=alt.X("time:T", title=None),
            y=alt.Y("dollars:Q", title="dollars", axis=alt.Axis(format="$~g")),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=["spent", "held"], range=[COLOURS[0], COLOURS[1]]),
                legend=alt.Legend(title=None, orient="top"),
            ),
        )
    )
    return finish(chart, "Money spent and held", width=width, height=180)


def finish(chart: Any, title: str, *, width: int = WIDTH, height: int = HEIGHT) -> alt.LayerChart:
    sized: alt.LayerChart = chart.properties(
        width=width, height=height, background="transparent", title={"text": title, "anchor": "start", "fontSize": 13}
    )
    quiet: alt.LayerChart = sized.configure_view(strokeWidth=0).configure_axis(
        gridColor="#a0aec0", gridOpacity=0.25, domainColor="#a0aec0", tickColor="#a0aec0", titleFontWeight="normal"
    )
    return quiet


def span(values: Sequence[float | None], margin: float = 0.06) -> list[float]:
    """A domain with a little room around all the values; [0, 1] without any."""
    known = [value for value in values if value is not None]
    if not known:
        return [0.0, 1.0]
    low, high = min(known), max(known)
    room = margin * (high - low) or 0.05 * abs(high) or 1.0
    return [low - room, high + room]
