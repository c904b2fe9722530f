"""Launch: hold the money of a proven run and start it, exactly once.

patron launch --run RUN                        what would be held; launches nothing, exit 4
patron launch --run RUN --deposit 1 --yes      authorise $1, hold, launch
marimo run notebooks/3_launch.py                              then add ?run=RUN to the address, or choose
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Patron: launch")

with app.setup:
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import choices, inert, show
    from patron_core.ui.measured import what_is_trained
    from patron_core.ui.script import Arguments, Usd, open_session

    WAITING = (verbs.RunState.AWAITING_FUNDING, verbs.RunState.PAUSED, verbs.RunState.FUNDED)


@app.class_definition
class LaunchArguments(Arguments):
    run: str = Field(default="", description="id, name or beginning of the id of the run")
    fund: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars to hold; else the upper bound")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet first")
    key: str = Field(default="", description="idempotency key: the same key holds and launches once")
    yes: bool = Field(default=False, description="confirm: hold the money and launch")


@app.cell
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


@app.cell
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    return actor, params, store


@app.cell
def choose(args, params, session, store):
    session.require("--run", args.run, next="patron lab")
    _waiting = [run for run in verbs.overview(store) if run.state in WAITING]
    _choice = choices.of_runs(session, store, _waiting, wanted=params.get("run") or args.run)
    chosen = mo.ui.dropdown(
        _choice.labels,
        value=_choice.value,
        label="Run",
        on_change=lambda run_id: params.set("run", run_id),
    )
    _problem = [mo.callout(mo.md(_choice.problem.error_markdown()), kind="warn")] if _choice.problem else []
    amount = mo.ui.number(0, 1e6, value=args.fund or 0, step=0.01, label="Hold, $ (0: the upper bound)")
    deposit = mo.ui.number(0, 1e6, value=args.deposit, step=0.01, label="Deposit first, $")
    _asked = mo.hstack([chosen, amount, deposit], justify="start", gap=1.5, align="end")
    None if session.is_script else mo.vstack([_asked, *_problem])
    return amount, chosen, deposit


@app.cell
def identity(session):
    key = session.key  # one key a page: pressing twice holds and launches once
    get_launch, set_launch = mo.state(None, allow_self_loops=True)
    return get_launch, key, set_launch


@app.cell
def offer(amount, chosen, get_launch, key, session, store):
    launched = get_launch() is not None and not get_launch().failed
    mo.stop(launched)
    mo.stop(
        chosen.value is None,
        mo.md("No run that waits for money is chosen. Prove one: `patron dryrun --depth 2`"),
    )
    _outcome = session.call(verbs.offer, store, chosen.value, usd_micros=verbs.from_usd(amount.value) or None, key=key)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="warn"))
    offered = _outcome.value
    return (offered,)


@app.cell
def terms(deposit, offered):
    _row, _wallet = offered.estimate, offered.wallet
    _limit = offered.run.max_usd_micros
    facts = [
        ("run", f"{offered.run.name} ({offered.run.id})"),
        ("state", show.mark(offered.run.state.value)),
        *what_is_trained(_row),
        ("wall time", show.between(_row.wall_s, show.seconds)),
        ("expected cost", show.between(_row.cost_usd_micros, show.usd)),
        ("price", f"{show.usd(_row.price.usd_micros_per_hour)} an hour"),
        ("may cost at most", show.usd(_limit) if _limit is not None else "what is held"),
        ("will be held", show.usd(offered.hold_usd_micros)),
        ("in the wallet", show.usd(_wallet.available_usd_micros)),
    ]
    lacking = offered.short_usd_micros - verbs.from_usd(deposit.value)
    _short = (
        mo.callout(mo.md(inert.md("The wallet lacks {}. Deposit at least that.", show.usd(lacking))), kind="warn")
        if lacking > 0
        else mo.md("")
    )
    mo.vstack([mo.Html(show.facts_table(facts)), _short])
    return facts, lacking


@app.cell
def press(
    actor,
    amount,
    chosen,
    deposit,
    key,
    lacking,
    offered,
    session,
    set_launch,
    store,
):
    def start(_=None):
        set_launch(
            session.call(
                verbs.fund_and_launch,
                store,
                chosen.value,
                usd_micros=verbs.from_usd(amount.value) or None,
                deposit_usd_micros=verbs.from_usd(deposit.value),
                actor=actor,
                key=key,
            )
        )

    _button = mo.ui.button(
        label=inert.md("Hold {} and launch", show.usd(offered.hold_usd_micros)),
        kind="success",
        disabled=lacking > 0,
        on_click=start,
    )
    None if session.is_script else _button
    return (start,)


@app.cell
def act_as_script(args, facts, get_launch, offered, session, start):
    if session.is_script:
        for _name, _value in facts:
            session.say(f"{_name:18} {_value.text if isinstance(_value, show.Mark) else _value}")
        session.confirm(args.yes, f"{show.usd(offered.hold_usd_micros)} would be held for {offered.run.id}", "--yes")
        start()
        _run = get_launch().value
        session.emit(
            {"run": _run.id, "state": _run.state.value, "next": verbs.next_step(_run)},
            f"{_run.name} is {show.plain(_run.state.value)}\nnext: {verbs.next_step(_run)}",
        )
    return


@app.cell
def result(get_launch, params):
    _done = get_launch()
    mo.stop(_done is None)
    mo.stop(_done.failed, mo.callout(mo.md(_done.error_markdown()), kind="danger"))
    _run = _done.value
    _link = show.page(params, "4_watch", run=_run.id)
    _command = inert.md("Watch it: {}", inert.code(f"patron watch --run {_run.id}"))
    _watch = inert.link("Watch it", _link) if _link else _command
    mo.callout(mo.md(inert.md("**{}** is {}. {}", _run.name, show.plain(_run.state.value), _watch)), kind="success")
    return


if __name__ == "__main__":
    app.run()
