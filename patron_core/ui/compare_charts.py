"""Charts of many runs together: what a second and a dollar bought, and the loss law with the runs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patron_core.money import to_usd
from patron_core.ui import charts, inert

if TYPE_CHECKING:
    import altair as alt

    from patron_core.scaling import Fit
    from patron_core.verbs import Comparison

_MOST_NAMED = 15  # more names than that cover each other
_LINE_POINTS = 40
_QUIET = charts.COLOURS[7]


def frontier_chart(
    rows: Sequence[Comparison], best: Sequence[Comparison], cost: str, *, width: int = 400
) -> alt.LayerChart:
    """val_bpb against machine time ("wall_s") or dollars ("train_usd_micros"), and the line of those nobody beats."""
    import altair as alt
    import polars as pl

    is_money = cost == "train_usd_micros"
    on_it = {row.run for row in best}
    points: list[dict[str, Any]] = [
        {
            "run": inert.vega(row.name),
            "cost": to_usd(row.train_usd_micros) if is_money else row.wall_s / 60,
            "val_bpb": row.val_bpb,
            "depth": row.depth,
            "which": "not beaten" if row.run in on_it else "beaten",
        }
        for row in rows
        if row.val_bpb is not None and getattr(row, cost)
    ]
    schema = {"run": pl.String, "cost": pl.Float64, "val_bpb": pl.Float64, "depth": pl.Int64, "which": pl.String}
    frame = pl.DataFrame(points, schema=schema)
    title = "dollars of training" if is_money else "machine time, min"
    axis = alt.Axis(format="$~g") if is_money else alt.Axis()
    x = alt.X("cost:Q", title=title, axis=axis, scale=alt.Scale(type="log", nice=False, padding=20))
    y = alt.Y("val_bpb:Q", scale=alt.Scale(domain=charts.span(frame["val_bpb"].to_list()), nice=False))
    colour = alt.Color(
        "which:N",
        scale=alt.Scale(domain=["not beaten", "beaten"], range=[charts.COLOURS[1], _QUIET]),
        legend=alt.Legend(title=None, orient="top"),
    )
    tooltip = [
        "run",
        "depth",
        alt.Tooltip("cost:Q", format=",.4~g", title=title),
        alt.Tooltip("val_bpb:Q", format=".4f"),
    ]
    line = alt.Chart(frame.filter(pl.col("which") == "not beaten").sort("cost"))
    chart = alt.layer(
        line.mark_line(interpolate="step-after", color=charts.COLOURS[1], opacity=0.6).encode(x=x, y=y),
        alt.Chart(frame).mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip),
        line.mark_text(style=charts.IN_INK, fontSize=11, align="left", dx=8, dy=-8).encode(x=x, y=y, text="run:N"),
    )
    return charts.finish(chart, f"What {'a dollar' if is_money else 'a minute'} bought", width=width)


def law_chart(fit: Fit, rows: Sequence[Comparison], *, width: int = charts.WIDTH) -> alt.LayerChart:
    """The loss law where compute is split best, with its interval; the runs it was fitted on, and the chosen ones."""
    import altair as alt
    import polars as pl

    from patron_core.scaling import optimal

    seen = [*((run, "known before") for run in fit.anchors), *((run, "own runs") for run in fit.observations)]
    points: list[dict[str, Any]] = [
        {
            "flops": 6.0 * run.num_params * run.num_tokens,
            "val_bpb": run.val_bpb,
            "run": inert.vega(run.label),
            "whose": whose,
        }
        for run, whose in seen
    ]
    chosen = {row.run for row in rows}
    points = [point for point in points if point["run"] not in chosen]
    points += [
        {
            "flops": 6.0 * (row.num_params_scaling or 0) * (row.train_tokens or 0),
            "val_bpb": row.val_bpb,
            "run": inert.vega(row.name),
            "whose": "chosen",
        }
        for row in rows
        if row.val_bpb is not None and row.depth is not None  # of foreign code nobody knows its FLOPs
    ]
    schema = {"flops": pl.Float64, "val_bpb": pl.Float64, "run": pl.String, "whose": pl.String}
    frame = pl.DataFrame(points, schema=schema)
    amounts = [value for value in frame["flops"].to_list() if value > 0] or [1e15]
    low, high = min(amounts) / 2, max(amounts) * 4
    line = []
    for number in range(_LINE_POINTS):
        flops = low * (high / low) ** (number / (_LINE_POINTS - 1))
        said = optimal(fit, flops).val_bpb
        line.append({"flops": flops, "law": said.mid, "low": said.low, "high": said.high})
    law = pl.DataFrame(line)
    bits = alt.Scale(domain=charts.span([*law["low"], *law["high"], *frame["val_bpb"]]), nice=False)
    x = alt.X(
        "flops:Q", title="training FLOPs, 6 N D", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format=".0e")
    )
    colour = alt.Color(
        "whose:N",
        scale=alt.Scale(
            domain=["known before", "own runs", "chosen"], range=[_QUIET, charts.COLOURS[5], charts.COLOURS[1]]
        ),
        legend=alt.Legend(title=None, orient="top"),
    )
    band = alt.Chart(law).encode(x=x)
    own = alt.Chart(frame.filter((pl.col("whose") == "chosen") & (len(chosen) <= _MOST_NAMED)))
    chart = alt.layer(
        band.mark_area(opacity=0.15, color=charts.INK).encode(y=alt.Y("low:Q", scale=bits), y2="high:Q"),
        band.mark_line(color=charts.INK).encode(y=alt.Y("law:Q", scale=bits)),
        alt.Chart(frame)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=x,
            y=alt.Y("val_bpb:Q", title="val_bpb", scale=bits),
            color=colour,
            tooltip=["run", "whose", alt.Tooltip("flops:Q", format=".2e"), alt.Tooltip("val_bpb:Q", format=".4f")],
        ),
        own.mark_text(style=charts.IN_INK, fontSize=11, align="left", dx=8, dy=-8).encode(
            x=x, y=alt.Y("val_bpb:Q", scale=bits), text="run:N"
        ),
    )
    title = f"The loss law of {inert.vega(fit.corpus)} with compute split best, and measured runs"
    return charts.finish(chart, title, width=width)
