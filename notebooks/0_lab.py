"""Lab: the runs that wait for you, the money, and whether the books add up.

patron lab --json
marimo run notebooks/0_lab.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: lab")

with app.setup:
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import charts, inert, show, tables
    from patron_core.ui.script import Arguments, Usd, open_session


@app.class_definition
class LabArguments(Arguments):
    project: str = Field(default="", description="project to show; without it the one that has runs")
    limit: int = Field(default=50, ge=1, le=10000, description="runs to show at most")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet; needs --yes")
    withdraw: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to take back from the wallet; needs --yes")
    key: str = Field(default="", description="idempotency key: the same key deposits or withdraws once")
    write_off: str = Field(default="", description="a run whose machine is lost: end it, free its money; needs --yes")
    yes: bool = Field(default=False, description="confirm the deposit, the withdrawal or the write-off")


@app.cell
def title():
    session = open_session(
        LabArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="The lab at a glance: runs, money, and whether the books add up.",
    )
    args = session.args
    mo.md(
        """
        # Lab

        Your runs and your money at a glance. What waits for a decision comes first.
        """
    )
    return args, session


@app.cell
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    key = session.key
    get_pressed, set_pressed = mo.state(0)
    return actor, get_pressed, key, params, set_pressed, store


@app.cell
def choose(args, params, session, store):
    _asked = args.project or (verbs.DEFAULT_PROJECT if args.deposit else "")  # money goes where it always did
    _first = verbs.project_to_show(store, _asked)
    _known = {*verbs.lab(store).projects, _first}
    _wanted = params.get("project")
    _value = _wanted if _wanted in _known else _first  # an address names a project, it makes none
    _names = {show.one_line(name, 100): name for name in sorted(_known)}
    project = mo.ui.dropdown(
        _names,
        value=show.one_line(_value, 100),
        label="Project",
        on_change=lambda name: params.set("project", name),
    )
    ticker = mo.ui.refresh(options=["5s", "60s"], default_interval="5s")
    None if session.is_script else mo.hstack([project, ticker], justify="start", gap=1.5)
    return project, ticker


@app.cell
def move_money_as_script(actor, args, key, project, session, store):
    _wishes = [(verbs.deposit, args.deposit, "a deposit of {} authorises spending")]
    _wishes += [(verbs.withdraw, args.withdraw, "a withdrawal of {} takes it back")]
    for _verb, _dollars, _what in _wishes:
        if session.is_script and _dollars:
            _micros = verbs.from_usd(_dollars)
            session.confirm(args.yes, _what.format(show.usd(_micros)), "--yes")
            session.call(
                _verb,
                store,
                project=project.value,
                usd_micros=_micros,
                key=f"{_verb.__name__}:{key}",
                actor=actor,
            )
    if session.is_script and args.write_off:
        session.confirm(args.yes, f"the write-off of run {args.write_off}", "--yes")
        session.call(verbs.write_off, store, args.write_off, actor=actor)
    acted = True
    return (acted,)


@app.cell
def look(acted, args, get_pressed, project, session, store, ticker):
    acted, get_pressed(), ticker
    outcome = session.call(verbs.lab, store, project.value, limit=args.limit)
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    found = outcome.value
    return (found,)


@app.cell
def money(found):
    _wallet = found.wallet
    _stats = [
        ("Available", show.usd(_wallet.available_usd_micros), "to be held by new runs"),
        ("Held", show.usd(_wallet.held_usd_micros), "for runs under way"),
        ("Spent", show.usd(_wallet.spent_usd_micros), f"of {show.usd(_wallet.deposited_usd_micros)} deposited"),
        ("Burning", f"{show.usd(found.burn_usd_micros_per_hour)}/h", "all live attempts together"),
    ]
    _books = (
        mo.md("Every transfer of the ledger adds up.")
        if not found.problems
        else mo.callout(mo.md(inert.bullets(found.problems)), kind="danger")
    )
    _late = [mo.callout(mo.md(inert.bullets(lag.sentence for lag in found.late)), kind="warn")] if found.late else []
    mo.vstack(
        [
            mo.hstack([mo.stat(v, label=k, caption=c, bordered=True) for k, v, c in _stats], widths="equal"),
            *_late,
            _books,
        ]
    )
    return


@app.cell
def columns(found, params):
    table = tables.runs(found.money, lambda notebook, run_id: show.page(params, notebook, run=run_id), found.whose)
    return (table,)


@app.cell
def attention(found, table):
    mo.vstack(
        [
            mo.md("## Waiting for you"),
            mo.Html(show.html_table(found.attention, table, empty="Nothing waits for a decision.")),
        ]
    )
    return


@app.cell
def approvals(found):
    mo.stop(not found.approvals)
    mo.vstack([mo.md("## Asked of you"), mo.Html(show.html_table(found.approvals, tables.approvals()))])
    return


@app.cell
def runs(found, session, table):
    _start = "No run yet. Start with: patron search, or estimate one: patron estimate"
    session.emit(
        found.to_dict(),
        "\n".join(
            [
                f"{found.project}: {show.usd(found.wallet.available_usd_micros)} available, "
                f"{show.usd(found.wallet.held_usd_micros)} held, {show.usd(found.wallet.spent_usd_micros)} spent, "
                f"burning {show.usd(found.burn_usd_micros_per_hour)} an hour",
                "",
                show.text_table(found.runs, table) if found.runs else _start,
                *(lag.sentence for lag in found.late),
                *found.problems,
            ]
        ),
    )
    mo.vstack(
        [mo.md("## Runs"), mo.Html(show.html_table(found.runs, table)) if found.runs else mo.md(inert.md("{}", _start))]
    )
    return


@app.cell
def statement(found, session):
    _parts = [mo.md("## Statement")]
    if found.statement and not session.is_script:
        _parts.append(charts.wallet_chart(found.statement))
    _parts.append(mo.Html(show.html_table(found.statement[:12], tables.statement(), empty="No money has moved yet.")))
    mo.vstack(_parts)
    return


@app.cell
def deposit(actor, get_pressed, key, project, session, set_pressed, store):
    def pay(value):
        if value:
            session.call(
                verbs.deposit,
                store,
                project=project.value,
                usd_micros=verbs.from_usd(value),
                key=f"deposit:{key}:{get_pressed()}",
                actor=actor,
            )
            set_pressed(get_pressed() + 1)

    _form = mo.ui.number(0, 1e6, value=0, step=0.01, label="Dollars to authorise").form(
        submit_button_label="Deposit", on_change=pay
    )
    None if session.is_script else _form
    return


if __name__ == "__main__":
    app.run()
