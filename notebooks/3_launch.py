"""Launch: hold the money of a proven run and start it, exactly once.

patron launch --run RUN                        what would be held; launches nothing, exit 4
patron launch --run RUN --deposit 1 --yes      authorise $1, hold, launch
marimo run notebooks/3_launch.py                              then add ?run=RUN to the address, or choose
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Patron: launch")

with app.setup(hide_code=True):
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, choices, inert, onward, show
    from patron_core.ui.measured import what_is_trained
    from patron_core.ui.script import Arguments, Usd, open_session

    WAITING = (verbs.RunState.AWAITING_FUNDING, verbs.RunState.PAUSED, verbs.RunState.FUNDED)
    MORE = (verbs.RunState.LAUNCHING, verbs.RunState.RUNNING, verbs.RunState.RECOVERING)  # more money may be held


@app.cell(hide_code=True)
def title():
    session = open_session(
        LaunchArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Hold the money of a proven run and launch it, exactly once.",
    )
    args = session.args
    mo.md(
        """
        # Launch

        Launching holds the upper bound of the cost from the wallet, and the run can never be charged more than that.
        What it does not use goes back when it ends.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class LaunchArguments(Arguments):
    run: str = Field(default="", description="id, name or beginning of the id of the run")
    fund: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars to hold; else the upper bound")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet first")
    key: str = Field(default="", description="idempotency key: the same key holds and launches once")
    yes: bool = Field(default=False, description="confirm: hold the money and launch")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    actor = session.actor
    _params = mo.query_params()
    params, set_address = _params.to_dict(), _params.set  # as it was opened: nothing is drawn anew where it changes
    return actor, params, set_address, store


@app.cell(hide_code=True)
def choose(args, params, session, set_address, store):
    session.require("--run", args.run, next="patron lab")
    _waiting = [run for run in verbs.overview(store) if run.state in WAITING]
    _choice = choices.of_runs(session, store, _waiting, wanted=params.get("run") or args.run)
    chosen = mo.ui.dropdown(
        _choice.labels,
        value=_choice.value,
        label="Run",
        on_change=lambda run_id: set_address("run", run_id),
    )
    _problem = (
        [mo.callout(mo.md(inert.paragraphs([onward.problem(params, _choice.problem.error)])), kind="warn")]
        if _choice.problem
        else []
    )
    _fund = args.fund or onward.dollars(params, "fund")
    _typed = {"amount": _fund, "deposit": args.deposit}

    def _keep(name):
        return lambda value: _typed.update({name: value})

    amount = mo.ui.number(
        0, 1e6, value=_fund, step=0.01, label="Hold, $ (0: the upper bound)", on_change=_keep("amount")
    )
    deposit = mo.ui.number(0, 1e6, value=args.deposit, step=0.01, label="Deposit first, $", on_change=_keep("deposit"))

    def asked():  # what is in the fields now. Nothing that calls it is drawn anew while somebody types
        _hold, _pay = verbs.from_usd(_typed["amount"]), verbs.from_usd(_typed["deposit"])
        return {"usd_micros": _hold or None, "deposit_usd_micros": _pay}

    _asked = mo.hstack([chosen, amount, deposit], justify="start", gap=1.5, align="end", wrap=True)
    None if session.is_script else mo.vstack([_asked, *_problem])
    return amount, asked, chosen, deposit


@app.cell(hide_code=True)
def pressing(chosen, session, store):
    # a press is found again after a reload, and by whoever looks at the same run
    work_key = f"launch:{chosen.value}"
    get_work, set_work = mo.state(background.under_way(work_key), allow_self_loops=True)

    def state_now():
        return background.standing(session, store, chosen.value, get_work())

    get_state, set_state = mo.state(state_now())
    return get_state, get_work, set_state, set_work, state_now, work_key


@app.cell(hide_code=True)
def at_once(session):
    # a button goes off where it is pressed, before the server has heard of it
    presses = None if session.is_script else background.presses()
    presses
    return (presses,)


@app.cell(hide_code=True)
def offer(amount, chosen, get_state, params, session, store):
    get_state()
    mo.stop(
        chosen.value is None,
        mo.md(inert.md("No run that waits for money is chosen.\n\n{}", onward.buttons(params, "patron dryrun"))),
    )
    _known = session.call(verbs.find_run, store, chosen.value).value
    mo.stop(not session.is_script and _known.state not in WAITING and not (_known.state in MORE and amount.value))
    _hold = verbs.from_usd(amount.value) or None
    _outcome = session.call(verbs.offer, store, chosen.value, usd_micros=_hold, key=session.key)
    mo.stop(_outcome.failed, mo.callout(mo.md(inert.md("{}", onward.problem(params, _outcome.error))), kind="warn"))
    offered = _outcome.value
    return (offered,)


