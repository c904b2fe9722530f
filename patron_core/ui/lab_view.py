"""The lab as text, for a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patron_core.ui import show, tables

if TYPE_CHECKING:
    from patron_core.verbs import Lab

_START = "No run yet. Start with: patron search, or estimate one: patron estimate"


def text(found: Lab) -> str:
    """Money, runs, what waits for a person, and what is not as it should be."""
    wallet = found.wallet
    columns = tables.runs(lambda notebook, run_id: None, found.whose)
    return "\n".join(
        [
            f"{found.project}: {show.usd(wallet.available_usd_micros)} available, {show.usd(wallet.held_usd_micros)} "
            f"held, {show.usd(wallet.spent_usd_micros)} spent, burning "
            f"{show.usd(found.burn_usd_micros_per_hour)} an hour",
            "",
            *([f"{found.counted}:", show.text_table(found.rows, columns)] if found.rows else [_START]),
            *(f"waits: {one.run.name}: {one.words} next: {one.next}" for one in found.waiting),
            *(lag.sentence for lag in found.late),
            *found.problems,
        ]
    )
