"""Dryrun: prove a plan with a short burst on the real machine, and put what it measured beside the estimate.

patron dryrun --depth 2 --steps 200 --deposit 0.05 --yes     plan it, and prove it
patron dryrun --spec spec.json --set final_lr_frac=0.1       any field, or all of them
patron dryrun --run RUN                                      what a dryrun of it measured, or would cost
patron dryrun --run RUN --amend --steps 400                  other steps, rates or evaluations, same proof
marimo run notebooks/2_dryrun.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: dryrun")

with app.setup(hide_code=True):
    import uuid
    from types import SimpleNamespace

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, code_flags, inert, onward, planning, show, spec_flags, tables, target_flags
    from patron_core.ui.measured import measured_beside_estimated, rehearsed
    from patron_core.ui.script import Usd, open_session

    OTHERS = "Any other field, key=value a line"


@app.cell(hide_code=True)
def title():
    session = open_session(
        DryrunArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        address=mo.query_params().to_dict(),
        file=__file__,
        description="Prove a plan with a short burst on the real machine; measured beside estimated.",
    )
    args = session.args
    mo.md(
        """
        # Dryrun

        Runs a few real steps of the plan on the real machine, kills the process and resumes it. What it measures
        replaces the estimate's assumptions; without this proof no money can be held.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class DryrunArguments(code_flags.CodeArguments, target_flags.TargetArguments, target_flags.LimitArguments):
    run: str = Field(default="", description="a run that was planned before; else one is planned from the other flags")
    depth: int | None = Field(default=None, ge=1, le=64, description="depth of the model; 2 where nothing says another")
    amend: bool = Field(default=False, description="change the proven run: what a dryrun does not measure")
    draft: bool = Field(default=False, description="only plan it: a draft, for nothing")
    name: str = Field(default="", description="name of the run; else one is made")
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet first")
    key: str = Field(default="", description="idempotency key: the same key plans and deposits once")
    yes: bool = Field(default=False, description="confirm: spend what the burst costs")
    timeout_s: float = Field(default=900.0, gt=0, le=1e6, description="stop watching after this many seconds")

    FROM_ADDRESS = spec_flags.FROM_ADDRESS | target_flags.FROM_ADDRESS | {"name", "project"}

    @classmethod
    def problems_together(cls, given):
        return super().problems_together(given) + spec_flags.run_problems(cls, given)


@app.cell(hide_code=True)
def lab(args, session):
    store, _params = session.open_lab(), mo.query_params()
    # `address` as it was opened, `typed` as the fields are now, for a press: nothing is drawn anew where they change
    page = SimpleNamespace(address=_params.to_dict(), set_address=_params.set, typed={}, presses=0, unknown=None)
    page.keep = lambda name: lambda value: page.typed.update({name: value})
    _asked = args.run or page.address.get("run")
    _found = session.call(verbs.find_run, store, _asked) if _asked else None
    page.unknown = _found.error if _found is not None else None
    get_run, page.set_run = mo.state(_found.value.id if _found is not None and not _found.failed else None)
    # a press is found again by whoever has its address or looks at its run, with which what was refused is kept
    _find = background.under_way if get_run() else background.find
    get_work, page.set_work = mo.state(_find(f"dryrun:{get_run() or page.address.get('press')}"), allow_self_loops=True)
    page.standing = lambda: background.standing(session, store, get_run(), get_work())
    get_state, page.set_state = mo.state(page.standing())
    get_error, page.set_error = mo.state(None)  # of a change
    page.off = None if session.is_script else background.presses()  # a button goes off where it is pressed
    page.off
    return get_error, get_run, get_state, get_work, page, store


