"""A report as one HTML file that asks nobody for anything: no script, no font, no picture from elsewhere. Pure.

It is read by those who were not there, years later, offline, on paper: light, dark and print have a look of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from patron_core.ui import inert, report_chart, show, tables, theme
from patron_core.ui.inert import Html
from patron_core.ui.show import Column, Mark

if TYPE_CHECKING:
    from patron_core.store.records import Note
    from patron_core.verbs import RunReport, SearchReportOfRuns

# no quote, no < and no >: it is put in as words are
_STYLE = (
    theme.css()
    + """
* { box-sizing: border-box }
body { margin: 0; background: var(--p-paper); color: var(--p-ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
p { margin: .4rem 0 .8rem } .quiet { color: var(--p-quiet); font-size: .9rem }
.verdict { background: var(--p-card); border-left: 4px solid var(--p-accent); padding: .7rem 1rem;
  border-radius: .3rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
td, th { text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--p-line);
  vertical-align: top }
th { color: var(--p-quiet); font-weight: 600 } td.number, th.number { text-align: right; white-space: nowrap }
.good { color: var(--p-good) } .warn { color: var(--p-warn) }
.bad { color: var(--p-bad) } .live { color: var(--p-live) }
.mark { font-weight: 600; white-space: nowrap }
code, pre { font: .88rem/1.5 ui-monospace, monospace } pre { background: var(--p-card); padding: .8rem 1rem;
  border-radius: .3rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 }
article { border-left: 3px solid var(--p-line); padding: .1rem 0 .1rem 1rem; margin: 1rem 0 }
svg { max-width: 100%; height: auto } svg text { fill: var(--p-quiet); font: 12px system-ui, sans-serif }
.axis { stroke: var(--p-line) } .curve { stroke: var(--p-accent); fill: none; stroke-width: 1.8 }
.dot { fill: var(--p-accent) } .band { fill: var(--p-second); opacity: .3 }
.expected { stroke: var(--p-second); stroke-width: 2 }
.mark-line { stroke: var(--p-quiet); stroke-dasharray: 3 4; opacity: .7 }
@media print { main { max-width: none; padding: 0 } h2 { break-after: avoid }
  tr, article, svg { break-inside: avoid } }
"""
)


def of_run(report: RunReport) -> str:
    """The whole page of a run."""
    seen, row = report.seen, report.comparison
    parts = [
        _verdict(report.verdict),
        _section("Question", inert.html("<p>{}</p>", report.question), _notes(report.notes, "hypothesis")),
        _section("Forecast and outcome", _forecast(report)),
        _section("Curves", *_charts(report)),
        _section("Attempts", _table(seen.attempts, show.attempt_columns(), empty="Nothing was launched yet.")),
        _section(
            "Money",
            _facts(_money(report)),
            _table(
                report.statement, tables.statement({report.seen.run.id: report.seen.run.name}), empty="None has moved."
            ),
        ),
        _section("What the model says", _table(seen.samples, show.sample_columns()))
        if seen.samples
        else inert.html(""),
        _section("Notes", _notes(report.notes), empty="Nobody wrote a note about it."),
        _section("Make it again", *(inert.html("<pre>{}</pre>", command) for command in report.commands)),
        _section("Spec and environment", _facts(_provenance(report))),
    ]
    state = _mark(show.mark(seen.run.state.value))
    what = row.workload if row.depth is None else f"depth {row.depth}"
    under = inert.html("{} · {} · {}", state, seen.run.project, what)
    return _page(report.title, under, parts, report.lab, report.made_at, seen.run.id)


def of_search(report: SearchReportOfRuns) -> str:
    """The whole page of a search or a sweep."""
    decided = inert.joined(inert.html("<li>{}</li>", one.get("sentence", "")) for one in report.search.decisions)
    parts = [
        _verdict(report.verdict),
        _section("Question", inert.html("<p>{}</p>", report.question), _notes(report.notes, "hypothesis")),
        _section("What was decided, in order", inert.html("<ol>{}</ol>", decided) if decided else inert.html("")),
        _section("Forecast and outcome", _table(report.rows, show.comparison_columns(), empty="No run was made.")),
        _section("Notes", _notes(report.notes), empty="Nobody wrote a note about it."),
        _section("Ask it again", *(inert.html("<pre>{}</pre>", command) for command in report.commands)),
    ]
    under = inert.html("{} · {} · {} runs", report.search.state, report.search.project, f"{len(report.rows):,}")
    return _page(report.title, under, parts, report.lab, report.made_at, report.search.id)


def file_name(title: str, its_id: str) -> str:
    """Of a report: its title in plain letters, and its id."""
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in title)[:60].strip("-")
    return f"{plain or 'report'}-{its_id}.html"


def _page(title: str, under: Html, parts: Iterable[Html], lab: str, made_at: float, its_id: str) -> str:
    head = inert.html("<title>{}</title><style>{}</style>", title, _style())
    foot = inert.html(
        "<p class='quiet'>Patron lab {}, {}, as of {}. Times are those of the machine that wrote this.</p>",
        lab,
        its_id,
        show.moment(made_at),
    )
    return inert.page(
        inert.html(
            "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
            "<meta http-equiv='content-security-policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            "{}<main><h1>{}</h1><p class='quiet'>{}</p>{}{}</main></html>\n",
            head,
            title,
            under,
            inert.joined(parts),
            foot,
        )
    )


def _style() -> Html:
    return inert.joined(inert.html("{}\n", line) for line in _STYLE.splitlines())


def _section(title: str, *content: Html, empty: str = "") -> Html:
    body = inert.joined(content) or (inert.html("<p class='quiet'>{}</p>", empty) if empty else inert.html(""))
    return inert.html("<section><h2>{}</h2>{}</section>", title, body) if body else inert.html("")


def _verdict(sentences: Sequence[str]) -> Html:
    return inert.html("<div class='verdict'>{}</div>", inert.joined(inert.html("<p>{}</p>", one) for one in sentences))


def _forecast(report: RunReport) -> Html:
    if report.forecasts:
        columns = [column for column in tables.forecasts() if column.title not in ("run", "device", "corpus", "depth")]
        return _table(report.forecasts, columns)
    row = report.comparison
    said: list[tuple[str, str | Mark]] = []
    if row.predicted_bpb is not None:
        interval = (row.predicted_bpb_low or 0.0, row.predicted_bpb, row.predicted_bpb_high or 0.0)
        said.append(("val_bpb expected", show.between(interval, show.bpb)))
    said.append(("machine time expected", show.seconds(row.predicted_wall_s)))
    said.append(("cost expected", show.usd(row.predicted_usd_micros)))
    outcome = [("val_bpb so far", show.bpb(report.seen.val_bpb)), ("machine time so far", show.seconds(row.wall_s))]
    return _facts([*said, *outcome])


def _charts(report: RunReport) -> Iterable[Html]:
    row = report.comparison
    starts = [attempt.started_at for attempt in report.seen.attempts if attempt.kind == "train" and attempt.started_at]
    densest = max(report.curves.values(), key=len, default=[])
    resumed = _steps_at(densest, starts[1:]) if densest else []
    for name, points in report.curves.items():
        is_bpb = name == "val_bpb" and row.predicted_bpb is not None
        band = (row.predicted_bpb_low or 0.0, row.predicted_bpb or 0.0, row.predicted_bpb_high or 0.0)
        total = report.num_points[name]
        yield report_chart.line(
            points,
            title=name if total == len(points) else f"{name}: {len(points):,} of {total:,} points, all extremes kept",
            num_steps=report.seen.num_steps,
            expected=band if is_bpb else None,
            resumed_steps=resumed,
        )


def _steps_at(points: Sequence[tuple[int, float, float]], moments: Sequence[float]) -> list[int]:
    """The step that came first after each moment: where another attempt went on."""
    return [next((step for step, _, at in points if at >= moment), points[-1][0]) for moment in moments]


def _money(report: RunReport) -> list[tuple[str, str | Mark]]:
    money = report.seen.money
    by_kind = [(f"of it {kind}", show.usd(usd)) for kind, usd in sorted(money.by_kind_usd_micros.items()) if usd]
    return [
        ("held for it in all", show.usd(money.funded_usd_micros)),
        ("charged", show.usd(money.charged_usd_micros)),
        *by_kind,
        ("given back", show.usd(money.released_usd_micros)),
        ("still held", show.usd(money.held_usd_micros)),
    ]


def _provenance(report: RunReport) -> list[tuple[str, str | Mark]]:
    run = report.seen.run
    known = [(f"{name}", f"{value}") for name, value in run.spec.items() if value is not None]
    around = [(name, show.one_line(str(value), 160)) for name, value in sorted(report.environment.items())]
    return [("run", run.id), ("spec hash", run.spec_hash), ("run directory", run.run_dir), *known, *around]


def _notes(found: Iterable[Note], kind: str = "") -> Html:
    return inert.joined(
        inert.html(
            "<article><p class='quiet'>{}, {}, {}{}</p>{}{}</article>",
            note.kind,
            note.actor,
            show.moment(note.updated_at),
            f", revision {note.revision}" if note.revision > 1 else "",
            inert.html("<strong>{}</strong>", note.title) if note.title else inert.html(""),
            inert.rendered(note.body),
        )
        for note in found
        if (note.kind == kind if kind else note.kind != "hypothesis")
    )


def _table(rows: Iterable[Any], columns: Sequence[Column], *, empty: str = "Nothing.") -> Html:
    """Every cell inert, colours by class, so that each theme has its own."""
    body = inert.joined(
        inert.html(
            "<tr>{}</tr>",
            inert.joined(
                inert.html("<td class='{}'>{}</td>", _class_of(column), _mark(column.cell(row))) for column in columns
            ),
        )
        for row in rows
    )
    if not body:
        return inert.html("<p class='quiet'>{}</p>", empty)
    head = inert.joined(inert.html("<th class='{}'>{}</th>", _class_of(column), column.title) for column in columns)
    return inert.html("<div class='wide'><table><tr>{}</tr>{}</table></div>", head, body)


def _facts(pairs: Iterable[tuple[str, str | Mark]]) -> Html:
    lines = inert.joined(inert.html("<tr><th>{}</th><td>{}</td></tr>", name, _mark(value)) for name, value in pairs)
    return inert.html("<div class='wide'><table>{}</table></div>", lines)


def _class_of(column: Column) -> str:
    return "number" if column.align == "right" else ""


def _mark(cell: str | Mark) -> Html:
    """A report leads nowhere: no links."""
    if isinstance(cell, str):
        return inert.html("{}", cell)
    return (
        inert.html("<span class='mark {}'>{}</span>", cell.tone, cell.text)
        if cell.tone
        else inert.html("{}", cell.text)
    )
