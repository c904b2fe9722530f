"""Sweep: any fields of a spec as a grid, times seeds; one dryrun for a shape, one hold, and is the difference real?

patron sweep --grid lr_scale=0.5,1,2 --seeds 3                        what it would take; exit 4
patron sweep --grid lr_scale=0.5,1,2 --seeds 3 --steps 200 --yes      make its runs, compare them
patron sweep --grid depth=2,4 --grid seed=1,2 --budget 0.2 --yes --json
marimo run notebooks/sweep.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Patron: sweep")

with app.setup(hide_code=True):
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, inert, onward, show, spec_flags, tables, target_flags, unattended
    from patron_core.ui.script import NOT_SUCCEEDED, Usd, open_session


@app.cell(hide_code=True)
def title():
    session = open_session(
        SweepArguments,
        mode=mo.app_meta().mode,
        file=__file__,
        description="A grid over any fields of a spec, times seeds: make its runs, compare them beyond the noise.",
    )
    args = session.args
    mo.md(
        """
        # Sweep

        Makes a run for each cell of a grid and each seed. Runs of one shape share a dryrun, all share one hold, and
        the comparison says whether a difference is larger than what seeds alone make.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class SweepArguments(spec_flags.SpecArguments, target_flags.TargetArguments):
    grid: tuple[str, ...] = spec_flags.repeated(description="a field and its values, say --grid lr_scale=0.5,1,2")
    seeds: int = Field(default=1, ge=1, le=100, description="runs of each cell that differ in their seed alone")
    depth: int | None = Field(default=None, ge=1, le=64, description="depth of the model; 2 where nothing says another")
    name: str = Field(default="sweep", min_length=1, max_length=40, description="of the sweep, and a tag of its runs")
    tags: tuple[str, ...] = Field(default=(), description="more words to find its runs again by")
    budget: Usd = Field(default=0.05, gt=0, le=1e6, description="dollars that all of it may cost")
    max_parallel: int = Field(default=1, ge=1, le=100, description="runs at once; on this machine 1 measures best")
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    key: str = Field(default="", description="name of this very sweep; the same goes on where it was stopped")
    yes: bool = Field(default=False, description="confirm: spend at most the budget")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    return (store,)


@app.cell(hide_code=True)
def where(args, session):
    place = mo.ui.dictionary(target_flags.form(args, mo.ui))
    _shown = mo.hstack([place[name] for name in place], justify="start", wrap=True, align="end")
    None if session.is_script else mo.vstack([mo.md("### Where"), _shown])
    return (place,)


@app.cell(hide_code=True)
def asking(args):
    asked = mo.ui.dictionary(
        {
            "grid": mo.ui.text_area(
                "\n".join(args.grid) or "lr_scale=0.5,1,2", label="Grid: a field and its values a line", rows=3
            ),
            "seeds": mo.ui.number(1, 100, value=args.seeds, label="Seeds"),
            "depth": mo.ui.number(1, 64, value=args.depth or 2, label="Depth"),
            "name": mo.ui.text(args.name, label="Name"),
            "budget": mo.ui.number(0.0001, 1e6, value=args.budget, step=0.01, label="Budget, $"),
            "max_parallel": mo.ui.number(1, 100, value=args.max_parallel, label="At once"),
        }
    )
    others = mo.ui.text_area("\n".join(args.set_fields), label="Any other field, key=value a line", rows=2)
    return asked, others


@app.cell(hide_code=True)
def form(args, asked, others, page, place, session, store):
    page.question = None  # until it can be read
    target = target_flags.target_of(place.value)
    _device = session.call(verbs.device_named, store, target.device)
    mo.stop(_device.failed, mo.callout(mo.md(_device.error_markdown()), kind="danger"))
    device = _device.value
    _fields = spec_flags.form(args, verbs.defaults_for(device))
    plan = mo.ui.dictionary(
        {
            name: mo.ui.text(
                page.texts.get(name, one.text), label=inert.md("{}", one.label), placeholder=inert.vega(one.default)
            )
            for name, one in _fields.items()
        },
        on_change=page.texts.update,  # another machine changes no word that was typed
    )
    _first = [asked[name] for name in ("depth", "seeds", "name", "budget", "max_parallel")]
    _spec = mo.hstack([plan[name] for name in _fields], justify="start", wrap=True, align="end")
    mo.vstack(
        [
            asked["grid"],
            mo.hstack([*_first, plan["steps"]], justify="start", wrap=True, align="end"),
            mo.accordion({"Spec": mo.vstack([_spec, others])}),
        ]
    )
    return device, plan, target


