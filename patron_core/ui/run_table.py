"""Runs in marimo's own table, which sorts, searches and selects: plain figures to sort by, and inert cells to look at.

    run_table.element(mo, rows, page, spark, selected=ids)

marimo's table fetches pictures that a text names and obeys Markdown. So no foreign word reaches it as it is: the frame,
which it sorts and searches in Python, holds words that begin no address, and what is drawn is HTML of `inert`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from patron_core.money import to_usd
from patron_core.ui import inert, show, tables
from patron_core.ui.inert import Html

if TYPE_CHECKING:
    import polars as pl

    from patron_core.verbs import RunRow

HIDDEN = ["id"]
PIN = "★"
WIDTHS = {
    "pin": 40, "run": 170, "state": 160, "val_bpb": 76, "curve": 108, "progress": 108, "cost, $": 76, "held, $": 76,
    "depth": 60, "device": 90,
}  # fmt: skip
_SPARK = (96, 22)  # pixels
_BAR = (56, 8)

Cell = Callable[[Any], Any]


def inert_frame(rows: Sequence[RunRow], *, whose: dict[str, str] | None = None) -> pl.DataFrame:
    """One line a run: figures as numbers, dollars as dollars, words without addresses."""
    import polars as pl

    named: dict[str, Any] = {
        "pin": [PIN if row.is_pinned else "" for row in rows],
        "run": [word(row.label) for row in rows],
        "state": [show.plain(row.run.state.value) for row in rows],
        "val_bpb": pl.Series([row.val_bpb for row in rows], dtype=pl.Float64),
        "curve": [row.run.id for row in rows],
        "progress": pl.Series([row.progress for row in rows], dtype=pl.Float64),
        "cost, $": pl.Series([to_usd(row.money.charged_usd_micros) for row in rows], dtype=pl.Float64),
        "held, $": pl.Series([to_usd(row.money.held_usd_micros) for row in rows], dtype=pl.Float64),
        "depth": pl.Series([row.run.depth for row in rows], dtype=pl.Int64),
        "device": [word(row.run.device) for row in rows],
        "project": [word(row.run.project) for row in rows],
        "tags": [word(", ".join(row.tags)) for row in rows],
        "changed": [show.moment(row.run.updated_at) for row in rows],
        **({"whose": [word(whose.get(row.run.id, "")) for row in rows]} if whose else {}),
        "id": [row.run.id for row in rows],
    }
    return pl.DataFrame({name: pl.Series(column, dtype=_type_of(column)) for name, column in named.items()})


def element(
    mo: Any,
    rows: Sequence[RunRow],
    page: tables.Page,
    spark: Callable[[str], Sequence[float]],
    *,
    selected: Collection[str],
    whose: dict[str, str] | None = None,
    hidden: Sequence[str] = (),
    page_size: int = 15,
    on_change: Callable[[Any], object] | None = None,
) -> Any:
    """The table itself; its value is the frame of the runs that are selected. `mo` is marimo; see `formats`."""
    return mo.ui.table(
        inert_frame(rows, whose=whose),
        format_mapping=formats(rows, page, spark, mo.Html),
        initial_selection=[number for number, row in enumerate(rows) if row.run.id in selected],
        on_change=on_change,
        hidden_columns=[*HIDDEN, *hidden],
        column_widths=WIDTHS,
        show_data_types=False,
        show_column_summaries=False,
        show_download=False,
        page_size=page_size,
    )


def formats(
    rows: Sequence[RunRow], page: tables.Page, spark: Callable[[str], Sequence[float]], as_html: Callable[[str], Any]
) -> dict[str, str | Cell]:
    """What is drawn of a value, by column; marimo asks for those of the page that is looked at and for no others.

    `spark` gives the values of a run's line by its id, `as_html` is `mo.Html`.
    """
    by_label = {word(row.label): row for row in rows}
    by_id = {row.run.id: row for row in rows}
    kept: dict[str, str] = {}

    def run(label: Any) -> Any:
        row = by_label.get(str(label))
        cell = tables.run_mark(row.run.state.value, row.label, row.run.id, page) if row else str(label)
        return as_html(show.html_cell(cell))

    def curve(run_id: Any) -> Any:
        row = by_id.get(str(run_id))
        if row is not None and run_id not in kept:
            kept[run_id] = inert.page(sparkline(spark(run_id)))
        return as_html(kept.get(run_id, ""))

    def words(text: Any) -> Any:
        return as_html(inert.page(inert.html("{}", text or "")))

    return {
        "run": run,
        "state": lambda state: as_html(show.html_cell(show.mark(str(state).replace(" ", "_")))),
        "val_bpb": show.bpb,
        "curve": curve,
        "progress": lambda share: as_html(inert.page(_bar(share))),
        "cost, $": dollars,
        "held, $": dollars,
        "device": words,
        "project": words,
        "tags": words,
        "whose": words,
    }


def word(text: str) -> str:
    """A foreign word in a frame that marimo's table sorts and lists: one line, cut, and no address to be fetched."""
    return inert.vega(text).replace("://", ": //").replace("data:", "data: ")


def dollars(value: float | None) -> str:
    """ "1,234.50"; of less than a cent three digits: "0.00123"."""
    if value is None:
        return show.DASH
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{float(f'{value:.3g}'):f}".rstrip("0")


def sparkline(values: Sequence[float]) -> Html:
    """A line without axes, lowest value at the bottom; nothing for fewer than two points."""
    if len(values) < 2:
        return inert.html("<span>{}</span>", show.DASH)
    width, height = _SPARK
    low, high = min(values), max(values)
    across, down = (width - 4) / (len(values) - 1), (height - 4) / ((high - low) or 1.0)
    points = " ".join(f"{2 + n * across:.1f},{2 + (high - value) * down:.1f}" for n, value in enumerate(values))
    said = f"val_bpb from {values[0]:.3f} to {values[-1]:.3f}"
    return inert.html(
        "<svg role='img' aria-label='{}' width='{}' height='{}' style='display:block'>"
        "<polyline points='{}' fill='none' stroke='currentColor' stroke-width='1.5' opacity='0.8'/></svg>",
        said,
        width,
        height,
        points,
    )


def _bar(share: float | None) -> Html:
    if share is None:
        return inert.html("<span>{}</span>", show.DASH)
    width, height = _BAR
    return inert.html(
        "<span style='display:inline-flex;gap:6px;align-items:center'><svg width='{0}' height='{1}'>"
        "<rect width='{0}' height='{1}' rx='3' fill='currentColor' opacity='0.15'/>"
        "<rect width='{2}' height='{1}' rx='3' fill='currentColor' opacity='0.65'/></svg>{3}</span>",
        width,
        height,
        round(width * share),
        f"{share:.0%}",
    )


def _type_of(column: Any) -> Any:
    import polars as pl

    return column.dtype if isinstance(column, pl.Series) else pl.String
