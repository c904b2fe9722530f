"""Forecasts: what runs were said to need and to reach, beside what they did; how often the interval held.

patron forecasts                                 every run that finished, in all projects
patron forecasts --by device --json
marimo run notebooks/7_forecasts.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="full", app_title="Patron: forecasts")

with app.setup(hide_code=True):
    from typing import Literal

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import show, tables
    from patron_core.ui.script import Arguments, open_session


@app.cell(hide_code=True)
def title():
    session = open_session(
        ForecastsArguments,
        mode=mo.app_meta().mode,
        file=__file__,
        description="Predicted against actual: seconds, bytes, dollars and bits per byte, with coverage and bias.",
    )
    args = session.args
    mo.md(
        """
        # Forecasts

        What every finished run was said to need and to reach, beside what it did. Nine in ten should lie inside.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class ForecastsArguments(Arguments):
    project: str = Field(default="", description="only runs of this project; without it all")
    by: Literal["device", "corpus"] | None = Field(default=None, description="a row for each device, or corpus")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    return (store,)


@app.cell(hide_code=True)
def choose(args, session):
    by = mo.ui.dropdown(
        {"all together": "", "by device": "device", "by corpus": "corpus"},
        value={"device": "by device", "corpus": "by corpus"}.get(args.by, "all together"),
        label="Rows",
    )
    None if session.is_script else by
    return (by,)


@app.cell(hide_code=True)
def look(args, session, store):
    outcome = session.call(verbs.forecasts, store, project=args.project or None)
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    found = outcome.value
    return (found,)


@app.cell(hide_code=True)
def summary(by, found):
    rows = verbs.accuracy(found, by=by.value or None)
    mo.Html(show.html_table(rows, tables.accuracy(), empty="No run has finished yet. Start with: patron search"))
    return (rows,)


@app.cell(hide_code=True)
def each(found, session):
    mo.stop(session.is_script or not found)
    mo.vstack(
        [mo.md("## Each forecast, the newest first"), mo.Html(show.html_table(found[::-1][:200], tables.forecasts()))]
    )
    return


@app.cell(hide_code=True)
def answer(found, rows, session):
    _none = "No run has finished yet. Start with: patron search"
    session.emit(
        {"accuracy": [row.to_dict() for row in rows], "forecasts": [row.to_dict() for row in found]},
        show.text_table(rows, tables.accuracy()) if rows else _none,
    )
    return


if __name__ == "__main__":
    app.run()
