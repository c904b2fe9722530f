"""Estimate: what a depth takes on a device, before any money is spent.

patron estimate                                       depths 6 to 12 on A100-40GB, one hour, $10
patron estimate --depths 8,10 --devices H100,A100-40GB --spot --json
patron estimate --core eval_bundle/                   and what CORE, the metric of 22 tasks, takes of each
patron estimate --prices --clouds gcp,aws --max-usd-per-hour 6      where to run it, and why not elsewhere
marimo run notebooks/1_estimate.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Patron: estimate")

with app.setup(hide_code=True):
    from typing import Annotated

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import estimate_points, inert, onward, price_view, show, spec_flags, tables
    from patron_core.ui.script import Usd, open_session

    MOST_ROWS = 100  # in the table; the chart has all


@app.cell(hide_code=True)
def title():
    session = open_session(
        EstimateArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        address=mo.query_params().to_dict(),
        file=__file__,
        description="What depths take on devices: size, memory, time, money and predicted loss. Spends nothing.",
    )
    args = session.args
    mo.md(
        """
        # Estimate

        What would a model of this depth take on this device, and what loss would it reach? Nothing is spent here; a
        dryrun replaces the assumptions by measurements.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class EstimateArguments(spec_flags.SpecArguments):
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(6, 8, 10, 12), min_length=1, description="depths to estimate"
    )
    devices: tuple[str, ...] = Field(
        default=("A100-40GB",), min_length=1, description=f"any of {', '.join(verbs.device_names())}"
    )
    minutes: float = Field(default=60.0, gt=0, le=1e6, description="time budget")
    budget: Usd = Field(default=10.0, gt=0, le=1e6, description="money budget in dollars")
    spot: bool = Field(default=False, description="spot prices, and the reclaims that come with them")
    gpus: int = Field(
        default=1, ge=1, le=verbs.MOST_GPUS, description="GPUs of each machine; here without GPUs, processes"
    )
    nodes: int = Field(default=1, ge=1, le=verbs.MOST_NODES, description="machines that train together")
    usd_per_hour: Usd | None = Field(default=None, gt=0, le=1e5, description="of one GPU, where no price is known")
    core: str = Field(default="", description="folder with CORE's task files: what measuring it takes, too")
    prices: bool = Field(default=False, description="look up what the devices cost at clouds, and where to run")
    clouds: tuple[str, ...] = Field(default=verbs.CLOUDS, min_length=1, description="clouds whose prices count")
    max_usd_per_hour: Usd | None = Field(default=None, gt=0, le=1e5, description="nothing that costs more an hour")
    fallback_prices: bool = Field(default=False, description="a dated table of list prices instead of a catalog's")
    FROM_ADDRESS = (
        spec_flags.FROM_ADDRESS | {"depths", "devices", "minutes", "budget", "spot"} | {"gpus", "nodes", "usd_per_hour"}
    )


@app.cell(hide_code=True)
def question(args):
    depths = mo.ui.multiselect([str(d) for d in range(1, 65)], value=[str(d) for d in args.depths], label="Depths")
    _known = list(dict.fromkeys([*verbs.device_names(), *args.devices]))
    devices = mo.ui.multiselect(_known, value=list(args.devices), label="Devices")
    minutes = mo.ui.number(0.01, 1e6, value=args.minutes, step=1, label="Budget, min")
    budget = mo.ui.number(0.0001, 1e6, value=args.budget, step=1, label="Budget, $")
    spot = mo.ui.switch(value=args.spot, label="Spot machines")
    gpus = mo.ui.number(1, verbs.MOST_GPUS, value=args.gpus, label="GPUs of each machine")
    nodes = mo.ui.number(1, verbs.MOST_NODES, value=args.nodes, label="Machines")
    mo.hstack([depths, devices, gpus, nodes, minutes, budget, spot], justify="start", gap=1.5, wrap=True, align="end")
    return budget, depths, devices, gpus, minutes, nodes, spot


