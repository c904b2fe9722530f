"""Dryrun: prove a plan with a short burst on the real machine, and put what it measured beside the estimate.

python notebooks/2_dryrun.py --depth 2 --steps 200 --deposit 0.05 --yes     plan it, and prove it
python notebooks/2_dryrun.py --run RUN                                      what a dryrun of it measured, or would cost
marimo run notebooks/2_dryrun.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: dryrun")

with app.setup:
    from typing import Literal

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import inert, show, tables
    from patron_core.ui.script import Arguments, Usd, open_session

    SMALL = verbs.Question().spec  # what a laptop trains in a minute


@app.class_definition
class DryrunArguments(Arguments):
    run: str = Field(default="", description="a run that was planned before; else one is planned from the flags below")
    depth: int = Field(default=2, ge=1, le=64, description="depth of the model")
    steps: int = Field(default=200, ge=1, le=10**8, description="training steps")
    data: str = Field(default=SMALL["data"], description="stdlib, fineweb-edu, climbmix or path:/a/file/or/folder")
    vocab_size: int = Field(default=SMALL["vocab_size"], ge=272, le=262144, description="tokens in the vocabulary")
    sequence_len: int = Field(default=SMALL["sequence_len"], ge=16, le=65536, description="tokens of context")
    batch_tokens: int = Field(default=SMALL["batch_tokens"], ge=16, le=2**26, description="tokens in a step")
    name: str = Field(default="", description="name of the run; else one is made")
    project: str = Field(default=verbs.DEFAULT_PROJECT, min_length=1, description="wallet and notes to use")
    max_usd: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars that the run may ever cost")
    deposit: Usd = Field(default=0.0, ge=0, le=1e6, description="dollars to put into the wallet first")
    key: str = Field(default="", description="idempotency key: the same key plans and deposits once")
    on: Literal["local", "sky"] = Field(default="local", description="this machine, or one that SkyPilot finds")
    device: str = Field(default="", description="GPU to rent with --on sky, for instance A100-40GB or H100")
    spot: bool = Field(default=False, description="rent a machine that may be taken away, at a fraction of the price")
    where: str = Field(default="", description="only there, as SkyPilot writes it: gcp/us-central1, slurm/lab/gpu")
    usd_per_hour: Usd | None = Field(default=None, gt=0, le=1e4, description="price of it; else from the catalog")
    fallback_prices: bool = Field(default=False, description="the dated table of list prices, and no catalog")
    yes: bool = Field(default=False, description="confirm: spend what the burst costs")
    timeout_s: float = Field(default=900.0, gt=0, le=1e6, description="stop watching after this many seconds")


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
def form(args, get_run, session):
    depth = mo.ui.number(1, 64, value=args.depth, label="Depth")
    steps = mo.ui.number(1, 10**8, value=args.steps, label="Steps")
    data = mo.ui.text(args.data, label="Data")
    vocab_size = mo.ui.number(272, 262144, value=args.vocab_size, label="Vocabulary")
    sequence_len = mo.ui.number(16, 65536, value=args.sequence_len, label="Context, tokens")
    batch_tokens = mo.ui.number(16, 2**26, value=args.batch_tokens, label="Batch, tokens")
    deposit = mo.ui.number(0, 1e6, value=args.deposit, step=0.01, label="Deposit first, $")
    _plan = mo.hstack([depth, steps, data, vocab_size, sequence_len, batch_tokens], justify="start", wrap=True)
    None if session.is_script else mo.vstack([mo.md("### Plan"), _plan, deposit]) if not get_run() else deposit
    return batch_tokens, data, deposit, depth, sequence_len, steps, vocab_size


@app.cell
def estimate(args, batch_tokens, data, depth, get_run, sequence_len, session, steps, store, vocab_size):
    spec = SMALL | {
        "depth": depth.value,
        "num_steps": steps.value,
        "data": data.value,
        "vocab_size": vocab_size.value,
        "sequence_len": sequence_len.value,
        "batch_tokens": batch_tokens.value,
        "device_batch_size": max(1, min(SMALL["device_batch_size"], batch_tokens.value // sequence_len.value)),
    }
    target = verbs.Target(
        executor=args.on,
        device=args.device or verbs.LOCAL_DEVICE,
        spot=args.spot,
        only=args.where,
        usd_micros_per_hour=verbs.from_usd(args.usd_per_hour) if args.usd_per_hour else None,
        fallback=args.fallback_prices,
    )
    _outcome = session.call(
        verbs.estimates, store, depths=[depth.value], devices=[target.device], spec=spec, spot=target.spot
    )
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    _row = _outcome.value[0]
    _words = inert.md(
        "**Depth {}**: {} parameters, {}, {}, val_bpb {}, as estimated before any measurement.",
        _row.recipe.depth,
        show.count(_row.num_params["total"]),
        show.between(_row.wall_s, show.seconds),
        show.between(_row.cost_usd_micros, show.usd),
        show.between(_row.val_bpb, show.bpb),
    )
    mo.md(inert.md("{}", _words)) if not get_run() else None
    return spec, target


@app.cell
def start(actor, args, deposit, get_run, key, params, session, set_error, set_run, spec, store, target):
    def prove(_=None):
        _run_id = get_run()
        if not _run_id:
            _plan = session.call(
                verbs.plan,
                store,
                spec=spec,
                project=args.project,
                name=args.name or None,
                max_usd_micros=verbs.from_usd(args.max_usd) if args.max_usd else None,
                target=target,
                actor=actor,
                key=f"dryrun:{key}",
            )
            set_error(_plan)
            if _plan.failed:
                return
            _run_id = _plan.value.id
        if deposit.value:
            session.call(
                verbs.deposit,
                store,
                project=verbs.view(store, _run_id).run.project,
                usd_micros=verbs.from_usd(deposit.value),
                key=f"deposit:{_run_id}:{key}",
                actor=actor,
            )
        set_run(_run_id)
        if not session.is_script:
            params["run"] = _run_id
        _once = f"dryrun:{args.key}" if args.key else None  # a page's second press proves it again
        _begun = session.call(verbs.dryrun, store, _run_id, actor=actor, key=_once)
        set_error(_begun)
        if not _begun.failed:
            verbs.ensure_running(store)

    _known = session.call(verbs.view, store, get_run()).value if get_run() else None
    _waiting = _known is None or _known.run.state in (verbs.RunState.DRAFT, verbs.RunState.AWAITING_FUNDING)
    _again = "again" if _known is not None and _known.run.dryrun else "now"
    _button = mo.ui.button(label=inert.md("Dryrun {}", _again), kind="success", on_click=prove)
    _button if _waiting and not session.is_script else None
    return (prove,)


@app.cell
def act_as_script(args, get_run, prove, session, store):
    if session.is_script:
        _known = session.call(verbs.view, store, get_run()).value if get_run() else None
        if args.yes or _known is None or _known.run.dryrun is None:
            session.confirm(args.yes, "a dryrun holds and spends a little money", "--yes")
            prove()
            session.on_interrupt = "the dryrun goes on"
            session.look_again = f"python notebooks/4_watch.py --run {get_run()}"
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
    _was, _got = seen.run.estimate or {}, seen.run.dryrun["measured"]
    repriced = verbs.repriced(store, seen.run)
    pairs = [
        ("a step", show.between(_was["step_s"], show.seconds), show.seconds(_got.get("step_s"))),
        ("MFU", show.percent(_was.get("mfu_expected")), show.percent(_got.get("mfu"))),
        (
            "peak memory",
            show.between(_was["memory"]["peak_bytes"], show.size),
            show.size(_got.get("peak_memory_bytes")),
        ),
        ("an evaluation", show.between(_was["eval_s"], show.seconds), show.seconds(_got.get("eval_s"))),
        ("start to first step", show.between(verbs.startup_s(_was), show.seconds), show.seconds(_got.get("start_s"))),
        (
            "a checkpoint",
            show.DASH,
            f"{show.seconds(_got.get('checkpoint_s'))}, {show.size(_got.get('checkpoint_bytes'))}",
        ),
        ("training stalls for it", show.DASH, show.seconds(_got.get("checkpoint_stall_s"))),
        (
            "training tokens",
            show.count(_got.get("train_tokens_needed")),
            f"{show.count(_got.get('train_tokens_available'))} there",
        ),
        ("wall time", show.between(_was["wall_s"], show.seconds), show.between(repriced.wall_s, show.seconds)),
        ("cost", show.between(_was["cost_usd_micros"], show.usd), show.between(repriced.cost_usd_micros, show.usd)),
        ("val_bpb", show.between(_was["val_bpb"], show.bpb), show.between(repriced.val_bpb, show.bpb)),
    ]
    table = tables.measured()
    mo.vstack([mo.md("### Measured beside estimated"), mo.Html(show.html_table(pairs, table))])
    return pairs, repriced, table


@app.cell
def rehearsal(seen):
    mo.stop(not seen.run.dryrun)
    _told = seen.run.dryrun.get("rehearsal") or {}
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
