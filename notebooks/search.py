"""Search: which depth is best within a training time on this machine, for at most a budget? Answered by real runs.

patron search                                  one minute of training a run, at most $0.05
patron search --minutes 5 --budget 0.5 --depths 2,4,6 --json
marimo run notebooks/search.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: search")

with app.setup:
    from typing import Annotated

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, inert, show, spec_flags
    from patron_core.ui.script import NOT_SUCCEEDED, Usd, open_session

    ASKED = verbs.Question()


@app.class_definition
class SearchArguments(spec_flags.SpecArguments):
    minutes: float = Field(default=ASKED.minutes, ge=0.05, le=10080, description="training time of one run")
    budget: Usd = Field(
        default=verbs.to_usd(ASKED.budget_usd_micros),
        gt=0,
        le=1e6,
        description="dollars that the search may spend in all",
    )
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=ASKED.depths, min_length=1, description="depths to choose from"
    )
    max_dryruns: int = Field(default=ASKED.max_dryruns, ge=1, le=100, description="depths to prove with a short burst")
    max_runs: int = Field(default=ASKED.max_runs, ge=1, le=100, description="runs to train to the end")
    time_limit_minutes: float = Field(
        default=ASKED.time_limit_minutes, gt=0, le=10080, description="no new run starts that would end later"
    )
    min_gain_bpb: float = Field(
        default=ASKED.min_gain_bpb, ge=0, le=1, description="stop when the next run promises less than this"
    )
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    key: str = Field(default="", description="name of the search; the same name goes on where it was stopped")


@app.cell
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

        Asks which model depth gives the lowest validation loss when each run trains for a fixed time on this machine.
        It estimates every depth, proves the best few with a short burst, trains the most promising, and stops at your
        budget.
        """
    )
    return args, session


@app.cell
def lab(session):
    store = session.open_lab()
    return (store,)


@app.cell
def form(args):
    _fields = spec_flags.form(args, ASKED.spec, without=("steps", "ratio", "eval_every"))
    fields = mo.ui.dictionary(
        {
            name: mo.ui.text(one.text, label=inert.md("{}", one.label), placeholder=inert.vega(one.default))
            for name, one in _fields.items()
        }
    )
    others = mo.ui.text_area("\n".join(args.set_fields), label="Any other field, key=value a line", rows=2)
    asked = mo.ui.dictionary(
        {
            "minutes": mo.ui.number(0.05, 10080, value=args.minutes, step=0.05, label="Minutes a run"),
            "budget": mo.ui.number(0.0001, 1e6, value=args.budget, step=0.01, label="Budget, $"),
            "depths": mo.ui.multiselect(
                [str(d) for d in range(1, 65)], value=[str(d) for d in args.depths], label="Depths"
            ),
            "max_dryruns": mo.ui.number(1, 100, value=args.max_dryruns, label="Bursts at most"),
            "max_runs": mo.ui.number(1, 100, value=args.max_runs, label="Runs at most"),
            "time_limit_minutes": mo.ui.number(0.05, 10080, value=args.time_limit_minutes, label="Minutes in all"),
            "min_gain_bpb": mo.ui.number(0, 1, value=args.min_gain_bpb, step=0.005, label="Smallest gain, bpb"),
            "project": mo.ui.text(args.project, label="Project"),
        }
    )
    mo.vstack(
        [
            mo.hstack([asked[name] for name in ("minutes", "budget", "depths")], justify="start", gap=1.5),
            mo.accordion(
                {
                    "Limits": mo.hstack(
                        [asked[n] for n in ("max_dryruns", "max_runs", "time_limit_minutes", "min_gain_bpb")],
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


@app.cell
def the_question(args, asked, fields, others, session):
    _given = session.call(spec_flags.of_form, fields.value, others.value, file=args.spec)
    mo.stop(_given.failed, mo.callout(mo.md(_given.error_markdown()), kind="danger"))
    question = verbs.Question(
        minutes=asked.value["minutes"],
        budget_usd_micros=verbs.from_usd(asked.value["budget"]),
        depths=tuple(int(depth) for depth in asked.value["depths"]),
        max_dryruns=asked.value["max_dryruns"],
        max_runs=asked.value["max_runs"],
        time_limit_minutes=asked.value["time_limit_minutes"],
        min_gain_bpb=asked.value["min_gain_bpb"],
        spec=ASKED.spec | _given.value,
    )
    project = asked.value["project"]
    return project, question


@app.cell
def identity(args, session, store):
    params = mo.query_params()
    _asked = params.get("key") or ""
    # an address finds a search, it names none
    _is_known = bool(_asked) and (background.find(_asked) is not None or verbs.has_search(store, _asked))
    key = _asked if _is_known and not args.key else session.key
    actor = session.actor
    get_work, set_work = mo.state(background.find(key), allow_self_loops=True)
    return actor, get_work, key, params, set_work


@app.cell
def run_as_script(actor, key, project, question, session, store):
    def follow(line, seen):
        if line:
            session.say(line)
        if seen is not None:
            session.status(show.progress_line(seen))

    def ask():
        session.on_interrupt = "its runs go on"
        session.look_again = session.command("--key", key)
        return session.call(
            verbs.search, store, question, project=project, actor=actor, key=key, on_progress=follow
        ).value

    script_report = ask() if session.is_script else None
    return (script_report,)


@app.cell
def press(actor, get_work, key, params, project, question, session, set_work, store):
    def begin(_):
        params["key"] = key
        set_work(
            background.start(
                key,
                lambda work: verbs.search(store, question, project=project, actor=actor, key=key, on_progress=work.say),
            )
        )

    _spend = show.usd(question.budget_usd_micros)
    button = mo.ui.button(
        label=inert.md("Search, spending at most {}", _spend) if get_work() is None else "Search started",
        kind="success",
        disabled=get_work() is not None,
        on_click=begin,
    )
    None if session.is_script else button
    return


@app.cell
def ticking(get_work):
    ticker = mo.ui.refresh(options=["2s", "10s"], default_interval="2s")
    ticker if get_work() is not None and not get_work().done else None
    return (ticker,)


@app.cell
def progress(get_work, ticker):
    ticker
    work = get_work()
    _view = mo.md("")
    if work is not None:
        _said = mo.md(inert.bullets(work.lines, mark="1.") or "Starting.")
        _running = work.latest is not None and not work.done
        _now = inert.code(show.progress_line(work.latest)) if _running else ""
        _view = mo.vstack([_said, mo.md(inert.md("{}", _now))])
        if work.error is not None:
            _view = mo.vstack([_said, mo.callout(mo.md(inert.error(work.error["error"])), kind="danger")])
    report_now = work.value if work is not None and work.done else None
    _view
    return (report_now,)


@app.cell
def report(report_now, script_report):
    found = script_report or report_now
    mo.stop(found is None)
    columns = show.comparison_columns()
    spent = f"Spent {show.usd(found.spent_usd_micros)} of {show.usd(found.question.budget_usd_micros)}"
    lines = [f"{spent} in {show.seconds(found.elapsed_s)}; stopped because {found.stopped_because}.", found.where_next]
    best = next((row for row in found.rows if row.run == found.best_run), None)
    headline = (
        f"Best: depth {best.depth} with val_bpb {best.val_bpb:.3f} (run {best.run}){best.cut_short_words}"
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


@app.cell
def answer(columns, found, headline, lines, session):
    session.emit(
        found.to_dict(),
        "\n".join(["", headline + ".", "", show.text_table(found.rows, columns), "", *lines]),
    )
    session.end(0 if found.best_run else NOT_SUCCEEDED)
    return


if __name__ == "__main__":
    app.run()
