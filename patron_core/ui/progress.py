"""How far a run is, in figures: a line of JSON for whoever follows it with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patron_core.verbs import RunView


def figures(seen: RunView) -> dict[str, Any]:
    """What `show.progress_line` says, for a program."""
    return {
        "run": seen.run.id,
        "state": seen.run.state.value,
        "phase": seen.phase,
        "step": seen.step,
        "num_steps": seen.num_steps,
        "loss": seen.metrics.get("train/loss"),
        "val_bpb": seen.val_bpb,
        "charged_usd_micros": seen.money.charged_usd_micros,
    }
