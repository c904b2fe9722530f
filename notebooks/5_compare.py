"""Compare: runs side by side, what was predicted against what came out, what differs, and the loss law.

patron compare                          the newest that finished, of the project that has runs
patron compare --runs A,B --json
patron compare --project all --tag lr-study --limit 100
marimo run notebooks/5_compare.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="full", app_title="Patron: compare")

with app.setup(hide_code=True):
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import charts, compare_charts, inert, onward, run_panels, run_table, show, tables
    from patron_core.ui.script import Arguments, open_session

    ALL = "all"  # every project
    MOST_DRAWN = 24  # runs in one chart: more cover each other


@app.cell(hide_code=True)
def title():
    session = open_session(
        CompareArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Runs side by side: prediction against outcome, what differs, and the scaling fit.",
    )
    args = session.args
    mo.md(
        """
        # Compare

        What was promised before each run was paid for, beside what came out; what a minute and a dollar bought; and
        whether a difference is larger than the noise of seeds.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class CompareArguments(Arguments):
    runs: tuple[str, ...] = Field(default=(), description="runs to compare, by id or name; else all that finished")
    project: str = Field(default="", description="project to take runs from, all for every one; else the one with runs")
    tag: str = Field(default="", description="only runs with this tag")
    limit: int = Field(default=12, ge=1, le=10000, description="finished runs to compare at most, where none are named")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    params = mo.query_params()
    return params, store


@app.cell(hide_code=True)
def choose_project(args, params, session, store):
    _first = args.project or params.get("project") or verbs.project_to_show(store)
    _names = {ALL: ALL, **{show.one_line(name, 100): name for name in verbs.projects(store)}}
    _value = _first if _first in _names.values() else ALL
    project = mo.ui.dropdown(_names, value=show.one_line(_value, 100), label="Project")
    _none = mo.md(inert.paragraphs([onward.no_such_project(params, _names.values(), shown=_value)]))
    None if session.is_script else mo.vstack([_none, project])
    return (project,)


@app.cell(hide_code=True)
def candidates(args, params, project, session, store):
    _words = args.runs or tuple(filter(None, (params.get("runs") or "").split(",")))
    _asked = [session.call(verbs.find_run, store, word) for word in _words]  # looked up, not believed
    asked = [one.value.id for one in _asked if not one.failed]
    _of = None if project.value == ALL else project.value
    total = verbs.num_runs(store, _of)
    _rows = verbs.run_table(store, project=_of)
    _more = set(asked) - {row.run.id for row in _rows}
    candidates = [*(verbs.run_table(store, ids=_more) if _more else []), *_rows]
    if args.tag:
        candidates = [row for row in candidates if args.tag in row.tags]
    _done = [row.run.id for row in candidates if row.run.state.value == "succeeded"]
    first = asked or _done[: args.limit]
    _missing = [
        mo.callout(mo.md(inert.paragraphs([onward.problem(params, one.error)])), kind="warn")
        for one in _asked
        if one.failed
    ]
    mo.vstack(_missing) if _missing else None
    return candidates, first, total


@app.cell(hide_code=True)
def choose(candidates, first, params, session, store):
    _first = set(first)
    _rows = sorted(candidates, key=lambda row: row.run.id not in _first)  # the chosen ones are seen
    chosen = (
        None
        if session.is_script
        else run_table.element(
            mo,
            _rows,
            lambda notebook, run_id: show.page(params, notebook, run=run_id),
            lambda run_id: verbs.evaluations(store, run_id),
            selected=_first,
            hidden=["pin", "held, $", "changed"],
            page_size=8,
        )
    )
    _start = onward.buttons(params, "patron search", "patron estimate")
    mo.md(inert.md("No run yet.\n\n{}", _start)) if not _rows else chosen
    return (chosen,)


@app.cell(hide_code=True)
def compare(candidates, chosen, first, session, store, total):
    _ids = first if chosen is None else chosen.value["id"].to_list()
    outcome = session.call(verbs.compare, store, _ids)
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    rows = verbs.with_distinct_names(outcome.value)
    counted = f"{len(rows):,} of {total:,} runs"
    mo.md(inert.md("## {} are compared", counted))
    return counted, rows


@app.cell(hide_code=True)
def table(params, rows):
    columns = show.comparison_columns(lambda run: show.page(params, "4_watch", run=run))
    mo.Html(show.html_table(rows, columns, empty="No run is chosen, or none has finished yet: patron search"))
    return (columns,)


