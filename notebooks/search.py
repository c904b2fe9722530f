"""Search: which depth, on which device, is best within a training time, for at most a budget? Answered by real runs.

patron search                                  one minute of training a run, at most $0.05
patron search --minutes 5 --budget 0.5 --depths 2,4,6 --json
patron search --on sky --devices A100-40GB,H100 --spot --hours 1 --budget 42
patron search --on sky --devices H100 --gpus 1,8 --spot --hours 1 --budget 42
marimo run notebooks/search.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: search")

with app.setup(hide_code=True):
    from typing import Annotated, Literal

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, inert, onward, show, spec_flags, target_flags, unattended
    from patron_core.ui.script import NOT_SUCCEEDED, Usd, open_session

    ASKED = verbs.Question()
    LIMITS = ("max_dryruns", "max_runs", "time_limit_minutes", "min_gain_bpb")


@app.cell(hide_code=True)
def title():
    session = open_session(
        SearchArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Find the best depth within a training time, for at most a budget, with real runs.",
    )
    args = session.args
    mo.md(
        """
        # Search

        Asks which model depth gives the lowest validation loss when each run trains for a fixed time, on
        this machine or on rented ones. It estimates every depth, proves the best few with a short burst, trains the most promising, and stops at your
        budget.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class SearchArguments(spec_flags.SpecArguments):
    minutes: float = Field(default=ASKED.minutes, ge=0.05, le=10080, description="training time of one run")
    budget: Usd = Field(
        default=verbs.to_usd(ASKED.budget_usd_micros),
        gt=0,
        le=1e6,
        description="dollars that the search may spend in all",
    )
    hours: float | None = Field(default=None, gt=0, le=168, description="the same in hours")
    on: Literal["local", "sky"] = Field(default="local", description="this machine, or ones that SkyPilot finds")
    devices: tuple[str, ...] = Field(default=(), description="GPUs to choose from with --on sky: A100-40GB,H100")
    gpus: tuple[Annotated[int, Field(ge=1, le=verbs.MOST_GPUS)], ...] = Field(
        default=ASKED.gpus, min_length=1, description="GPUs of each machine, to choose from: 1,8"
    )
    nodes: int = Field(default=1, ge=1, le=verbs.MOST_NODES, description="machines that train together")
    spot: bool = Field(default=False, description="machines that may be taken away, at a fraction of the price")
    where: str = Field(default="", description="only there, as SkyPilot writes it: gcp/us-central1, slurm/lab/gpu")
    fallback_prices: bool = Field(default=False, description="the dated table of list prices, and no catalog")
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(), description="depths to choose from; else 1,2,3,4,6 here and 6,8,10,12,14,16 rented"
    )
    windows: tuple[str, ...] = Field(default=(), description="window patterns to choose from: SSSL,L")
    max_parallel: int | None = Field(default=None, ge=1, le=100, description="dryruns at once; else 1 here, 4 rented")
    max_dryruns: int = Field(default=ASKED.max_dryruns, ge=1, le=100, description="depths to prove with a short burst")
    max_runs: int = Field(default=ASKED.max_runs, ge=1, le=100, description="runs to train to the end")
    time_limit_minutes: float | None = Field(
        default=None, gt=0, le=10080, description="no new run starts that may end later; else the runs and their starts"
    )
    min_gain_bpb: float = Field(
        default=ASKED.min_gain_bpb, ge=0, le=1, description="stop when the next run promises less than this"
    )
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    key: str = Field(default="", description="name of the search; the same name goes on where it was stopped")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    return (store,)


@app.cell(hide_code=True)
def form(args, session, store):
    _device = session.call(verbs.device_named, store, (args.devices or (verbs.LOCAL_DEVICE,))[0])
    _defaults = verbs.defaults_for(_device.value) if not _device.failed else {}
    _fields = spec_flags.form(args, _defaults, without=("steps", "ratio"))
    fields = mo.ui.dictionary(
        {
            name: mo.ui.text(one.text, label=inert.md("{}", one.label), placeholder=inert.vega(one.default))
            for name, one in _fields.items()
        }
    )
    others = mo.ui.text_area("\n".join(args.set_fields), label="Any other field, key=value a line", rows=2)
    asked = mo.ui.dictionary(
        {
            "minutes": mo.ui.number(
                0.05, 10080, value=60 * args.hours if args.hours else args.minutes, step=0.05, label="Minutes a run"
            ),
            "on": mo.ui.dropdown(
                target_flags.EXECUTORS,
                value=next(label for label, name in target_flags.EXECUTORS.items() if name == args.on),
                label="Where",
            ),
            "devices": mo.ui.multiselect(
                list(dict.fromkeys([*target_flags.rentable(), *args.devices])), value=list(args.devices), label="GPUs"
            ),
            "gpus": mo.ui.multiselect(
                [str(n) for n in range(1, verbs.MOST_GPUS + 1)],
                value=[str(n) for n in args.gpus],
                label="GPUs of each machine",
            ),
            "nodes": mo.ui.number(1, verbs.MOST_NODES, value=args.nodes, label="Machines"),
            "spot": mo.ui.switch(value=args.spot, label="Spot"),
            "where": mo.ui.text(args.where, label="Only in", placeholder="gcp/us-central1"),
            "windows": mo.ui.text(",".join(args.windows), label="Windows to choose from", placeholder="SSSL,L"),
            "max_parallel": mo.ui.number(0, 100, value=args.max_parallel or 0, label="Dryruns at once (0: by where)"),
            "budget": mo.ui.number(0.0001, 1e6, value=args.budget, step=0.01, label="Budget, $"),
            "depths": mo.ui.multiselect(
                [str(d) for d in range(1, 65)], value=[str(d) for d in args.depths], label="Depths (none: by where)"
            ),
            "max_dryruns": mo.ui.number(1, 100, value=args.max_dryruns, label="Bursts at most"),
            "max_runs": mo.ui.number(1, 100, value=args.max_runs, label="Runs at most"),
            "time_limit_minutes": mo.ui.number(
                0, 10080, value=args.time_limit_minutes or 0, label="Minutes in all (0: what its runs take)"
            ),
            "min_gain_bpb": mo.ui.number(0, 1, value=args.min_gain_bpb, step=0.005, label="Smallest gain, bpb"),
            "project": mo.ui.text(args.project, label="Project"),
        }
    )
    mo.vstack(
        [
            mo.hstack([asked[n] for n in ("minutes", "budget", "depths")], justify="start", gap=1.5, align="end"),
            mo.hstack(
                [asked[n] for n in ("on", "devices", "gpus", "nodes", "spot", "where")],
                justify="start",
                gap=1.5,
                align="end",
                wrap=True,
            ),
            mo.accordion(
                {
                    "Limits": mo.hstack(
                        [asked[n] for n in (*LIMITS, "windows", "max_parallel")],
                        justify="start",
                        wrap=True,
                    ),
                    "Recipe and project": mo.vstack(
                        [mo.hstack([*fields.elements.values()], justify="start", wrap=True), others, asked["project"]]
                    ),
                }
            ),
        ]
    )
    return asked, fields, others