@app.cell(hide_code=True)
def where(args, get_run, page, session):
    place = mo.ui.dictionary(
        {
            **target_flags.form(args, mo.ui),
            "max_usd": mo.ui.number(0, 1e6, value=args.max_usd or 0, label="May cost at most, $ (0: what is held)"),
            "minutes": mo.ui.number(0, 1e6, value=args.minutes or 0, label="Done in, min (0: any)"),
            "project": mo.ui.text(args.project, label="Project", debounce=False),
        },
        on_change=page.keep("place"),
    )
    _rows = [("on", "device", "spot", "where"), ("gpus", "nodes", "usd_per_hour", "fallback_prices")]
    _rows += [("max_usd", "minutes", "project")]
    _shown = [mo.hstack([place[n] for n in row], justify="start", wrap=True, align="end") for row in _rows]
    _no_run = [onward.problem(page.address, page.unknown)]
    _said = [mo.callout(mo.md(inert.paragraphs(_no_run)), kind="warn")] if page.unknown else []
    None if session.is_script or get_run() else mo.vstack([*_said, mo.md("### Where"), *_shown])
    return (place,)


@app.cell(hide_code=True)
def form(args, get_run, page, place, session, store):
    target = target_flags.target_of(place.value)
    _device = session.call(target.find_device, store)
    _fields = spec_flags.form(args, verbs.defaults_for(_device.value) if not _device.failed else {})
    _was = page.typed  # another machine changes no word that was typed
    _texts = {name: _was.get("plan", {}).get(name, one.text) for name, one in _fields.items()}
    _now = {"depth": _was.get("depth", args.depth or 2), "others": _was.get("others", "\n".join(args.set_fields))}
    _code = code_flags.form(args, _was.get("code", {}))
    page.typed.update(place=place.value, plan=_texts, code={n: text for n, (_, text) in _code.items()}, **_now)
    depth = mo.ui.number(1, 64, value=_now["depth"], label="Depth", on_change=page.keep("depth"))
    plan = mo.ui.dictionary(
        {
            name: mo.ui.text(
                _texts[name], label=inert.md("{}", one.label), placeholder=inert.vega(one.default), debounce=False
            )
            for name, one in _fields.items()
        },
        on_change=page.keep("plan"),
    )
    _boxes = {n: mo.ui.text_area(text, label=inert.md("{}", label), rows=1) for n, (label, text) in _code.items()}
    code = mo.ui.dictionary(_boxes, on_change=page.keep("code"))
    _keep = page.keep("others")
    others = mo.ui.text_area(_now["others"], label=inert.md("{}", OTHERS), rows=2, debounce=False, on_change=_keep)
    _first = mo.hstack([depth, *(plan[name] for name in spec_flags.FIRST)], justify="start", wrap=True, align="end")
    _more = mo.hstack([plan[n] for n in _fields if n not in spec_flags.FIRST], justify="start", wrap=True, align="end")
    _own = {"Your own training code, in place of a depth": mo.vstack([code[name] for name in _code])}
    _parts = mo.accordion({"More": mo.vstack([_more, others])} | _own)
    _planned = mo.vstack([mo.md("### Plan"), _first, _parts])
    None if session.is_script or get_run() else _planned
    return code, depth, others, plan, target


@app.cell(hide_code=True)
def estimate(args, code, depth, get_run, others, plan, session, store, target):
    mo.stop(get_run() or code.value["workload"])
    _given = session.call(spec_flags.of_form, plan.value, others.value, file=args.spec)
    mo.stop(_given.failed, mo.callout(mo.md(_given.error_markdown()), kind="danger"))
    spec = spec_flags.with_depth(_given.value, args.depth, depth.value)
    _outcome = session.call(verbs.preview, store, target, spec)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    mo.md(inert.paragraphs([planning.words(_outcome.value)]))
    return


@app.cell(hide_code=True)
def money(args, get_state, page):
    get_state()  # paid in once: after a press it is empty again
    page.typed["deposit"] = args.deposit if page.presses == 0 else 0
    page.presses, page.paid = page.presses + 1, f":{uuid.uuid4().hex[:8]}"
    _now = {"value": page.typed["deposit"], "on_change": page.keep("deposit")}
    deposit = mo.ui.number(0, 1e6, step=0.01, label="Deposit first, $", **_now)
    return (deposit,)