@app.cell(hide_code=True)
def noise(rows):
    noise = verbs.seed_noise(rows)
    verdict = verbs.noise_sentence(noise)
    _columns = tables.sweep_groups(noise)
    mo.vstack(
        [
            mo.md(inert.md("## Is the difference real?\n\n{}", verdict)),
            mo.Html(show.html_table(noise.groups, _columns, empty="None of these runs has finished.")),
        ]
    )
    return noise, verdict


@app.cell(hide_code=True)
def what_differs(rows):
    differences = verbs.spec_differences(rows)
    _columns = tables.spec_differences(rows[:8])
    _cut = "The first 8 runs are shown." if len(rows) > 8 else ""
    mo.accordion(
        {
            inert.md("What differs: {}", ", ".join(one.field for one in differences) or "nothing"): mo.vstack(
                [
                    mo.Html(show.html_table(differences[:40], _columns, empty="They have one and the same spec.")),
                    mo.md(inert.md("{}", _cut)),
                ]
            )
        }
    )
    return (differences,)


@app.cell(hide_code=True)
def frontiers(rows):
    by_time, by_money = verbs.frontier(rows, "wall_s"), verbs.frontier(rows, "train_usd_micros")
    return by_money, by_time


@app.cell(hide_code=True)
def frontier_pictures(by_money, by_time, rows, session):
    mo.stop(session.is_script or not by_time)
    mo.hstack(
        [
            compare_charts.frontier_chart(rows, by_time, "wall_s"),
            compare_charts.frontier_chart(rows, by_money, "train_usd_micros"),
        ],
        wrap=True,
        justify="start",
    )
    return


@app.cell(hide_code=True)
def outcomes(rows, session):
    mo.stop(session.is_script or not rows)
    charts.outcome_chart(rows[:MOST_DRAWN])
    return


@app.cell(hide_code=True)
def curves(rows, session, store):
    mo.stop(session.is_script or not rows)
    _drawn = [run_panels.comparison_board({row.name: verbs.curve_series(store, row.run) for row in rows[:MOST_DRAWN]})]
    _left = len(rows) - MOST_DRAWN
    mo.vstack(
        [*_drawn, *([mo.md(inert.md("{} runs more are compared, but not drawn.", f"{_left:,}"))] if _left > 0 else [])]
    )
    return


@app.cell(hide_code=True)
def law(rows, session, store):
    corpus, of_corpus = verbs.of_one_corpus(rows)
    fit = session.call(verbs.scaling_fit, store, corpus).value
    advice = verbs.where_next(fit, of_corpus)
    return advice, corpus, fit, of_corpus


@app.cell(hide_code=True)
def scaling(advice, corpus, fit, of_corpus, rows, session):
    _shape = fit.coefficients
    _words = f"bpb = {_shape['E']:.3f} + {_shape['A']:.3g} / N^{_shape['alpha']:.3f} + {_shape['B']:.3g} / D^{_shape['beta']:.3f}"
    mo.stop(session.is_script)
    _others = len(rows) - len(of_corpus)
    _said = inert.md("\n\n{} runs of other corpora are left out of it.", _others) if _others else inert.md("")
    mo.vstack(
        [
            mo.md(
                inert.md(
                    "## Where next\n\n{}\n\nThe law of *{}*, from {}: {}{}",
                    advice,
                    corpus,
                    fit.source,
                    inert.code(_words),
                    _said,
                )
            ),
            compare_charts.law_chart(fit, of_corpus),
        ]
    )
    return


@app.cell(hide_code=True)
def way_on(params, rows, session):
    _about = f"--run {rows[0].run}" if len(rows) == 1 else ""
    _journal = onward.buttons(params, f"patron journal {_about}".strip())
    None if session.is_script else mo.md(inert.paragraphs([_journal]))
    return


@app.cell(hide_code=True)
def answer(advice, by_money, by_time, columns, counted, differences, fit, noise, rows, session, verdict):
    session.emit(
        {
            "compared": counted,
            "runs": [row.to_dict() for row in rows],
            "noise": noise.to_dict() | {"sentence": verdict},
            "spec_differences": [one.to_dict() for one in differences],
            "frontier": {"by_time": [row.run for row in by_time], "by_cost": [row.run for row in by_money]},
            "fit": fit.to_dict(),
            "where_next": advice,
        },
        "\n".join(
            [
                f"{counted} are compared:",
                show.text_table(rows, columns),
                "",
                *([show.text_table(differences, tables.spec_differences(rows[:8])), ""] if differences else []),
                verdict,
                advice,
            ]
        ),
    )
    return


if __name__ == "__main__":
    app.run()
