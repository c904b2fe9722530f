"""Numbers in words, and tables: one description of the columns for the terminal and for the notebook. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from patron_core.interval import Interval, duration
from patron_core.lifecycle.evidence import words
from patron_core.money import format_usd
from patron_core.states import why
from patron_core.ui import inert
from patron_core.ui.inert import Html
from patron_core.ui.pages import page as page
from trainer.contract.words import REPLACEMENT, is_hidden

if TYPE_CHECKING:
    from patron_core.verbs import Comparison, RunView

Tone = Literal["", "good", "warn", "bad", "live", "quiet"]

TONE_OF: dict[str, Tone] = {
    "succeeded": "good",
    "pass": "good",
    "fail": "bad",
    "unknown": "warn",
    "running": "live",
    "launching": "live",
    "dryrun": "live",
    "recovering": "warn",
    "paused": "warn",
    "awaiting_funding": "warn",
    "funded": "warn",
    "failed": "bad",
    "cancelled": "quiet",
    "draft": "quiet",
    "sweet_spot": "good",
    "undersized": "live",
    "too_small": "quiet",
    "over_budget": "bad",
    "out_of_memory": "bad",
    "no_budget": "quiet",
    "finished": "good",
    "reclaimed": "warn",
    "off_forecast": "warn",
    "stuck": "warn",
    "approval_wanted": "warn",
    "diverged": "bad",
    "test": "quiet",
}
# grounds of pills: white is read on each with a contrast of 4.5 and more, whatever the theme of the page is
PILLS: dict[Tone, str] = {
    "good": "#27734c",
    "warn": "#8a5a06",
    "bad": "#b32828",
    "live": "#2563a8",
    "quiet": "#5d6878",
}
QUIET = "opacity:0.75"  # of a word that steps back: the theme's own ink, so that light, dark and projector all read it
DASH = "–"
_VISIBLE = {"\n": "⏎", "\t": "⇥"}


_TABLE_STYLE = "border-collapse:collapse;font-size:0.875rem;font-variant-numeric:tabular-nums"
_CELL_STYLE = (
    "vertical-align:top;padding:0.35rem 0.75rem 0.35rem 0;white-space:nowrap;border-bottom:1px solid #a0aec033"
)


@dataclass(frozen=True)
class Mark:
    """A cell with more than text: a coloured pill, a link."""

    text: str
    tone: Tone = ""
    href: str | None = None


@dataclass(frozen=True)
class Column:
    title: str
    cell: Callable[[Any], str | Mark]
    align: Literal["left", "right"] = "right"
    wraps: bool = False  # words that may take several lines; all else stands on one


def mark(word: str) -> Mark:
    """A state or a verdict as a pill in its colour."""
    return Mark(word.replace("_", " "), TONE_OF.get(word, ""))


def text_table(rows: Iterable[Any], columns: Sequence[Column]) -> str:
    """Aligned columns for a terminal."""
    cells = [[column.title for column in columns]]
    cells += [[_plain(column.cell(row)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            text.rjust(width) if column.align == "right" else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def html_table(rows: Iterable[Any], columns: Sequence[Column], *, empty: str = "Nothing yet.") -> str:
    """The same for a notebook: numbers aligned, pills coloured, no script, every word inert."""
    body = inert.joined(
        inert.html("<tr>{}</tr>", inert.joined(_td(_cell_style(c), c.cell(row)) for c in columns)) for row in rows
    )
    if not body:
        return inert.page(inert.html("<p style='{}'>{}</p>", QUIET, empty))
    style = f";font-weight:600;{QUIET};border-bottom:2px solid #a0aec0"
    head = inert.joined(inert.html("<th style='{}'>{}</th>", _cell_style(c) + style, c.title) for c in columns)
    table = inert.html(
        "<table style='{}'><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", _TABLE_STYLE, head, body
    )
    return inert.page(inert.html("<div style='overflow-x:auto'>{}</div>", table))


def facts_table(pairs: Iterable[tuple[str, str | Mark]]) -> str:
    """Names and values, one pair a line."""
    style = f"text-align:left;{_CELL_STYLE}"
    body = inert.joined(
        inert.html("<tr>{}{}</tr>", _td(f"{style};{QUIET}", name), _td(style, value)) for name, value in pairs
    )
    return inert.page(inert.html("<table style='{}'>{}</table>", _TABLE_STYLE, body))


def html_cell(cell: str | Mark) -> str:
    """One cell alone, for marimo's own table."""
    return inert.page(_rich(cell))


def _td(style: str, cell: str | Mark) -> Html:
    return inert.html("<td style='{}'>{}</td>", style, _rich(cell))


def _cell_style(column: Column) -> str:
    wraps = ";white-space:normal;overflow-wrap:anywhere;min-width:12rem" if column.wraps else ""
    return f"text-align:{column.align};{_CELL_STYLE}{wraps}"


def _plain(cell: str | Mark) -> str:
    return one_line(cell.text if isinstance(cell, Mark) else cell, inert.MAX_CHARS)


def _rich(cell: str | Mark) -> Html:
    if isinstance(cell, str):
        return inert.html("{}", cell)
    text = inert.html("{}", cell.text)
    if cell.tone:
        text = inert.html(
            "<span style='color:#fff;background:{0};border-radius:0.6rem;padding:0.1rem 0.55rem;"
            "font-weight:600;white-space:nowrap'>{1}</span>",
            PILLS[cell.tone],
            text,
        )
    return inert.html("<a href='{}' target='_self'>{}</a>", inert.address(cell.href), text) if cell.href else text


# --- numbers in words ---------------------------------------------------------------------------------------------