@app.cell(hide_code=True)
def the_question(args, asked, fields, others, page, session):
    page.question = None  # until it can be read
    _given = session.call(spec_flags.of_form, fields.value, others.value, file=args.spec)
    mo.stop(_given.failed, mo.callout(mo.md(_given.error_markdown()), kind="danger"))
    question = verbs.Question(
        minutes=asked.value["minutes"],
        budget_usd_micros=verbs.from_usd(asked.value["budget"]),
        depths=tuple(int(depth) for depth in asked.value["depths"]),
        devices=tuple(asked.value["devices"]) or (verbs.LOCAL_DEVICE,),
        gpus=tuple(int(count) for count in asked.value["gpus"]),
        nodes=asked.value["nodes"],
        on=asked.value["on"],
        spot=asked.value["spot"],
        where=asked.value["where"],
        fallback_prices=args.fallback_prices,
        windows=tuple(part for part in asked.value["windows"].split(",") if part),
        max_parallel=asked.value["max_parallel"] or None,
        max_dryruns=asked.value["max_dryruns"],
        max_runs=asked.value["max_runs"],
        time_limit_minutes=asked.value["time_limit_minutes"] or None,
        min_gain_bpb=asked.value["min_gain_bpb"],
        spec=_given.value,
    )
    page.question, page.project = question, asked.value["project"]
    _words = inert.md("It may spend at most {} in all.", show.usd(question.budget_usd_micros))
    None if session.is_script else mo.md(inert.paragraphs([_words]))
    return (question,)


@app.cell(hide_code=True)
def identity(args, session, store):
    _params = mo.query_params()
    address, set_address = _params.to_dict(), _params.set  # as it was opened: nothing is drawn anew where it changes
    _asked = address.get("key") or ""
    # an address finds a search, it names none
    _is_known = bool(_asked) and (unattended.work_of(_asked) is not None or verbs.has_search(store, _asked))
    key = _asked if _is_known and not args.key else session.key
    page = unattended.Unattended(verb=verbs.search, store=store, actor=session.actor, key=key)
    get_work, set_work = mo.state(unattended.work_of(key), allow_self_loops=True)
    get_busy, set_busy = mo.state(background.is_busy(get_work()))
    _unknown = bool(_asked) and not _is_known
    _said = inert.md("No search has the key {}. What is asked below begins a new one.", _asked)
    mo.callout(mo.md(inert.paragraphs([_said])), kind="warn") if _unknown else None
    return address, get_busy, get_work, key, page, set_address, set_busy, set_work


@app.cell(hide_code=True)
def run_as_script(page, question, session, store):
    def ask():
        session.on_interrupt = "its runs go on"
        session.look_again = session.command("--key", page.key)
        return session.call(
            verbs.search,
            store,
            question,
            project=page.project,
            actor=page.actor,
            key=page.key,
            on_progress=session.follow,
        ).value

    script_report = ask() if session.is_script else None
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
        label="Under way ..." if get_busy() else "Search", kind="success", disabled=get_busy(), on_click=begin
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
    columns = show.comparison_columns()
    spent = f"Spent {show.usd(found.spent_usd_micros)} of {show.usd(found.question.budget_usd_micros)}"
    lines = [f"{spent} in {show.seconds(found.elapsed_s)}; stopped because {found.stopped_because}."]
    lines += [*found.cut_short, found.where_next]
    best = next((row for row in found.rows if row.run == found.best_run), None)
    headline = (
        f"Best: depth {best.depth} on {found.devices[best.run]} with val_bpb {best.val_bpb:.3f} (run {best.run}){best.cut_short_words}"
        if best is not None
        else "No run finished"
    )
    mo.vstack(
        [
            mo.md(inert.md("## {}", headline)),
            mo.Html(show.html_table(found.rows, columns)),
            mo.md(inert.paragraphs(lines)),
        ]
    )
    return columns, found, headline, lines


@app.cell(hide_code=True)
def answer(columns, found, headline, lines, session):
    session.emit(
        found.to_dict(),
        "\n".join(["", headline + ".", "", show.text_table(found.rows, columns), "", *lines]),
    )
    session.end(0 if found.best_run else NOT_SUCCEEDED)
    return


if __name__ == "__main__":
    app.run()
