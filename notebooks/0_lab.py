"""Lab: the runs that wait for you, the money, and whether the books add up.

patron lab --json
patron lab --tag baseline --runs A,B                     give runs a word to be found again by; --pin keeps them on top
marimo run notebooks/0_lab.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="full", app_title="Patron: lab")

with app.setup(hide_code=True):
    import itertools
    from types import SimpleNamespace

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import asked, background, charts, files, inert, lab_view, onward, run_table, show, tables
    from patron_core.ui.script import Arguments, Usd, open_session


@app.cell(hide_code=True)
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


@app.class_definition(hide_code=True)
class LabArguments(Arguments):
    project: str = Field(default="", description="project to show; without it the one that has runs")
    limit: int = Field(default=50, ge=1, le=10000, description="runs to show at most")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet; needs --yes")
    withdraw: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to take back from the wallet; needs --yes")
    key: str = Field(default="", description="idempotency key: the same key deposits or withdraws once")
    write_off: str = Field(default="", description="a run whose machine is lost: end it, free its money; needs --yes")
    yes: bool = Field(default=False, description="confirm the deposit, the withdrawal or the write-off")
    runs: tuple[str, ...] = Field(default=(), description="runs to tag, untag, pin or unpin, by id or name")
    tag: tuple[str, ...] = Field(default=(), description="give --runs these tags")
    untag: tuple[str, ...] = Field(default=(), description="take these tags from --runs")
    pin: bool = Field(default=False, description="keep --runs at the top of the table")
    unpin: bool = Field(default=False, description="no longer")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    key = session.key
    page = SimpleNamespace(presses=0, asked=None, mark=None, chosen=set())  # what it last saw, and what is selected
    page.number = itertools.count()
    get_pressed, page.set_pressed = mo.state(0)
    get_stale, page.set_stale = mo.state(None)
    get_asked, page.set_asked = mo.state([])
    get_work, page.set_work = mo.state(None)  # a press on its way
    get_came, page.set_came = mo.state(None)  # what came of the last one
    # a press is answered at once and done in a thread, after what was typed before it
    page.begin = lambda work: page.set_work(background.pressed(f"lab:{key}:{next(page.number)}", work))
    return actor, get_asked, get_came, get_pressed, get_stale, get_work, key, page, params, store


@app.cell(hide_code=True)
def choose(args, params, session, store):
    _asked = args.project or (verbs.DEFAULT_PROJECT if args.deposit else "")  # money goes where it always did
    _first = verbs.project_to_show(store, _asked)
    _known = {*verbs.lab(store).projects, _first}
    _value = params.get("project") if params.get("project") in _known else _first  # an address makes no project
    _names = {show.one_line(name, 100): name for name in sorted(_known)}
    project = mo.ui.dropdown(
        _names,
        value=show.one_line(_value, 100),
        label="Project",
        on_change=lambda name: params.set("project", name),
    )
    ticker = mo.ui.refresh(options=["5s", "60s"], default_interval="5s")
    _none = mo.md(inert.paragraphs([onward.no_such_project(params, _known, shown=_value)]))
    presses = None if session.is_script else background.presses()  # a button goes off where it is pressed
    None if session.is_script else mo.vstack([_none, mo.hstack([project, ticker, presses], justify="start", gap=1.5)])
    return presses, project, ticker


@app.cell(hide_code=True)
def act_as_script(actor, args, key, project, session, store):
    lab_view.act(session, store, args, project=project.value, key=key, actor=actor)
    acted = True
    return (acted,)


@app.cell(hide_code=True)
def look(acted, args, get_pressed, project, session, store, ticker):
    acted, get_pressed(), ticker
    outcome = session.call(verbs.lab, store, project.value, limit=args.limit)
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    found = outcome.value
    return (found,)


@app.cell(hide_code=True)
def money(found):
    _wallet = found.wallet
    _lasts = "nothing is under way" if found.money_lasts_s is None else f"pays for {show.seconds(found.money_lasts_s)}"
    _stats = [
        ("Available", show.usd(_wallet.available_usd_micros), "to be held by new runs"),
        ("Held", show.usd(_wallet.held_usd_micros), "for runs under way"),
        ("Spent", show.usd(_wallet.spent_usd_micros), f"of {show.usd(_wallet.deposited_usd_micros)} deposited"),
        ("Burning", f"{show.usd(found.burn_usd_micros_per_hour)}/h", f"all live attempts together; {_lasts}"),
    ]
    _books = (
        mo.md("Every transfer of the ledger adds up.")
        if not found.problems
        else mo.callout(mo.md(inert.bullets(found.problems)), kind="danger")
    )
    _late = [mo.callout(mo.md(inert.bullets(lab_view.late(found))), kind="warn")] if found.late else []
    _figures = mo.hstack([mo.stat(v, label=k, caption=c, bordered=True) for k, v, c in _stats], widths="equal")
    mo.vstack([_figures, *_late, _books])
    return


@app.cell(hide_code=True)
def waiting(found, params):
    _more = len(found.attention) - len(found.waiting)
    _table = tables.waiting(lambda notebook, run_id: show.page(params, notebook, run=run_id))
    _shown = mo.Html(show.html_table(found.waiting, _table, empty="Nothing waits for a decision."))
    _parts = [mo.md("## Waiting for you"), _shown]
    _parts += [mo.md(inert.md("and {} more", f"{_more:,}"))] if _more else []
    mo.vstack(_parts)
    return


@app.cell(hide_code=True)
def asked_now(found, page):
    # what is typed below survives every look that brings nothing new
    if page.asked != found.approvals:
        page.asked = found.approvals
        page.set_asked(found.approvals)
    return


@app.cell(hide_code=True)
def approvals(actor, get_asked, page, session, store):
    mo.stop(session.is_script or not get_asked())

    def decide(approval, decision, typed):
        page.begin(lambda _: asked.outcome(verbs.decide(store, approval, decision, word=typed(), actor=actor)))

    asked_rows = asked.rows(mo.ui, get_asked(), decide)
    _rows = [mo.hstack([mo.md(inert.md("{}", row.said)), *row.elements], justify="start") for row in asked_rows]
    mo.vstack([mo.md("## Asked of you"), *_rows])
    return


@app.cell(hide_code=True)
def ticking(get_work):
    beat = mo.ui.refresh(default_interval="1s")
    beat if get_work() is not None else None
    return (beat,)


@app.cell(hide_code=True)
def came(beat, get_came, get_work, page, params, presses):
    beat
    if (_came := background.came(get_work, page.set_work)) is not None:
        page.presses += 1
        page.set_came(_came)
        page.set_pressed(page.presses)
    _busy, _last = get_work() is not None, get_came()
    presses and presses.look(get_work())
    told = None
    if _busy or (_last is not None and (_last.error or _last.value)):
        _said = inert.md("Under way ...") if _busy else _last.value or onward.problem(params, _last.error)
        _kind = "info" if _busy else "danger" if _last.error else "success"
        told = mo.callout(mo.md(inert.paragraphs([_said])), kind=_kind)
    told
    return (told,)


@app.cell(hide_code=True)
def under_way(found, params):
    mo.stop(not found.live)
    _table = tables.under_way(lambda notebook, run_id: show.page(params, notebook, run=run_id))
    mo.vstack([mo.md("## Under way"), mo.Html(show.html_table(found.live, _table))])
    return


@app.cell(hide_code=True)
def answer(found, session):
    session.emit(found.to_dict(), lab_view.text(found))
    return


@app.cell(hide_code=True)
def changed(found, page):
    # the table below keeps its selection, order and page while nothing changes that it shows
    _mark = [(row.run.id, row.run.state, row.run.reason, *row.tags) for row in found.rows]
    if page.mark not in (None, _mark):
        page.set_stale(_mark)
    page.mark = _mark
    return


@app.cell(hide_code=True)
def runs(acted, get_pressed, get_stale, project, session, store):
    acted, get_pressed(), get_stale()
    mo.stop(session.is_script)
    rows = verbs.run_table(store, project=project.value)
    return (rows,)


@app.cell(hide_code=True)
def table(page, params, project, rows, store):
    _start = onward.buttons(params, "patron search", "patron estimate")
    mo.stop(not rows, mo.md(inert.md("No run yet. Ask a question, or look at what one takes.\n\n{}", _start)))
    chosen = run_table.element(
        mo,
        rows,
        lambda notebook, run_id: show.page(params, notebook, run=run_id),
        lambda run_id: verbs.evaluations(store, run_id),
        selected=page.chosen,
        hidden=["project"],  # chosen above
        whose=verbs.whose(rows, verbs.machines(store)),
        on_change=lambda frame: setattr(page, "chosen", set(frame["id"])),
    )
    _total = verbs.num_runs(store, project.value)
    _counted = f"{len(rows):,} of {_total:,} runs" if _total > len(rows) else f"{_total:,} runs"
    mo.vstack([mo.md(inert.md("## Runs\n\n{}, pinned first, then newest first.", _counted)), chosen])
    return (chosen,)


@app.cell(hide_code=True)
def tagging(actor, chosen, page, store):
    _ids = chosen.value["id"].to_list()  # before what reads it: marimo keeps it for that alone

    def change(add, remove):
        for run_id in _ids:
            verbs.tag(store, run_id, add=add, remove=remove, actor=actor)

    tags = lab_view.tag_elements(mo.ui, lambda added, removed: page.begin(lambda _: change(added(), removed())))
    return (tags,)


@app.cell(hide_code=True)
def chosen_runs(chosen, params, store, tags):
    _ids = chosen.value["id"].to_list()
    _link = show.page(params, "5_compare", runs=",".join(_ids))
    _command = inert.code(f"patron compare --runs {','.join(_ids)}")
    _to = inert.link(f"Compare {len(_ids):,} runs" if len(_ids) > 1 else "Compare it", _link) if _link else _command
    report = [files.report_button(mo.download, store, _ids[0])] if len(_ids) == 1 else []
    (
        mo.hstack(
            [mo.md(inert.md("**{}**", _to)), *report, *tags],
            justify="start",
            gap=1,
            align="center",
        )
        if _ids
        else mo.md("Select runs to compare, pin or tag them.")
    )
    return


@app.cell(hide_code=True)
def grouping():
    by = mo.ui.dropdown(["not grouped", *verbs.GROUPS], value="not grouped", label="Group by")
    by
    return (by,)


@app.cell(hide_code=True)
def groups(by, rows):
    mo.stop(by.value == "not grouped")
    mo.Html(show.html_table(verbs.group_runs(rows, by.value), tables.run_groups(by.value)))
    return


@app.cell(hide_code=True)
def statement(found, session):
    _parts = [mo.md("## Statement")]
    if found.statement and not session.is_script:
        _parts.append(charts.wallet_chart(found.statement))
    _table = tables.statement({row.run.id: row.run.name for row in found.rows})
    _parts.append(mo.Html(show.html_table(found.statement[:12], _table, empty="No money has moved yet.")))
    mo.vstack(_parts)
    return


@app.cell(hide_code=True)
def deposit(actor, get_pressed, key, page, params, project, session, store):
    _first = 0 if get_pressed() else onward.dollars(params, "deposit")  # of the address; once paid it is empty

    def pay(value):
        def work(_):
            micros, once = verbs.from_usd(value), f"deposit:{key}:{page.presses}"
            verbs.deposit(store, project=into, usd_micros=micros, key=once, actor=actor)
            return inert.md("{} are in the wallet of {}, for its runs.", show.usd(micros), into)

        into = project.value
        page.begin(work) if value else None

    _form = mo.ui.number(0, 1e6, value=_first, step=0.01, label="Dollars to authorise").form(
        submit_button_label="Deposit", on_change=pay
    )
    None if session.is_script else _form
    return


@app.cell(hide_code=True)
def told_below(told):
    told
    return


if __name__ == "__main__":
    app.run()
