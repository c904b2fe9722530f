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

with app.setup:
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import inert, show, spec_flags, tables, target_flags
    from patron_core.ui.measured import measured_beside_estimated
    from patron_core.ui.script import Usd, open_session


@app.class_definition
class DryrunArguments(spec_flags.SpecArguments, target_flags.TargetArguments, target_flags.LimitArguments):
    run: str = Field(default="", description="a run that was planned before; else one is planned from the flags below")
    depth: int | None = Field(default=None, ge=1, le=64, description="depth of the model; 2 where nothing says another")
    amend: bool = Field(
        default=False, description="change the proven run: what a dryrun does not measure, no new proof"
    )
    draft: bool = Field(default=False, description="only plan it: a draft, for nothing")
    try_anyway: bool = Field(default=False, description="also where memory may run out: the dryrun tells")
    name: str = Field(default="", description="name of the run; else one is made")
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet first")
    key: str = Field(default="", description="idempotency key: the same key plans and deposits once")
    yes: bool = Field(default=False, description="confirm: spend what the burst costs")
    timeout_s: float = Field(default=900.0, gt=0, le=1e6, description="stop watching after this many seconds")

    @classmethod
    def problems_together(cls, given):
        return super().problems_together(given) + spec_flags.run_problems(cls, given)


@app.cell
def title():
    session = open_session(
        DryrunArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
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


@app.cell
def lab(args, session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    key = session.key
    get_run, set_run = mo.state(params.get("run") or args.run)
    get_error, set_error = mo.state(None)
    return actor, get_error, get_run, key, params, set_error, set_run, store


@app.cell
def where(args, get_run, session):
    _on = next(label for label, name in target_flags.EXECUTORS.items() if name == args.on)
    place = mo.ui.dictionary(
        {
            "on": mo.ui.dropdown(target_flags.EXECUTORS, value=_on, label="Where"),
            "device": mo.ui.dropdown(
                target_flags.rentable(args.device), value=args.device or None, label="GPU", allow_select_none=True
            ),
            "spot": mo.ui.switch(value=args.spot, label="Spot"),
            "where": mo.ui.text(args.where, label="Only in", placeholder="gcp/us-central1"),
            "usd_per_hour": mo.ui.number(0, 1e4, value=args.usd_per_hour or 0, label="$ an hour (0: the catalog's)"),
            "max_usd": mo.ui.number(0, 1e6, value=args.max_usd or 0, label="May cost at most, $ (0: what is held)"),
            "minutes": mo.ui.number(0, 1e6, value=args.minutes or 0, label="Done in, min (0: any)"),
            "fallback_prices": mo.ui.switch(value=args.fallback_prices, label="Dated list prices"),
        }
    )
    _rows = [("on", "device", "spot", "where"), ("max_usd", "minutes", "usd_per_hour", "fallback_prices")]
    _shown = [mo.hstack([place[n] for n in row], justify="start", wrap=True, align="end") for row in _rows]
    None if session.is_script or get_run() else mo.vstack([mo.md("### Where"), *_shown])
    return (place,)


@app.cell
def form(args, get_run, place, session, store):
    target = target_flags.target_of(place.value)
    _device = session.call(verbs.device_named, store, target.device)
    _fields = spec_flags.form(args, verbs.defaults_for(_device.value) if not _device.failed else {})
    depth = mo.ui.number(1, 64, value=args.depth or 2, label="Depth")
    plan = mo.ui.dictionary(
        {
            name: mo.ui.text(one.text, label=inert.md("{}", one.label), placeholder=inert.vega(one.default))
            for name, one in _fields.items()
        }
    )
    others = mo.ui.text_area("\n".join(args.set_fields), label="Any other field, key=value a line", rows=2)
    deposit = mo.ui.number(0, 1e6, value=args.deposit, step=0.01, label="Deposit first, $")
    _first = mo.hstack([depth, *(plan[name] for name in spec_flags.FIRST)], justify="start", wrap=True, align="end")
    _more = mo.hstack([plan[n] for n in _fields if n not in spec_flags.FIRST], justify="start", wrap=True, align="end")
    _planned = mo.vstack([mo.md("### Plan"), _first, mo.accordion({"More": mo.vstack([_more, others])}), deposit])
    None if session.is_script else deposit if get_run() else _planned
    return deposit, depth, others, plan, target


@app.cell
def estimate(args, depth, get_run, others, plan, session, store, target):
    _given = session.call(spec_flags.of_form, plan.value, others.value, file=args.spec)
    mo.stop(_given.failed, mo.callout(mo.md(_given.error_markdown()), kind="danger"))
    spec = _given.value if args.depth is None and "depth" in _given.value else _given.value | {"depth": depth.value}
    _outcome = session.call(
        verbs.estimates, store, depths=[spec["depth"]], devices=[target.device], spec=spec, spot=target.spot
    )
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    _row = _outcome.value[0]
    spec = _row.spec.to_dict()
    _words = inert.md(
        "**Depth {}**: {} parameters, {}, {}, val_bpb {}, as estimated before any measurement.",
        _row.recipe.depth,
        show.count(_row.num_params["total"]),
        show.between(_row.wall_s, show.seconds),
        show.between(_row.cost_usd_micros, show.usd),
        show.between(_row.val_bpb, show.bpb),
    )
    mo.md(inert.md("{}", _words)) if not get_run() else None
    return (spec,)


@app.cell
def start(actor, args, deposit, get_run, key, params, place, session, set_error, set_run, spec, store, target):
    def make(_=None):
        _plan = session.call(
            verbs.plan,
            store,
            spec=spec,
            project=args.project,
            name=args.name or None,
            target=target,
            **target_flags.limits_of(place.value),
            try_anyway=args.try_anyway,
            actor=actor,
            key=f"dryrun:{key}",
        )
        set_error(_plan)
        if not _plan.failed:
            set_run(_plan.value.id)
            if not session.is_script:
                params["run"] = _plan.value.id
        return None if _plan.failed else _plan.value.id

    def prove(_=None):
        _run_id = get_run() or make()
        if not _run_id:
            return
        if deposit.value:
            session.call(
                verbs.deposit,
                store,
                project=verbs.view(store, _run_id).run.project,
                usd_micros=verbs.from_usd(deposit.value),
                key=f"deposit:{_run_id}:{key}",
                actor=actor,
            )
        _once = f"dryrun:{args.key}" if args.key else None  # a page's second press proves it again
        _begun = session.call(verbs.dryrun, store, _run_id, actor=actor, key=_once)
        set_error(_begun)
        if not _begun.failed:
            verbs.ensure_running(store)

    _known = session.call(verbs.view, store, get_run()).value if get_run() else None
    _waiting = _known is None or _known.run.state in (verbs.RunState.DRAFT, verbs.RunState.AWAITING_FUNDING)
    _again = "again" if _known is not None and _known.run.dryrun else "now"
    _button = mo.ui.button(label=inert.md("Dryrun {}", _again), kind="success", on_click=prove)
    _only = mo.ui.button(label="Only plan it", on_click=make)
    mo.hstack(
        [_button] if get_run() else [_button, _only], justify="start"
    ) if _waiting and not session.is_script else None
    return make, prove


@app.cell
def change(actor, args, get_run, session, set_error, store):
    def amend(fields):
        set_error(session.call(verbs.amend, store, get_run(), changes=fields, actor=actor))

    def amend_by(text):
        _given = session.call(spec_flags.of_form, {}, text)
        set_error(_given) if _given.failed else amend(_given.value)

    _known = session.call(verbs.view, store, get_run()).value if get_run() else None
    _proven = _known is not None and _known.run.state is verbs.RunState.AWAITING_FUNDING
    _form = mo.ui.text_area(placeholder="num_steps=400", label="What a dryrun does not measure, key=value a line")
    _changed = _form.form(submit_button_label="Change it", on_change=amend_by)
    if session.is_script and args.amend:
        amend(args.given_fields())
    mo.accordion({"Change it without another dryrun": _changed}) if _proven and not session.is_script else None
    amended = True
    return (amended,)


@app.cell
def act_as_script(amended, args, get_run, make, prove, session, store):
    amended
    if session.is_script and args.draft and not get_run():
        make()
    elif session.is_script:
        _known = session.call(verbs.view, store, get_run()).value if get_run() else None
        if args.yes or _known is None or (_known.run.dryrun is None and not args.draft):
            session.confirm(args.yes, "a dryrun holds and spends a little money", "--yes")
            prove()
            session.on_interrupt = "the dryrun goes on"
            session.look_again = f"patron watch --run {get_run()}"
            session.call(
                verbs.wait,
                store,
                get_run(),
                until=frozenset(verbs.RunState) - {verbs.RunState.DRYRUN},
                timeout_s=args.timeout_s,
                on_view=lambda now: session.status(show.progress_line(now)),
            )
    acted = True
    return (acted,)


@app.cell
def problem(get_error):
    mo.stop(get_error() is None or not get_error().failed)
    mo.callout(mo.md(get_error().error_markdown()), kind="danger")
    return


@app.cell
def ticking(get_run, session):
    ticker = mo.ui.refresh(options=["2s", "10s"], default_interval="2s")
    ticker if get_run() and not session.is_script else None
    return (ticker,)


@app.cell
def look(acted, get_run, session, store, ticker):
    acted, ticker
    mo.stop(not get_run())
    _outcome = session.call(verbs.view, store, get_run())
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    seen = _outcome.value
    _next = inert.md(" Next: {}", inert.code(seen.next)) if seen.run.state is not verbs.RunState.DRYRUN else ""
    mo.vstack(
        [
            mo.md(inert.md("## {}\n\n{}{}", seen.run.name, seen.sentence, _next)),
            mo.Html(show.html_table(seen.attempts, show.attempt_columns(), empty="No burst yet.")),
        ]
    )
    return (seen,)


@app.cell
def measured(seen, store):
    mo.stop(not seen.run.dryrun)
    repriced = verbs.repriced(store, seen.run)
    pairs = measured_beside_estimated(seen.run, repriced)
    table = tables.measured()
    mo.vstack([mo.md("### Measured beside estimated"), mo.Html(show.html_table(pairs, table))])
    return pairs, repriced, table


@app.cell
def rehearsal(seen):
    mo.stop(not seen.run.dryrun)
    _told = dict(seen.run.dryrun.get("rehearsal") or {})
    _told |= {"notice": seen.run.dryrun["notice"]} if seen.run.dryrun.get("notice") else {}
    mo.vstack(
        [
            mo.md("### Kill and resume, rehearsed"),
            mo.Html(show.facts_table((show.plain(name), show.yes_no(value)) for name, value in _told.items()))
            if _told
            else mo.md("This dryrun did not rehearse it."),
        ]
    )
    return


@app.cell
def answer(args, pairs, repriced, seen, session, table):
    session.emit(
        seen.to_dict() | {"dryrun": seen.run.dryrun, "estimate": repriced.to_dict()},
        "\n".join(
            [
                f"{seen.run.name} ({seen.run.id}): {seen.sentence}",
                "",
                show.text_table(pairs, table),
                f"next: {seen.next}",
            ]
        ),
    )
    session.end(verbs.exit_code(seen) if args.yes else 0)
    return


@app.cell
def unproven(acted, get_run, session, store):
    acted
    mo.stop(not session.is_script)
    _seen = session.call(verbs.view, store, get_run()).value
    if not _seen.run.dryrun:
        session.emit(_seen.to_dict(), f"{_seen.run.name}: {_seen.sentence}\nnext: {_seen.next}")
        session.end(verbs.exit_code(_seen))
    return


if __name__ == "__main__":
    app.run()
