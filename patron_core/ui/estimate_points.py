"""Candidates of an estimate in one chart: predicted val_bpb against wall time, and the budget of time as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.estimate import Estimate
    from patron_core.ui.plot.board import Board
    from patron_core.ui.plot.points import Points

_COLOUR_OF = {  # verdict -> of the palette
    "sweet_spot": 2,
    "undersized": 0,
    "too_small": 7,
    "over_budget": 4,
    "out_of_memory": 8,
    "no_budget": 7,
}
MINUTE_S = 60.0


def board() -> Board:
    """An empty board, for a page: times of candidates differ by orders of magnitude."""
    from patron_core.ui.plot.board import Board

    return Board(look={"log_x": True})


def points(rows: Sequence[Estimate], *, budget_s: float | None = None) -> Points:
    from patron_core.interval import Interval
    from patron_core.ui.plot.lines import Mark
    from patron_core.ui.plot.points import Point, Points

    kinds = {verdict: number for number, verdict in enumerate(_COLOUR_OF)}
    shape_of = {name: number for number, name in enumerate(dict.fromkeys(row.device.name for row in rows))}
    limit = [] if budget_s is None else [Mark(step=budget_s / MINUTE_S, words=f"budget, {show.seconds(budget_s)}")]
    return Points(
        title="Predicted val_bpb against wall time, with the intervals of nine runs in ten",
        unit="bits a byte",
        x_title="wall time, min",
        points=[
            Point(
                x=Interval(*(seconds / MINUTE_S for seconds in row.wall_s)),
                y=row.val_bpb,
                name=f"d{row.recipe.depth}",
                words=_words(row),
                kind=kinds[row.verdict],
                group=shape_of[row.device.name],
            )
            for row in rows
        ],
        kinds=[(show.plain(verdict), colour) for verdict, colour in _COLOUR_OF.items()],
        groups=list(shape_of),
        marks=limit,
    )


def _words(row: Estimate) -> str:
    """Under the mouse."""
    said = [
        f"d{row.recipe.depth} on {inert.vega(row.device.name)}",
        show.between(row.wall_s, show.seconds),
        f"val_bpb {show.between(row.val_bpb, show.bpb)}",
        show.usd(row.cost_usd_micros.mid),
        show.plain(row.verdict),
    ]
    return ", ".join(said)
