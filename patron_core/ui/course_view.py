"""Where a run is and where it is heading, in words: for the head of a page and for a terminal."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from patron_core.interval import Interval
from patron_core.money import format_usd, typed_usd
from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.verbs import Course, RunView, Tracked

DAY_S = 86_400.0


def bar(seen: RunView) -> inert.Html:
    """How much of its steps is done."""
    share = min(1.0, seen.step / seen.num_steps) if seen.num_steps else 0.0
    return inert.html(
        "<div style='background:#a0aec033;border-radius:4px;height:8px'>"
        "<div style='background:#2b6cb0;border-radius:4px;height:8px;width:{}%'></div></div>",
        f"{100 * share:.1f}",
    )


def progress_facts(seen: RunView, course: Course) -> list[tuple[str, str | show.Mark]]:
    """What it learns, and when it will be done."""
    steps = f"{seen.step:,} of {seen.num_steps:,}" if seen.num_steps else f"{show.DASH} ({seen.phase})"
    facts: list[tuple[str, str | show.Mark]] = [("state", show.mark(seen.run.state.value)), ("step", steps)]
    facts.append(("val_bpb", show.bpb(seen.val_bpb)))
    if course.final_bpb is not None:
        facts.append(("heading for", show.between(course.final_bpb, show.bpb)))
    if course.forecast_bpb is not None:
        facts.append(("val_bpb forecast at funding", show.between(course.forecast_bpb, show.bpb)))
    if course.ends_at is not None and course.left_s is not None:
        facts += [("ends", ends_words(course.ends_at)), ("time left", show.between(course.left_s, show.seconds))]
    saved = f"step {seen.checkpoint_step:,}" if seen.checkpoint_step is not None else show.DASH
    return [*facts, ("newest checkpoint", saved)]


def money_facts(seen: RunView, course: Course) -> list[tuple[str, str | show.Mark]]:
    """What it has cost, what it will, and what that bought."""
    money = seen.money
    facts: list[tuple[str, str | show.Mark]] = [
        ("charged", f"{show.usd(money.charged_usd_micros)} of {show.usd(money.funded_usd_micros)}"),
        ("still held", show.usd(money.held_usd_micros)),
    ]
    if course.cost_usd_micros is not None:
        facts.append(("in the end", show.between(course.cost_usd_micros, lambda micros: show.usd(round(micros)))))
    if course.forecast_usd_micros is not None:
        facts.append(
            ("cost forecast at funding", show.between(course.forecast_usd_micros, lambda m: show.usd(round(m))))
        )
    if money.released_usd_micros:
        facts.append(("released", show.usd(money.released_usd_micros)))
    if course.goodput is not None:
        facts.append(("goodput", f"{course.goodput:.0%} of paid time became training"))
    return facts


def warnings(seen: RunView, course: Course) -> list[str]:
    """What the forecasts ask to be looked at."""
    said = []
    if course.is_covered is False and course.cost_usd_micros is not None:
        high = format_usd(round(course.cost_usd_micros.high))
        said.append(f"It may need up to {high} in all; it would then pause with a checkpoint. More can be held before.")
    forecast, final = course.forecast_bpb, course.final_bpb
    if forecast is not None and final is not None and final.low > forecast.high:
        said.append(
            f"It is heading for {show.between(final, show.bpb)}, above its forecast of at most {forecast.high:.3f}"
        )
    return said


def top_up(seen: RunView, course: Course) -> str:
    """The command that holds what it may need more; empty where what is held is enough."""
    if course.is_covered is not False or course.cost_usd_micros is None:
        return ""
    has = seen.money.charged_usd_micros + seen.money.held_usd_micros
    more = 10_000 * max(1, math.ceil((course.cost_usd_micros.high - has) / 10_000))  # whole cents
    return f"patron launch --run {seen.run.id} --fund {typed_usd(more)} --yes"


def ends_words(ends_at: Interval) -> str:
    """ "14:32 (14:20 to 14:55)", here; with the day where that is another."""
    near = abs(ends_at.high - time.time()) < DAY_S / 2
    pattern = "%H:%M" if near else "%a %H:%M"
    low, mid, high = (time.strftime(pattern, time.localtime(at)) for at in ends_at)
    return mid if low == high else f"{mid} ({low} to {high})"


def mlflow_words(tracked: Tracked | None, seen: RunView) -> str:
    """How the charts stand to MLflow."""
    lag = seen.health.mirror_lag_s
    behind = f"MLflow is {show.seconds(lag)} behind the record. " if lag else ""
    if tracked is None:
        return behind + "MLflow is being read."
    if tracked.problem is not None:
        return f"{behind}{tracked.problem}"
    if tracked.read_at is None:
        return behind + "Nothing of this run is in MLflow yet."
    return (
        f"{behind}{len(tracked.series)} keys beside the record, read {max(0, time.time() - tracked.read_at):.0f} s ago."
    )