@app.cell(hide_code=True)
def details(args, devices, session, store):
    _device = session.call(verbs.device_named, store, (devices.value or [verbs.LOCAL_DEVICE])[0])
    _fields = spec_flags.form(args, verbs.defaults_for(_device.value) if not _device.failed else {})
    fields = mo.ui.dictionary(
        {
            name: mo.ui.text(one.text, label=inert.md("{}", one.label), placeholder=inert.vega(one.default))
            for name, one in _fields.items()
        }
    )
    others = mo.ui.text_area("\n".join(args.set_fields), label="Any other field, key=value a line", rows=2)
    _named = mo.hstack([fields[name] for name in _fields], justify="start", wrap=True, gap=1.5)
    mo.accordion({"Recipe": mo.vstack([_named, others])})
    return fields, others


@app.cell(hide_code=True)
def market_question(args):
    look_up = mo.ui.switch(value=args.prices or args.fallback_prices, label="Prices at clouds")
    clouds = mo.ui.multiselect(sorted({*verbs.PRICED_CLOUDS, *args.clouds}), value=list(args.clouds), label="Clouds")
    max_usd_per_hour = mo.ui.number(0, 1e5, value=args.max_usd_per_hour or 0, label="At most, $ an hour (0: any)")
    dated = mo.ui.switch(value=args.fallback_prices, label="Dated list prices instead")
    mo.hstack([look_up, clouds, max_usd_per_hour, dated], justify="start", gap=1.5, wrap=True, align="end")
    return clouds, dated, look_up, max_usd_per_hour


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab(make=False)  # finished runs sharpen the prediction; without a lab nothing is made
    address = mo.query_params().to_dict()
    return address, store


@app.cell(hide_code=True)
def ask(args, budget, depths, devices, fields, gpus, minutes, nodes, others, session, spot, store):
    budget_s = 60 * minutes.value
    outcome = session.call(spec_flags.of_form, fields.value, others.value, file=args.spec)
    if not outcome.failed:
        outcome = session.call(
            verbs.estimates,
            store,
            depths=sorted(int(depth) for depth in depths.value),
            devices=devices.value,
            spec=outcome.value,
            budget_s=budget_s,
            budget_usd_micros=verbs.from_usd(budget.value),
            spot=spot.value,
            usd_micros_per_hour=verbs.from_usd(args.usd_per_hour) if args.usd_per_hour else None,
            world=verbs.WorldSize(per_node=gpus.value, nodes=nodes.value),
        )
    return budget_s, outcome


@app.cell(hide_code=True)
def chart(session):
    # built once: a budget that moves only tells it what is new
    board = None if session.is_script else estimate_points.board()
    board
    return (board,)


@app.cell(hide_code=True)
def draw(board, budget_s, outcome):
    None if board is None else board.show([estimate_points.points(outcome.value or [], budget_s=budget_s)])
    return


@app.cell(hide_code=True)
def estimate(outcome):
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    rows = outcome.value
    return (rows,)


@app.cell(hide_code=True)
def core(args, rows, session):
    cores = [None] * len(rows)
    if args.core:
        _priced = session.call(verbs.core_prices, rows, args.core)
        mo.stop(_priced.failed, mo.callout(mo.md(_priced.error_markdown()), kind="danger"))
        cores = _priced.value
    return (cores,)


@app.cell(hide_code=True)
def columns():
    table = tables.estimates()
    return (table,)


@app.cell(hide_code=True)
def market(clouds, dated, devices, look_up, session):
    prices = None
    if look_up.value:
        prices = session.call(verbs.prices, devices.value, clouds=clouds.value, fallback=dated.value)
    return (prices,)


@app.cell(hide_code=True)
def places(budget, budget_s, max_usd_per_hour, prices, rows, session):
    placed = []
    if prices is not None and not prices.failed:
        _placed = session.call(
            verbs.place_depths,
            rows,
            prices.value,
            deadline_s=budget_s,
            budget_usd_micros=verbs.from_usd(budget.value),
            max_usd_micros_per_hour=verbs.from_usd(max_usd_per_hour.value) if max_usd_per_hour.value else None,
        )
        placed = _placed.value or []
    return (placed,)


@app.cell(hide_code=True)
def price_columns():
    price_table, place_table = tables.prices(), tables.places()
    return place_table, price_table


