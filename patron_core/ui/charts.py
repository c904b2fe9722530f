"""Charts: pure functions from frames and records to altair charts of a fixed size, in one calm look.

altair and polars are imported inside the functions, so that a script that draws nothing does not pay for them. Curves
of runs, which are long and grow, are drawn by `plot` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patron_core.money import to_usd
from patron_core.ui import inert, show, theme

if TYPE_CHECKING:
    import altair as alt

    from patron_core.estimate import Estimate
    from patron_core.store import LedgerEntry
    from patron_core.verbs import Comparison

WIDTH, HEIGHT = 620, 280
COLOURS = theme.SERIES_ON_BOTH
INK = COLOURS[0]
IN_INK = "guide-label"  # the style of words beside points: the ink of the page's theme, light or dark
_VERDICT_COLOURS = {
    "sweet spot": "#2f855a",
    "undersized": "#2b6cb0",
    "too small": "#718096",
    "over budget": "#c53030",
    "out of memory": "#822727",
    "no budget": "#718096",
}


def estimate_chart(rows: Sequence[Estimate], *, budget_s: float | None = None) -> alt.LayerChart:
    """Predicted val_bpb with its interval against wall time: what time buys, and what is too much of it."""
    import altair as alt
    import polars as pl

    frame = pl.DataFrame(
        [
            {
                "model": f"d{row.recipe.depth}",
                "device": inert.vega(row.device.name),
                "verdict": str(row.verdict).replace("_", " "),
                "minutes": row.wall_s.mid / 60,
                "shortest": row.wall_s.low / 60,
                "longest": row.wall_s.high / 60,
                "bpb": row.val_bpb.mid,
                "low": row.val_bpb.low,
                "high": row.val_bpb.high,
                "dollars": to_usd(row.cost_usd_micros.mid),
            }
            for row in rows
        ]
    )
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=list(_VERDICT_COLOURS), range=list(_VERDICT_COLOURS.values())),
        legend=alt.Legend(title=None, values=frame["verdict"].unique(maintain_order=True).to_list(), orient="top"),
    )
    key = alt.Legend(title=None, orient="top") if frame["device"].n_unique() > 1 else None
    shape = alt.Shape("device:N", legend=key)
    axis = alt.X("minutes:Q", title="wall time, min", scale=alt.Scale(type="log", nice=False, padding=20))
    bits = alt.Scale(domain=span([*frame["low"], *frame["high"]]), nice=False)
    base = alt.Chart(frame).encode(x=axis, color=colour)
    tooltip = [
        "model",
        "device",
        alt.Tooltip("minutes:Q", title="wall time, min", format=",.3~g"),
        alt.Tooltip("bpb:Q", title="predicted val_bpb", format=".3f"),
        alt.Tooltip("low:Q", format=".3f"),
        alt.Tooltip("high:Q", format=".3f"),
        alt.Tooltip("dollars:Q", title="cost", format="$,.3~r"),
        "verdict",
    ]
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q", scale=bits), y2="high:Q"),
        base.mark_rule(strokeWidth=2, opacity=0.35).encode(x=alt.X("shortest:Q"), x2="longest:Q", y="bpb:Q"),
        base.mark_point(size=90, filled=True, opacity=1).encode(
            y=alt.Y("bpb:Q", title="predicted val_bpb", scale=bits),
            shape=shape,
            tooltip=tooltip,
        ),
        base.mark_text(align="left", dx=9, dy=-9, fontWeight="bold").encode(y="bpb:Q", text="model:N"),
    ]
    if budget_s is not None:
        limit = pl.DataFrame({"minutes": [budget_s / 60], "label": [f"budget, {show.seconds(budget_s)}"]})
        ruler = alt.Chart(limit).encode(x="minutes:Q")
        layers += [
            ruler.mark_rule(strokeDash=[4, 4], color="#a0aec0"),
            ruler.mark_text(align="left", dx=5, y=8, color="#718096", fontSize=11).encode(text="label:N"),
        ]
    return finish(alt.layer(*layers), "Predicted loss against time, with the interval of nine runs in ten")


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