@app.cell(hide_code=True)
def terms(deposit, offered):
    _row, _wallet = offered.estimate, offered.wallet
    _limit = offered.run.max_usd_micros
    facts = [
        ("run", f"{offered.run.name} ({offered.run.id})"),
        ("state", show.mark(offered.run.state.value)),
        *what_is_trained(_row),
        ("machine", verbs.target_of(offered.run).words),
        ("wall time", show.between(_row.wall_s, show.seconds)),
        ("expected cost", show.between(_row.cost_usd_micros, show.usd)),
        ("price", f"{show.usd(_row.price.usd_micros_per_hour)} an hour"),
        ("may cost at most", show.usd(_limit) if _limit is not None else "what is held"),
        ("will be held", show.usd(offered.hold_usd_micros)),
        ("in the wallet", show.usd(_wallet.available_usd_micros)),
    ]
    _lacking = offered.short_usd_micros - verbs.from_usd(deposit.value)
    _words = inert.md("The wallet lacks {}. Deposit at least that, in the field above.", show.usd(_lacking))
    _short = [mo.callout(mo.md(inert.paragraphs([_words])), kind="warn")] if _lacking > 0 else []
    mo.vstack([mo.Html(show.facts_table(facts)), *_short])
    return (facts,)


@app.cell(hide_code=True)
def press(actor, asked, chosen, get_state, get_work, session, set_work, store, work_key):
    get_state()
    _work = get_work()
    _is_busy = background.is_busy(_work)
    _is_done = _work is not None and _work.done and _work.error is None
    _seen = session.call(verbs.view, store, chosen.value).value if chosen.value else None

    def start(work):
        _given = asked()
        _key = f"{session.key}-{len(_seen.attempts)}-{_given['usd_micros']}-{_given['deposit_usd_micros']}"
        return verbs.fund_and_launch(store, _seen.run.id, **_given, actor=actor, key=_key, on_progress=work.say)

    _can = _seen is not None and (_seen.run.state in WAITING or (_seen.run.state in MORE and not _is_done))
    _words = "Hold the money and launch" if _seen is None or _seen.run.state in WAITING else "Hold this much more"
    button = mo.ui.button(
        label=inert.md("{}", "Launching ..." if _is_busy else _words),
        kind="success",
        disabled=_is_busy,
        on_click=lambda _: set_work(background.pressed(work_key, start)),
    )
    button if (_can or _is_busy) and not session.is_script else None
    return


@app.cell(hide_code=True)
def act_as_script(actor, args, asked, chosen, facts, offered, session, store):
    if session.is_script:
        for _name, _value in facts:
            session.say(f"{_name:18} {_value.text if isinstance(_value, show.Mark) else _value}")
        session.confirm(args.yes, f"{show.usd(offered.hold_usd_micros)} would be held for {offered.run.id}", "--yes")
        _run = session.call(
            verbs.fund_and_launch,
            store,
            chosen.value,
            **asked(),
            actor=actor,
            key=session.key,
            on_progress=session.status,
        ).value
        session.emit(
            {"run": _run.id, "state": _run.state.value, "next": verbs.next_step(_run)},
            f"{_run.name} is {show.plain(_run.state.value)}\nnext: {verbs.next_step(_run)}",
        )
    return


@app.cell(hide_code=True)
def progress(get_work, presses, ticker):
    ticker
    presses and presses.look(get_work())
    mo.stop(not background.is_busy(get_work()))
    mo.callout(mo.md(inert.paragraphs([background.progress(get_work())])), kind="info")
    return


@app.cell(hide_code=True)
def result(chosen, get_state, get_work, params, session, store):
    get_state()
    mo.stop(session.is_script or chosen.value is None)
    _work, _said = get_work(), []
    if _work is not None and _work.error:
        _problem = onward.problem(params, _work.error)
        _said = [mo.callout(mo.md(inert.paragraphs([_problem])), kind="danger")]
    _seen = session.call(verbs.view, store, chosen.value).value
    if _seen.run.state not in WAITING:
        _words = inert.md("**{}** is {}. {}", _seen.run.name, show.plain(_seen.run.state.value), _seen.sentence)
        _way = onward.buttons(params, _seen.next)
        _kind = "success" if _seen.run.state in MORE else "neutral"
        _said.append(mo.callout(mo.md(inert.paragraphs([_words, _way])), kind=_kind))
    mo.vstack(_said) if _said else None
    return


@app.cell(hide_code=True)
def ticking(get_work, session):
    _is_busy = background.is_busy(get_work())
    ticker = mo.ui.refresh(default_interval="1s" if _is_busy else "5s")
    None if session.is_script else ticker
    return (ticker,)


@app.cell(hide_code=True)
def look(get_state, get_work, set_state, set_work, state_now, ticker, work_key):
    ticker
    _found = background.under_way(work_key)
    if _found is not None and _found is not get_work():
        set_work(_found)
    elif (_standing := state_now()) != get_state():
        set_state(_standing)
    return


if __name__ == "__main__":
    app.run()