@app.cell(hide_code=True)
def the_question(args, asked, device, others, page, plan, session, target):
    page.question = None  # until it can be read

    def ask():
        given = spec_flags.of_form(plan.value, others.value, file=args.spec)
        given = spec_flags.with_depth(given, args.depth, asked.value["depth"])
        lines = [line for line in asked.value["grid"].splitlines() if line.strip()]
        return verbs.Sweep(
            name=asked.value["name"],
            grid=verbs.grid_of(args.grid if session.is_script else lines),
            seeds=asked.value["seeds"],
            spec=verbs.spec_on(device, given).to_dict(),
            target=target.to_dict(),
            budget_usd_micros=verbs.from_usd(asked.value["budget"]),
            max_parallel=asked.value["max_parallel"],
            tags=list(args.tags),
        )

    _question = session.call(ask)
    mo.stop(_question.failed, mo.callout(mo.md(_question.error_markdown()), kind="danger"))
    question = page.question = _question.value
    return (question,)


@app.cell(hide_code=True)
def estimate(question, session, store):
    _estimated = session.call(verbs.estimate_sweep, store, question)
    mo.stop(_estimated.failed, mo.callout(mo.md(_estimated.error_markdown()), kind="danger"))
    estimated = _estimated.value
    _most = show.usd(question.budget_usd_micros)
    mo.md(inert.md("{} It may spend at most {} in all.", estimated.sentence, _most))
    return (estimated,)


@app.cell(hide_code=True)
def identity(args, session, store):
    _params = mo.query_params()
    address, set_address = _params.to_dict(), _params.set  # as it was opened: nothing is drawn anew where it changes
    _asked = address.get("key") or ""
    # an address finds a sweep, it names none
    _is_known = bool(_asked) and (unattended.work_of(_asked) is not None or verbs.has_search(store, _asked))
    key = _asked if _is_known and not args.key else session.key
    page = unattended.Unattended(verb=verbs.sweep, store=store, actor=session.actor, key=key, project=args.project)
    get_work, set_work = mo.state(unattended.work_of(key), allow_self_loops=True)
    get_busy, set_busy = mo.state(background.is_busy(get_work()))
    _unknown = bool(_asked) and not _is_known
    _said = inert.md("No sweep has the key {}. What is asked below begins a new one.", _asked)
    mo.callout(mo.md(inert.paragraphs([_said])), kind="warn") if _unknown else None
    return address, get_busy, get_work, key, page, set_address, set_busy, set_work


@app.cell(hide_code=True)
def run_as_script(args, estimated, page, question, session, store):
    def make():
        session.say(estimated.sentence)
        session.confirm(args.yes, f"at most {show.usd(question.budget_usd_micros)} would be spent", "--yes")
        session.on_interrupt = "its runs go on"
        session.look_again = session.command("--key", page.key)
        return session.call(
            verbs.sweep,
            store,
            question,
            project=page.project,
            actor=page.actor,
            key=page.key,
            on_progress=session.follow,
        ).value

    script_report = make() if session.is_script else None
    return (script_report,)


@app.cell(hide_code=True)
def at_once(session):
    # a button goes off where it is pressed, before the server has heard of it
    presses = None if session.is_script else background.presses()
    presses
    return (presses,)


@app.cell(hide_code=True)
def press(get_busy, page, session, set_address, set_busy, set_work):
    # it reads what is in the fields then: nothing of it is drawn anew while somebody types
    def begin(_):
        set_address("key", page.key)
        set_busy(True)
        set_work(page.begin())

    button = mo.ui.button(
        label="Under way ..." if get_busy() else "Sweep", kind="success", disabled=get_busy(), on_click=begin
    )
    None if session.is_script else button
    return


@app.cell(hide_code=True)
def ticking(get_busy):
    ticker = mo.ui.refresh(options=["2s", "10s"], default_interval="2s")
    ticker if get_busy() else None
    return (ticker,)


@app.cell(hide_code=True)
def progress(address, get_busy, get_work, page, presses, set_address, set_busy, set_work, ticker):
    ticker
    work = page.followed(get_work())
    if work is not get_work():
        page.key = work.key
        set_address("key", work.key)
        set_work(work)
    if background.is_busy(work) != get_busy():
        set_busy(background.is_busy(work))
    presses and presses.look(work)
    _view = mo.md("")
    if work is not None:
        _said, _now = map(mo.md, background.told(work))
        _error = work.error and mo.callout(
            mo.md(inert.paragraphs([onward.problem(address, work.error)])), kind="danger"
        )
        _view = mo.vstack([_said, _error or _now])
    report_now = work.value if work is not None and work.done else None
    _view
    return (report_now,)


@app.cell(hide_code=True)
def report(report_now, script_report):
    found = script_report or report_now
    mo.stop(found is None)
    groups, runs = tables.sweep_groups(found.comparison), tables.sweep_runs()
    mo.vstack(
        [
            mo.md(inert.md("## {}", found.sentence)),
            mo.Html(show.html_table(found.comparison.groups, groups)),
            mo.accordion({"Every run": mo.Html(show.html_table(found.rows, runs))}),
        ]
    )
    return found, groups, runs


@app.cell(hide_code=True)
def answer(found, groups, runs, session):
    _tables = [show.text_table(found.comparison.groups, groups), "", show.text_table(found.rows, runs)]
    session.emit(found.to_dict(), "\n".join(["", found.sentence, "", *_tables]))
    session.end(0 if found.is_whole else NOT_SUCCEEDED)
    return


if __name__ == "__main__":
    app.run()
