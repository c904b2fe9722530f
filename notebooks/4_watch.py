"""Watch: one run, live: its state, its curves, its attempts and what it costs. Pause it, cancel it, note what you see.

patron watch --run RUN                    follow until it rests; exit 0 if it succeeded, else 6
patron watch --run RUN --no-follow --json
patron watch --run RUN --cancel --yes
marimo run notebooks/4_watch.py                          then add ?run=RUN to the address, or choose
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="full", app_title="Patron: watch")

with app.setup(hide_code=True):
    import shlex
    from types import SimpleNamespace

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, choices, course_view, files, inert, notes, onward, run_panels, show, tables
    from patron_core.ui.script import Arguments, open_session


@app.cell(hide_code=True)
def title():
    session = open_session(
        WatchArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Follow one run: state, curves, attempts, money. Leaving this does not stop the run.",
    )
    args = session.args
    mo.md(
        """
        # Watch

        One run as it is now: how far it is, what it costs, and why its attempts ended. The run does not depend on this
        page; close it whenever you like.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class WatchArguments(Arguments):
    run: str = Field(default="", description="the run: its id, its name, or the beginning of its id")
    follow: bool = Field(default=True, description="watch until the run rests, not just once")
    timeout_s: float | None = Field(default=None, gt=0, le=1e8, description="stop watching after this many seconds")
    pause: bool = Field(default=False, description="save a checkpoint and stop; needs --yes")
    cancel: bool = Field(default=False, description="end the run for good; needs --yes")
    yes: bool = Field(default=False, description="confirm a pause or a cancel")
    note: str = Field(default="", description="a note to keep with the run")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    _found = [] if session.is_script else verbs.overview(store)
    get_listed, set_listed = mo.state(choices.listed(_found))
    opened_on = getattr(verbs.most_pressing(_found), "id", "")
    opened_with = params.to_dict()
    return actor, get_listed, opened_on, opened_with, params, set_listed, store


@app.cell(hide_code=True)
def choose(args, get_listed, opened_on, opened_with, params, session, store):
    session.require("--run", args.run, next="patron lab")
    get_listed()
    _choice = choices.of_runs(session, store, verbs.overview(store), wanted=params.get("run") or args.run or opened_on)
    chosen = mo.ui.dropdown(
        _choice.labels,
        value=_choice.value,
        label="Run",
        on_change=lambda run_id: params.set("run", run_id),
    )
    _problem = (
        [mo.callout(mo.md(inert.paragraphs([onward.problem(opened_with, _choice.problem.error)])), kind="warn")]
        if _choice.problem
        else []
    )
    _start = onward.buttons(opened_with, "patron lab", "patron estimate")
    _none = [mo.md(inert.md("No run is chosen.\n\n{}", _start))] if _choice.value is None else []
    None if session.is_script else mo.vstack([chosen, *_problem, *_none])
    return (chosen,)


@app.cell(hide_code=True)
def act_as_script(actor, args, chosen, session, store):
    if session.is_script and args.note:
        _run = session.call(verbs.view, store, chosen.value).value.run
        session.call(verbs.write_note, store, project=_run.project, body=args.note, run_id=_run.id, actor=actor)
    if session.is_script and (args.pause or args.cancel):
        _wish = verbs.cancel if args.cancel else verbs.pause
        session.confirm(args.yes, f"{_wish.__name__} of run {chosen.value}", "--yes")
        session.call(_wish, store, session.call(verbs.view, store, chosen.value).value.run.id, actor=actor)
    acted = True
    return (acted,)


@app.cell(hide_code=True)
def slow(session):
    # what a tick seldom changes: cells that hold what somebody types, or an open accordion, read only this
    page = SimpleNamespace()
    get_state, page.set_state = mo.state(("", verbs.RunState.RUNNING, 0))
    get_run, page.set_run = mo.state("")  # the run that is shown
    get_stop, page.set_stop = mo.state(None)  # a pause or a cancel on its way
    get_pressed, page.set_pressed = mo.state(None)  # what came of the last one
    get_work, page.set_work = mo.state(None)  # a note on its way
    get_kept, page.set_kept = mo.state(None)  # what came of the last one
    presses = None if session.is_script else background.presses()  # a button goes off where it is pressed
    presses
    return get_kept, get_pressed, get_run, get_state, get_stop, get_work, page, presses


@app.cell(hide_code=True)
def ticking(get_state, get_stop, get_work, session):
    # at rest slowly: what rests may begin, here or on another page
    _every = "1s" if get_work() or get_stop() else "2s" if get_state()[1] in verbs.ACTIVE else "5s"
    ticker = mo.ui.refresh(options=["1s", "2s", "5s", "10s", "60s"], default_interval=_every)
    None if session.is_script else ticker
    return (ticker,)