@app.cell(hide_code=True)
def answer(cores, placed, price_table, prices, rows, session, table):
    mo.stop(not session.is_script)
    _plans = [verbs.plan_of(row) for row in rows]
    _all = list(zip(rows, _plans, cores, strict=True))
    _answer = {
        "estimates": [row.to_dict() | {"plan": plan, "core": core and core.to_dict()} for row, plan, core in _all]
    }
    _lines = [show.text_table(rows, table), ""]
    for row, _, core in _all:
        _lines += [f"d{row.recipe.depth}: {row.sentence}", *([f"  {core.sentence}"] if core else [])]
    _lines += ["", "to plan and prove one:", *filter(None, _plans)] if any(_plans) else []
    if prices is not None and not prices.failed:
        _answer |= {"prices": prices.value.to_dict(), "placements": [one.to_dict() for one in placed]}
        _lines += ["", show.text_table(prices.value.by_region(), price_table), price_view.source_line(prices.value)]
        _lines += ["", *(one.sentence for one in placed)]
    session.emit(_answer, "\n".join(_lines))
    return


@app.cell(hide_code=True)
def candidates(rows, session, table):
    mo.stop(session.is_script)
    _parts = [mo.Html(show.html_table(rows[:MOST_ROWS], table))]
    if len(rows) > MOST_ROWS:
        _parts.append(mo.md(inert.md("The first {} of {} candidates; the chart has all.", MOST_ROWS, f"{len(rows):,}")))
    mo.vstack(_parts)
    return


@app.cell(hide_code=True)
def reasons(cores, rows, session):
    mo.stop(session.is_script)
    mo.accordion(
        {
            inert.md("d{} on {}: {}", row.recipe.depth, row.device.name, row.sentence): mo.md(
                inert.bullets([*row.assumptions, *([core.sentence] if core else [])])
            )
            for row, core in list(zip(rows, cores, strict=True))[:MOST_ROWS]
        }
    )
    return


@app.cell(hide_code=True)
def price_answer(price_table, prices, session):
    mo.stop(prices is None or session.is_script)
    mo.stop(prices.failed, mo.callout(mo.md(prices.error_markdown()), kind="warn"))
    mo.vstack(
        [
            mo.md("## Where"),
            mo.md(inert.md("{}", price_view.source_line(prices.value))),
            price_view.price_chart(prices.value),
            mo.accordion(
                {
                    "Prices by region": mo.Html(show.html_table(prices.value.by_region(), price_table)),
                    "Every price": mo.Html(price_view.price_table(prices.value)),
                    "Left out": mo.md(
                        inert.bullets(f"{one.what}: {one.why}" for one in prices.value.left_out) or "Nothing."
                    ),
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def place_answer(place_table, placed, session):
    mo.stop(not placed or session.is_script)
    mo.accordion(
        {
            inert.md("{}", one.sentence): mo.Html(
                show.html_table(
                    [one.placement.chosen, *one.placement.alternatives, *one.placement.refused]
                    if one.placement
                    else [],
                    place_table,
                )
            )
            for one in placed
        }
    )
    return


@app.cell(hide_code=True)
def choice_of_plan(rows, session):
    _labels = {f"d{row.recipe.depth} on {row.device.name}": n for n, row in enumerate(rows)}
    wanted = mo.ui.dropdown(_labels, value=next(iter(_labels), None), label="Plan")
    mo.stop(session.is_script or not rows)
    return (wanted,)


@app.cell(hide_code=True)
def plan_this(address, budget, rows, wanted):
    _plan = verbs.plan_of(rows[wanted.value])
    mo.stop(not _plan, mo.hstack([wanted, mo.md("Only estimated: Patron rents no such card.")]))
    _way_on = onward.buttons(address, f"{_plan} --max-usd {budget.value:.15g}")
    mo.hstack([wanted, mo.md(inert.paragraphs([_way_on]))], justify="start", align="end", wrap=True)
    return


@app.cell(hide_code=True)
def conventions():
    mo.md("""
    *params* counts everything that is trained; *w/o v-emb* leaves out the value embeddings, as most published
    sizes do; *scaling* is matrices and output head, which drives the token horizon and the loss law. *memory* is
    the upper bound.
    """)
    return


if __name__ == "__main__":
    app.run()