@app.cell(hide_code=True)
def press(args, deposit, get_run, get_state, get_work, page, session, store):
    get_state()
    _is_busy = background.is_busy(get_work())

    def make(given, say):
        _asked = {"depth": args.depth, "file": args.spec, "name": args.name, "flags": args}
        _who = {"actor": session.actor, "key": session.key, "try_anyway": args.try_anyway}
        return planning.plan(store, given, **_asked, **_who, say=say)

    def prove(run_id, given, say):
        _once = f"dryrun:{args.key}" if args.key else None  # a page's second press proves it again
        _deposit = {"deposit": given["deposit"], "deposit_key": session.key + ("" if session.is_script else page.paid)}
        return planning.prove(store, run_id, **_deposit, actor=session.actor, key=_once, say=say)

    def begin(is_proof):
        _run = get_run()

        def plan_first(work):
            _given = dict(page.typed)
            _made = make(_given, work.say)
            if is_proof:
                background.start(f"dryrun:{_made}", lambda then: prove(_made, _given, then.say))
            return _made

        page.set_address("press", session.key)
        _now = (lambda work: prove(_run, dict(page.typed), work.say)) if _run else plan_first
        page.set_work(background.pressed(f"dryrun:{_run or session.key}", _now))

    _known = session.call(verbs.find_run, store, get_run()).value if get_run() else None
    _is_waiting = _known is None or _known.state in (verbs.RunState.DRAFT, verbs.RunState.AWAITING_FUNDING)
    _words = "Under way ..." if _is_busy else "Dryrun again" if _known and _known.dryrun else "Dryrun now"
    button = mo.ui.button(
        label=inert.md("{}", _words), kind="success", disabled=_is_busy, on_click=lambda _: begin(True)
    )
    only_plan = mo.ui.button(label="Only plan it", disabled=_is_busy, on_click=lambda _: begin(False))
    _row = [deposit, button] if get_run() else [deposit, button, only_plan]
    mo.hstack(_row, justify="start", align="end") if _is_waiting and not session.is_script else None
    return make, prove


@app.cell(hide_code=True)
def progress(get_error, get_state, get_work, page, ticker):
    ticker, get_state(), page.off and page.off.look(get_work())
    _work = get_work()
    _error = (_work and _work.error) or (get_error() and get_error().error)
    _is_busy = background.is_busy(_work)
    mo.stop(not _is_busy and not _error)
    _words = background.progress(_work) if _is_busy else onward.problem(page.address, _error)
    mo.callout(mo.md(inert.paragraphs([_words])), kind="info" if _is_busy else "danger")
    return


@app.cell(hide_code=True)
def act_as_script(args, get_run, make, page, prove, session, store):
    if session.is_script and args.amend:
        session.call(verbs.amend, store, get_run(), changes=code_flags.changes(args), actor=session.actor)
    if session.is_script and args.draft and not get_run():
        page.set_run(session.call(make, page.typed, session.status).value)
    elif session.is_script:
        _known = session.call(verbs.find_run, store, get_run()).value if get_run() else None
        if args.yes or _known is None or (_known.dryrun is None and not args.draft):
            session.confirm(args.yes, "a dryrun holds and spends a little money", "--yes")
            if not get_run():
                page.set_run(session.call(make, page.typed, session.status).value)
            session.call(prove, get_run(), page.typed, session.status)
            session.on_interrupt = "the dryrun goes on"
            session.look_again = f"patron watch --run {get_run()}"
            session.call(
                verbs.wait,
                store,
                get_run(),
                until=frozenset(verbs.RunState) - {verbs.RunState.DRYRUN},
                timeout_s=args.timeout_s,
                on_view=session.progress,
            )
    acted = True
    return (acted,)