@app.cell(hide_code=True)
def list_runs(get_listed, session, set_listed, store, ticker):
    ticker
    mo.stop(session.is_script)
    _listed = choices.listed(verbs.overview(store))
    if _listed != get_listed():
        set_listed(_listed)
    return


@app.cell(hide_code=True)
def look(acted, args, chosen, get_pressed, get_run, get_state, page, session, store, ticker):
    acted, ticker, get_pressed()
    mo.stop(chosen.value is None)
    if session.is_script and args.follow:
        session.on_interrupt = "the run goes on"
        session.look_again = f"patron watch --run {chosen.value} --no-follow"
        _outcome = session.call(
            verbs.wait,
            store,
            chosen.value,
            timeout_s=args.timeout_s or float("inf"),
            on_view=session.progress,
        )
    else:
        _outcome = session.call(verbs.view if session.is_script else verbs.shared_view, store, chosen.value)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    seen = _outcome.value
    if seen.run.state in verbs.ACTIVE and not session.is_script:
        verbs.ensure_running(store)
    _state = (seen.run.id, seen.run.state, len(seen.history))
    if _state != get_state():
        page.set_state(_state)
    if seen.run.id != get_run():
        page.set_run(seen.run.id)
    course = verbs.course(seen)
    return course, seen


@app.cell(hide_code=True)
def headline(course, opened_with, seen):
    _refused = [f"Refused: {seen.refused['message']}"] if seen.refused else []
    _stop = inert.md(" Asked to {}.", seen.run.stop_requested) if seen.run.stop_requested else ""
    _facts = [course_view.progress_facts(seen, course), course_view.money_facts(seen, course)]
    _next = [onward.buttons(opened_with, "" if "patron watch" in seen.next else seen.next)]
    _next.append(onward.buttons(opened_with, course_view.top_up(seen, course), words="Hold more"))
    mo.vstack(
        [
            mo.md(inert.md("## {}\n\n{}{}", seen.run.name, seen.sentence, _stop)),
            mo.md(inert.paragraphs(_next)),
            mo.Html(inert.page(course_view.bar(seen))),
            mo.hstack([mo.Html(show.facts_table(one)) for one in _facts], justify="start", gap=4),
            *[
                mo.callout(mo.md(inert.md("{}", said)), kind="warn")
                for said in (*_refused, *seen.warnings, *course_view.warnings(seen, course))
            ],
        ]
    )
    return


@app.cell(hide_code=True)
def boards(get_run, session, store):
    # built once for a run: a tick only tells them what is new, so that hover, zoom and an open section stay
    mo.stop(session.is_script or not get_run())
    followed = verbs.Followed(store, get_run())
    tracked = background.Refreshed(lambda: verbs.tracked(store, followed.run_id, without=followed.keys), every_s=10)
    learning, machine, others, log_pane = run_panels.board(), run_panels.board(), run_panels.board(), run_panels.pane()
    mo.vstack([learning, mo.accordion({"The machine": machine, "All other keys": others}, multiple=True)])
    return followed, learning, log_pane, machine, others, tracked


@app.cell(hide_code=True)
def draw(course, followed, learning, log_pane, machine, others, seen, store, tracked):
    mo.stop(followed.run_id != seen.run.id)  # its boards come in a moment
    _record, _beside = followed.look(), tracked.latest()
    _panels = run_panels.run_panels(followed, _record, seen, course, _beside.series if _beside else {})
    learning.show(_panels.learning)
    machine.show(_panels.machine)
    others.show(_panels.others)
    log_pane.show(verbs.log_tail(store, seen.run.id, lines=400))
    _empty = "" if _panels.learning else "No curve yet."
    mo.md(inert.md("{} {}", _empty, course_view.mlflow_words(_beside, seen)))
    return


@app.cell(hide_code=True)
def attempts(seen):
    _table = mo.Html(show.html_table(seen.attempts, show.attempt_columns(), empty="Nothing was launched yet."))
    mo.vstack([mo.md("### Attempts"), _table])
    return


@app.cell(hide_code=True)
def samples(seen):
    _talk = mo.md(inert.md("Talk to it: {}", inert.code(f"python -m trainer.sample {shlex.quote(seen.run.run_dir)}")))
    _said = [mo.md("### What it says"), mo.Html(show.html_table(seen.samples, show.sample_columns())), _talk]
    _rows = run_panels.logged_rows(seen.logged)
    _own = [mo.md("### What its code logs"), mo.Html(show.facts_table(_rows))]
    mo.vstack([*(_said if seen.samples else []), *(_own if _rows else [])])
    return


