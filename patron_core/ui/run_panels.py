"""The charts of one run: what it learns beside what was expected of it, its machine, and everything else it logged."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.rundir.rundir import back_to
from patron_core.states import EndReason
from patron_core.ui import show

if TYPE_CHECKING:
    from patron_core.interval import Interval
    from patron_core.rundir.record import Record
    from patron_core.ui.plot.board import Board
    from patron_core.ui.plot.lines import Band, Mark, Panel
    from patron_core.ui.plot.pane import Pane
    from patron_core.verbs import Course, Followed, RunView
    from patron_core.verbs.axes import Axes
    from patron_core.verbs.series import Series

NAMES = {  # key -> title, unit
    "train/loss": ("training loss", "nats a token"),
    "val/bpb": ("val_bpb", "bits a byte"),
    "train/tokens_per_s": ("tokens", "a second"),
    "train/mfu": ("MFU", "share of peak"),
    "train/step_s": ("step", "seconds"),
    "train/peak_memory_bytes": ("peak memory", "bytes"),
    "system/gpu_utilization": ("GPU utilisation", "share"),
    "system/gpu_memory_bytes": ("GPU memory in use", "bytes"),
    "system/gpu_power_w": ("GPU power", "W"),
    "system/gpu_temperature_c": ("GPU temperature", "°C"),
    "system/cpu_utilization": ("CPU", "share of all cores"),
    "system/memory_bytes": ("RAM in use", "bytes"),
    "money/charged_usd": ("charged", "dollars"),
    "money/held_usd": ("held", "dollars"),
}
LEARNING = ("train/loss", "val/bpb")
MACHINE = ("train/tokens_per_s", "train/mfu", "train/step_s", "train/peak_memory_bytes")
COMPARED = ("val/bpb", "train/loss", "train/tokens_per_s")
MAX_TICKS = 200
MOST_OWN = 8
FORECAST = "forecast"
TROUBLE = frozenset(EndReason) - {EndReason.COMPLETED, EndReason.PAUSED, EndReason.SWITCHED}


@dataclass(frozen=True, kw_only=True)
class RunPanels:
    learning: list[Panel]
    machine: list[Panel]
    others: list[Panel]


def board() -> Board:
    """An empty board of charts, for a page."""
    from patron_core.ui.plot.board import Board

    return Board()


def pane() -> Pane:
    """An empty pane of text, for a page."""
    from patron_core.ui.plot.pane import Pane

    return Pane()


def run_panels(
    followed: Followed, record: Record, seen: RunView, course: Course, elsewhere: Mapping[str, Series]
) -> RunPanels:
    """`elsewhere`: what MLflow has beside the record."""
    found = {**elsewhere, **followed.series}
    marks = _marks(record, seen)
    bands = {"train/loss": _bands(("heading for", course.loss_band))}
    bands["val/bpb"] = _bands((FORECAST, course.forecast_band), ("heading for", course.bpb_band))

    def panels(keys: Iterable[str]) -> list[Panel]:
        from patron_core.ui.plot.lines import Line, Panel

        return [
            Panel(
                title=NAMES.get(key, (key, ""))[0],
                unit=NAMES.get(key, (key, ""))[1],
                lines=[Line(name=key, series=found[key], axes=followed.axes)],
                bands=bands.get(key, ()),
                marks=marks if key in LEARNING else [mark for mark in marks if mark.kind in ("event", "trouble")],
                last_step=seen.num_steps,
            )
            for key in keys
            if key in found
        ]

    machine = [*MACHINE, *sorted(key for key in found if key.startswith("system/"))]
    rest = sorted(found.keys() - {*LEARNING, *machine})
    learning = [key for key in LEARNING if key in found] or _own_keys(rest)
    others = [key for key in rest if key not in learning]
    return RunPanels(learning=panels(learning), machine=panels(machine), others=panels(others))


def _own_keys(rest: list[str]) -> list[str]:
    """What foreign code logs by names of its own is what there is to see of it: the first so many."""
    return [key for key in rest if not key.startswith(("patron/", "money/"))][:MOST_OWN]


def comparison_board(runs: Mapping[str, tuple[Mapping[str, Series], Axes]]) -> Board:
    """What runs learned and how fast, each metric in a chart with a line a run, by its name."""
    from patron_core.ui.plot.board import Board
    from patron_core.ui.plot.lines import Line, Panel

    return Board(
        [
            Panel(
                title=NAMES[key][0],
                unit=NAMES[key][1],
                lines=[
                    Line(name=name, series=series[key], axes=axes, colour=number)
                    for number, (name, (series, axes)) in enumerate(runs.items())
                    if key in series
                ],
            )
            for key in COMPARED
            if any(key in series for series, _ in runs.values())
        ]
    )


def _bands(*named: tuple[str, list[tuple[float, Interval]]]) -> list[Band]:
    import numpy as np

    from patron_core.ui.plot.lines import Band

    return [
        Band(
            name=name,
            steps=np.array([step for step, _ in band]),
            at=[at for _, at in band],
            colour=None if name == FORECAST else 0,
        )
        for name, band in named
        if band
    ]


def _marks(record: Record, seen: RunView) -> list[Mark]:
    """Where attempts began and why they ended, checkpoints and evaluations."""
    from patron_core.ui.plot.lines import Mark

    reasons = {a.id: a.reason for a in seen.attempts if a.kind == "train"}
    starts = record.marks("start")
    marks = []
    for before, start in itertools.pairwise(starts):
        reason = reasons.get(before.attempt) if before.attempt != start.attempt else None
        why = f"{show.plain(reason.value)}; " if reason else ""
        step = back_to(start)
        words = f"{why}resumed at step {step:,}" if step > 0 else f"{why}began from scratch"
        marks.append(Mark(step=max(0, step), words=words, kind="trouble" if reason in TROUBLE else "event"))
    last = reasons.get(starts[-1].attempt) if starts else None
    if last in TROUBLE and last is not None:
        marks.append(Mark(step=seen.step, words=show.plain(last.value), kind="trouble"))
    saved = [event.step or 0 for event in record.marks("checkpoint")][-MAX_TICKS:]
    evaluated = record.columns("val/bpb")[0][-MAX_TICKS:].tolist()
    marks += [Mark(step=step, words=f"checkpoint of step {step:,}", kind="tick") for step in saved]
    return [*marks, *(Mark(step=at, words=f"evaluation at step {at:,.0f}", kind="dot") for at in evaluated)]


def logged_rows(logged: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What foreign code says of itself: its params and tags, and its artifacts with their sizes."""
    sizes = {name: show.size(num_bytes) for name, num_bytes in logged.get("artifacts", {}).items()}
    return [(name, str(value)) for part in ("params", "tags") for name, value in logged.get(part, {}).items()] + [
        *sizes.items()
    ]
