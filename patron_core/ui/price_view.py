"""The market for people: a polars frame of every price, and a chart of what a GPU costs an hour by cloud and region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patron_core.money import to_usd
from patron_core.ui import charts, inert, show

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

    from patron_core.market.offers import Market

MAX_PLACES = 30  # in the chart: the cheapest
MAX_ROWS = 500  # in the table of every price


def price_frame(market: Market) -> pl.DataFrame:
    """One row a price, cheapest GPU first: device, machine, cloud, region, zone, kind, dollars an hour, its source."""
    import polars as pl

    schema = {
        "device": pl.String,
        "machine": pl.String,
        "cloud": pl.String,
        "region": pl.String,
        "zone": pl.String,
        "kind": pl.String,
        "usd_per_hour": pl.Float64,
        "usd_per_gpu_hour": pl.Float64,
        "instance_type": pl.String,
        "source": pl.String,
        "as_of": pl.String,
    }
    rows = [
        (
            price.device,
            price.machine,
            price.cloud,
            price.region,
            price.zone,
            price.kind,
            to_usd(price.usd_micros_per_hour),
            to_usd(price.usd_micros_per_gpu_hour),
            price.instance_type,
            price.source,
            price.as_of,
        )
        for price in market.prices
    ]
    inert_rows = [[inert.vega(v) if isinstance(v, str) else v for v in row] for row in rows]
    return pl.DataFrame(inert_rows, schema=schema, orient="row")


def price_table(market: Market) -> str:
    """Every price, cheapest GPU first; of very many the cheapest, and how many are left out.

    Not `mo.ui.table`, which fetches a picture that a cell names.
    """
    frame = price_frame(market)
    columns = [_column(frame, title) for title in frame.columns]
    table = show.html_table(frame.head(MAX_ROWS).iter_rows(named=True), columns)
    more = frame.height - MAX_ROWS
    return table + (inert.page(inert.html("<p>{} dearer ones are left out.</p>", more)) if more > 0 else "")


def _column(frame: pl.DataFrame, title: str) -> show.Column:
    return show.Column(title, lambda row: _cell(row[title]), "right" if frame[title].dtype.is_numeric() else "left")


def _cell(value: str | float | None) -> str:
    if value is None:
        return show.DASH
    return value if isinstance(value, str) else f"{value:.4g}"


def source_line(market: Market) -> str:
    """Where the prices are from and how old they are, and what is wrong with them."""
    ages = ", ".join(f"{cloud} of {moment}" for cloud, moment in market.as_of.items())
    left_out = f"{len(market.left_out)} rows left out" if market.left_out else ""
    return "; ".join(filter(None, [f"{market.source}: {ages}" if ages else market.source, left_out, *market.problems]))


def price_chart(market: Market, *, width: int = charts.WIDTH) -> alt.LayerChart:
    """Dollars an hour of one GPU by place: a line from spot to on demand, the cheapest places first."""
    import altair as alt
    import polars as pl

    frame = price_frame(market).with_columns(
        place=pl.format("{}, {}", "machine", pl.concat_str(["cloud", "region"], separator="/", ignore_nulls=True))
    )
    best = frame.group_by("place", "kind").agg(pl.col("usd_per_gpu_hour").min(), pl.col("zone").first())
    order = best.group_by("place").agg(pl.col("usd_per_gpu_hour").min().alias("from")).sort("from", "place")
    places = order["place"].head(MAX_PLACES).to_list()
    shown = best.filter(pl.col("place").is_in(places)).sort("place", "kind")
    kinds = ["spot", "on demand"]
    x = alt.X("usd_per_gpu_hour:Q", title="dollars an hour of one GPU", axis=alt.Axis(format="$~g"))
    base = alt.Chart(shown).encode(y=alt.Y("place:N", title=None, sort=places, axis=alt.Axis(labelLimit=260)))
    chart = alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.25, color=charts.INK).encode(
            x=alt.X("min(usd_per_gpu_hour):Q"), x2="max(usd_per_gpu_hour)"
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x,
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=kinds, range=[charts.COLOURS[2], charts.COLOURS[0]]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=["place", "kind", alt.Tooltip("usd_per_gpu_hour:Q", format="$.2f"), "zone"],
        ),
    )
    more = f", the {MAX_PLACES} cheapest of {order.height} places" if order.height > MAX_PLACES else ""
    height = 40 + 18 * max(1, len(places))
    return charts.finish(chart, f"What a GPU costs{more}", width=width, height=height)