@app.cell(hide_code=True)
def log(log_pane):
    mo.vstack([mo.md("### Log"), log_pane])
    return


@app.cell(hide_code=True)
def details(get_state, session, store):
    mo.stop(session.is_script or not get_state()[0])
    _seen = verbs.view(store, get_state()[0])
    _parts = {
        "History": mo.Html(show.html_table(reversed(_seen.history), tables.history())),
        "Spec": mo.Html(show.facts_table((k, str(v)) for k, v in _seen.run.spec.items() if v is not None)),
    }
    report = files.report_button(mo.download, store, _seen.run.id)
    mo.vstack([mo.accordion(_parts), mo.hstack([report], justify="start")])
    return (report,)


@app.cell(hide_code=True)
def confirmation(get_state, session, store):
    mo.stop(session.is_script or not get_state()[0] or get_state()[1] in verbs.TERMINAL)
    run_id, can_pause = get_state()[0], get_state()[1] in verbs.ACTIVE - {verbs.RunState.DRYRUN}
    run_name = verbs.find_run(store, run_id).name
    sure = mo.ui.text(placeholder=inert.vega(run_name), label="To confirm, type the name of the run")
    return can_pause, run_id, run_name, sure


@app.cell(hide_code=True)
def controls(actor, can_pause, page, run_id, run_name, store, sure):
    def begin(verb):
        key = f"{verb.__name__}:{actor}:{run_id}"
        return lambda _: page.set_stop(background.pressed(key, lambda work: verb(store, run_id, actor=actor)))

    is_sure = sure.value.strip() == run_name
    pause = mo.ui.button(label="Pause", disabled=not (can_pause and is_sure), on_click=begin(verbs.pause))
    cancel = mo.ui.button(label="Cancel for good", kind="danger", disabled=not is_sure, on_click=begin(verbs.cancel))
    mo.vstack([mo.md("### Pause or cancel"), mo.hstack([sure, pause, cancel], justify="start", align="end")])
    return


@app.cell(hide_code=True)
def pressed(get_pressed, get_run, get_stop, get_work, opened_with, page, presses, ticker):
    ticker
    if (_came := background.came(get_stop, page.set_stop)) is not None:
        page.set_pressed(_came)
    presses and presses.look(get_stop(), get_work())
    mo.stop(get_stop() is not None, mo.md("Under way ..."))
    mo.stop(get_pressed() is None or not get_pressed().error or not get_pressed().key.endswith(f":{get_run()}"))
    mo.callout(mo.md(inert.paragraphs([onward.problem(opened_with, get_pressed().error)])), kind="danger")
    return


@app.cell(hide_code=True)
def writing(actor, get_kept, get_run, page, session, store):
    _, _run_id = get_kept(), get_run()
    mo.stop(session.is_script or not _run_id)
    draft = notes.open_draft(store, f"watch:{_run_id}", actor=actor)
    fields = draft.elements(mo.ui, lambda: page.set_work(draft.keep(session, store, run_id=_run_id)), words="Keep note")
    mo.vstack([mo.md("### Notes"), fields["body"], fields["save"]])
    return


@app.cell(hide_code=True)
def saved(get_kept, get_run, get_work, page, session, store, ticker):
    ticker  # somebody else may have written
    mo.stop(session.is_script or not get_run())
    if (_came := background.came(get_work, page.set_work)) is not None:
        page.set_kept(_came.value)
    _error = get_kept() and get_kept().failed and mo.callout(mo.md(get_kept().error_markdown()), kind="danger")
    _said = [mo.md("Saving ...")] if get_work() else [_error] if _error else []
    mo.vstack([*_said, mo.Html(notes.note_cards(verbs.notes_of(store, get_run())))])
    return


@app.cell(hide_code=True)
def answer(args, course, seen, session):
    session.emit(
        seen.to_dict() | {"course": course.to_dict()},
        "\n".join(
            [
                show.progress_line(seen),
                seen.sentence,
                *([f"refused: {seen.refused['message']}"] if seen.refused else []),
                *(f"warning: {warning}" for warning in (*seen.warnings, *course_view.warnings(seen, course))),
                "",
                show.text_table(seen.attempts, show.attempt_columns()),
                *(["", show.text_table(seen.samples, show.sample_columns()), ""] if seen.samples else []),
                *(f"to hold more: {command}" for command in filter(None, [course_view.top_up(seen, course)])),
                f"next: {seen.next}",
            ]
        ),
    )
    session.end(verbs.exit_code(seen, pause=args.pause, cancel=args.cancel) if args.follow else 0)
    return


if __name__ == "__main__":
    app.run()