def seconds(value: float | None) -> str:
    """ "0.42 s", "38 s", "12 min", "3.4 h", "4.5 days"."""
    if value is None:
        return DASH
    if value < 0.01:
        return f"{1000 * value:.1f} ms"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if 100 <= value < 600 else duration(value)


def count(value: float | None) -> str:
    """ "1.2 k", "86 M", "1.5 B"."""
    if value is None:
        return DASH
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            digits = float(f"{value / unit:.3g}")
            return f"{digits:g} {letter}"
    return f"{value:.0f}"


def size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return DASH
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} B"


def flops(value: float) -> str:
    exponent = f"{value:.1e}".split("e")
    return f"{exponent[0]}e{int(exponent[1])}"


def usd(usd_micros: int | None) -> str:
    """Cents, or three digits of a smaller amount; the exact figure is in the JSON."""
    if usd_micros is None:
        return DASH
    if 0 < usd_micros < 100_000:
        usd_micros = int(float(f"{usd_micros:.3g}"))
    return format_usd(usd_micros)


def bpb(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def percent(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return DASH
    return f"{value:+.1%}" if signed else f"{value:.1%}"


def between(interval: Interval | tuple[float, float, float] | dict[str, Any], word: Callable[[Any], str]) -> str:
    """ "0.912 (0.873 to 0.953)"; a unit that all three share is written once: "13 min (9 to 23)"."""
    values = (interval[key] for key in ("low", "mid", "high")) if isinstance(interval, dict) else interval
    low, mid, high = map(word, values)
    unit = mid.rpartition(" ")[2]
    if " " in mid and low.endswith(f" {unit}") and high.endswith(f" {unit}"):
        low, high = low.removesuffix(f" {unit}"), high.removesuffix(f" {unit}")
    return f"{mid} ({low} to {high})"


def moment(unix_s: float | None) -> str:
    """The time here, to the minute."""
    return DASH if unix_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def yes_no(value: Any) -> str:
    """What a report says, for people: a truth, a number, a word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def one_line(text: str, max_chars: int) -> str:
    """Text in a cell: line ends and tabs are shown, what is too long is cut."""
    line = "".join(_VISIBLE.get(char, REPLACEMENT if is_hidden(char) else char) for char in text)
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def plain(words: str) -> str:
    """awaiting_funding -> awaiting funding."""
    return words.replace("_", " ")


# --- what several notebooks show ------------------------------------------------------------------------------------


def attempt_columns() -> list[Column]:
    return [
        Column("attempt", lambda a: a.id.split("-", 1)[-1], "left"),
        Column("state", lambda a: plain(a.state), "left"),
        Column("started", lambda a: moment(a.started_at), "left"),
        Column("machine time", lambda a: seconds(a.charged_s)),
        Column("charged", lambda a: usd(a.charged_usd_micros)),
        Column("an hour", lambda a: usd(a.usd_micros_per_hour)),
        Column("exit", lambda a: DASH if a.exit_code is None else str(a.exit_code)),
        Column("why it ended", lambda a: why(a.reason, a.evidence) if a.reason else DASH, "left", wraps=True),
        Column("evidence", lambda a: words(a.evidence, a.exit_code) or DASH, "left", wraps=True),
    ]


def sample_columns() -> list[Column]:
    return [
        Column("prompt", lambda s: one_line(s.prompt, 40), "left"),
        Column("what the model made of it", lambda s: one_line(s.text, 110), "left", wraps=True),
        Column("ended by", lambda s: s.end, "left"),
    ]


def progress_line(seen: RunView) -> str:
    """One run, now, in one line."""
    parts = [f"{seen.run.name} {plain(seen.run.state.value)}"]
    if seen.num_steps and seen.run.state.value != "dryrun":
        parts.append(f"step {seen.step:,} of {seen.num_steps:,}")
    elif seen.phase:
        parts.append(seen.phase)
    if "train/loss" in seen.metrics:
        parts.append(f"loss {seen.metrics['train/loss']:.3f}")
    if seen.val_bpb is not None:
        parts.append(f"val_bpb {seen.val_bpb:.3f}")
    parts.append(f"{usd(seen.money.charged_usd_micros)} of {usd(seen.money.funded_usd_micros)}")
    if seen.eta_s is not None:
        parts.append(f"{seconds(seen.eta_s)} left")
    if seen.place:
        parts.append(seen.place)
    return " | ".join(parts)


def comparison_columns(link: Callable[[str], str | None] = lambda run: None) -> list[Column]:
    """Prediction beside outcome. `link` makes the address of a run."""
    return [
        Column("run", lambda r: Mark(r.name, href=link(r.run)), "left"),
        Column("state", lambda r: mark(r.state), "left"),
        Column("depth", lambda r: r.workload if r.depth is None else str(r.depth)),
        Column("params", lambda r: count(r.num_params_scaling)),
        Column("tokens", lambda r: count(r.train_tokens)),
        Column("predicted bpb", lambda r: _predicted(r)),
        Column("val_bpb", lambda r: bpb(r.val_bpb)),
        Column("bpb error", lambda r: percent(r.bpb_error, signed=True)),
        Column("predicted time", lambda r: seconds(r.predicted_wall_s)),
        Column("time", lambda r: seconds(r.wall_s) if r.wall_s else DASH),
        Column("time error", lambda r: percent(r.wall_error, signed=True)),
        Column("predicted cost", lambda r: usd(r.predicted_usd_micros)),
        Column("cost", lambda r: usd(r.train_usd_micros) if r.train_usd_micros else DASH),
        Column("cost error", lambda r: percent(r.cost_error, signed=True)),
    ]


def _predicted(row: Comparison) -> str:
    if row.predicted_bpb is None:
        return DASH
    return f"{bpb(row.predicted_bpb)} ({bpb(row.predicted_bpb_low)} to {bpb(row.predicted_bpb_high)})"
