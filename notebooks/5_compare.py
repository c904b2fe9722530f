"""Compare: runs side by side, what was predicted against what came out, and the loss law they add up to.

patron compare                          every run of the project that finished
patron compare --runs A,B --json
marimo run notebooks/5_compare.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="full", app_title="Patron: compare")

with app.setup:
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import charts, inert, show
    from patron_core.ui.script import Arguments, open_session

    METRICS = {"val_bpb": "val/bpb", "training loss": "train/loss", "tokens per second": "train/tokens_per_s"}


@app.class_definition
class CompareArguments(Arguments):
    runs: tuple[str, ...] = Field(default=(), description="runs to compare, by id or name; else all that finished")
    project: str = Field(default="", description="project to take runs from; without it the one that has runs")


@app.cell
def title():
    session = open_session(
        CompareArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Runs side by side: prediction against outcome, and the scaling fit.",
    )
    args = session.args
    mo.md(
        """
        # Compare

        What was promised before each run was paid for, beside what came out, and the loss law that it all adds up to.
        """
    )
    return args, session


@app.cell
def lab(session):
    store = session.open_lab()
    params = mo.query_params()
    return params, store


@app.cell
def choose(args, params, session, store):
    _found = verbs.overview(store, project=verbs.project_to_show(store, args.project), limit=200)
    _words = args.runs or tuple(filter(None, (params.get("runs") or "").split(",")))
    _asked = [session.call(verbs.find_run, store, word) for word in _words]  # looked up, not believed
    _wanted = [one.value for one in _asked if not one.failed]
    _labels = {show.one_line(f"{run.name} ({run.id})", 200): run.id for run in (*_found, *_wanted)}
    _shown = {run.id for run in _wanted} or {run.id for run in [r for r in _found if r.state.value == "succeeded"][:12]}
    chosen = mo.ui.multiselect(
        _labels, value=[label for label, run_id in _labels.items() if run_id in _shown], label="Runs", full_width=True
    )
    _missing = [mo.callout(mo.md(one.error_markdown()), kind="warn") for one in _asked if one.failed]
    metric = mo.ui.dropdown(list(METRICS), value="val_bpb", label="Curve")
    None if session.is_script else mo.vstack([chosen, metric, *_missing])
    return chosen, metric


@app.cell
def compare(chosen, session, store):
    outcome = session.call(verbs.compare, store, chosen.value)
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    rows = outcome.value
    return (rows,)


@app.cell
def table(params, rows):
    columns = show.comparison_columns(lambda run: show.page(params, "4_watch", run=run))
    mo.Html(show.html_table(rows, columns, empty="No run has finished yet. Start with: patron search"))
    return (columns,)


@app.cell
def outcomes(rows, session):
    mo.stop(session.is_script or not rows)
    charts.outcome_chart(rows)
    return


@app.cell
def curves(chosen, metric, rows, session, store):
    mo.stop(session.is_script or not rows)
    _frames = {row.name: verbs.curves(store, row.run) for row in rows}
    charts.compare_chart(_frames, METRICS[metric.value], title=metric.value)
    return


@app.cell
def law(rows, session, store):
    _specs = [verbs.view(store, row.run).run.spec for row in rows]
    corpus = min((str(spec["data"]) for spec in _specs if "data" in spec), default="stdlib")  # foreign code has none
    fit = session.call(verbs.scaling_fit, store, corpus).value
    advice = verbs.where_next(fit, rows)
    return advice, corpus, fit


@app.cell
def scaling(advice, corpus, fit, session):
    _shape = fit.coefficients
    _words = f"bpb = {_shape['E']:.3f} + {_shape['A']:.3g} / N^{_shape['alpha']:.3f} + {_shape['B']:.3g} / D^{_shape['beta']:.3f}"
    mo.stop(session.is_script)
    mo.vstack(
        [
            mo.md(
                inert.md(
                    "## Where next\n\n{}\n\nThe law of *{}*, from {}: {}",
                    advice,
                    corpus,
                    fit.source,
                    inert.code(_words),
                )
            ),
            charts.scaling_chart(fit),
        ]
    )
    return


@app.cell
def answer(advice, columns, fit, rows, session):
    session.emit(
        {"runs": [row.to_dict() for row in rows], "fit": fit.to_dict(), "where_next": advice},
        "\n".join([show.text_table(rows, columns), "", advice]),
    )
    return


if __name__ == "__main__":
    app.run()