@app.cell(hide_code=True)
def look(acted, get_run, get_state, get_work, page, session, store):
    acted, get_state()
    mo.stop(not get_run())
    _outcome = session.call(verbs.view, store, get_run())
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    seen = _outcome.value
    _refused = seen.refused if get_work() is None else None  # what this page asked for is told above
    _said = [mo.callout(mo.md(inert.md("Refused: {}", _refused["message"])), kind="warn")] if _refused else []
    _like = onward.buttons(page.address, verbs.plan_again(seen.run), words="Plan another like it")
    mo.vstack(
        [
            mo.md(inert.md("## {}\n\n{}", seen.run.name, seen.sentence)),
            *_said,
            mo.md(inert.paragraphs([onward.buttons(page.address, seen.next), _like])),
            mo.Html(show.html_table(seen.attempts, show.attempt_columns(), empty="No burst yet.")),
        ]
    )
    return (seen,)


@app.cell(hide_code=True)
def change(get_run, get_state, page, session, store):
    def amend(text):
        _given = session.call(spec_flags.of_form, {}, text)
        _asked = {"changes": _given.value, "actor": session.actor}
        page.set_error(_given if _given.failed else session.call(verbs.amend, store, get_run(), **_asked))

    _state, _, _ = get_state()
    _form = mo.ui.text_area(placeholder="num_steps=400", label="What a dryrun does not measure, key=value a line")
    _changed = _form.form(submit_button_label="Change it", on_change=amend)
    _is_proven = _state and _state[1] is verbs.RunState.AWAITING_FUNDING
    mo.accordion({"Change it without another dryrun": _changed}) if _is_proven and not session.is_script else None
    return


@app.cell(hide_code=True)
def measured(seen, store):
    repriced = verbs.repriced_any(store, seen.run) if seen.run.dryrun else None
    pairs = measured_beside_estimated(seen.run, repriced) if repriced else []
    table = tables.measured()
    _told = [(show.plain(name), show.yes_no(value)) for name, value in rehearsed(seen.run)]
    _rehearsal = mo.Html(show.facts_table(_told)) if _told else mo.md("This dryrun did not rehearse it.")
    _pairs = [mo.md("### Measured beside estimated"), mo.Html(show.html_table(pairs, table))]
    mo.vstack([*_pairs, mo.md("### Kill and resume, rehearsed"), _rehearsal]) if repriced else None
    return pairs, repriced, table


@app.cell(hide_code=True)
def answer(args, pairs, repriced, seen, session, table):
    _proof = {"dryrun": seen.run.dryrun, "estimate": repriced.to_dict()} if repriced else {}
    _pairs = ["", show.text_table(pairs, table)] if repriced else []
    _lines = [f"{seen.run.name} ({seen.run.id}): {seen.sentence}", *_pairs, f"next: {seen.next}"]
    session.emit(seen.to_dict() | _proof, "\n".join(_lines))
    session.end(verbs.exit_code(seen) if args.yes or not repriced else 0)
    return


@app.cell(hide_code=True)
def ticking(get_run, get_state, get_work, session):
    _is_busy = background.is_busy(get_work())
    ticker = mo.ui.refresh(default_interval="1s" if _is_busy or background.is_active(get_state()) else "5s")
    None if session.is_script or not (get_run() or _is_busy) else ticker
    return (ticker,)


@app.cell(hide_code=True)
def follow(get_run, get_state, get_work, page, ticker):
    ticker
    _work, _found = get_work(), background.under_way(f"dryrun:{get_run()}")
    if not get_run() and _work is not None and _work.value:  # planned: from now on it is that run's page
        page.set_address("run", _work.value)
        page.set_run(_work.value)
        page.set_work(background.find(f"dryrun:{_work.value}"))
    elif _found is not None and _found is not _work:
        page.set_work(_found)
    elif (_standing := page.standing()) != get_state():
        page.set_state(_standing)
    return


if __name__ == "__main__":
    app.run()
