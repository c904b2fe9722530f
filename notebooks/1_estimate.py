"""Estimate: what a depth takes on a device, before any money is spent.

python notebooks/1_estimate.py                                       depths 6 to 12 on A100-40GB, one hour, $10
python notebooks/1_estimate.py --depths 8,10 --devices H100,A100-40GB --spot --json
marimo run notebooks/1_estimate.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Patron: estimate")

with app.setup:
    from typing import Annotated

    import marimo as mo
    from pydantic import Field

    from patron_core import charts, show, verbs
    from patron_core.script import Arguments, open_session


@app.class_definition
class EstimateArguments(Arguments):
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(6, 8, 10, 12), min_length=1, description="depths to estimate"
    )
    devices: tuple[str, ...] = Field(
        default=("A100-40GB",), min_length=1, description=f"any of {', '.join(verbs.device_names())}"
    )
    minutes: float = Field(default=60.0, gt=0, le=1e6, description="time budget")
    budget: float = Field(default=10.0, gt=0, le=1e6, description="money budget in dollars")
    spot: bool = Field(default=False, description="spot prices, and the reclaims that come with them")
    data: str = Field(default="climbmix", description="stdlib, fineweb-edu, climbmix or path:/a/file/or/folder")
    vocab_size: int = Field(default=32768, ge=272, le=262144, description="tokens in the vocabulary")
    sequence_len: int = Field(default=2048, ge=16, le=65536, description="tokens the model looks back over")
    ratio: float = Field(default=12.0, ge=0.01, le=1000, description="training tokens per scaling parameter")
    steps: int | None = Field(default=None, ge=1, le=10**8, description="training steps; beats the ratio")


@app.cell
def title():
    session = open_session(
        EstimateArguments,
        mode=mo.app_meta().mode,
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


@app.cell
def question(args):
    depths = mo.ui.multiselect([str(d) for d in range(1, 65)], value=[str(d) for d in args.depths], label="Depths")
    _known = list(dict.fromkeys([*verbs.device_names(), *args.devices]))
    devices = mo.ui.multiselect(_known, value=list(args.devices), label="Devices")
    minutes = mo.ui.number(0.01, 1e6, value=args.minutes, step=1, label="Budget, min")
    budget = mo.ui.number(0.0001, 1e6, value=args.budget, step=1, label="Budget, $")
    spot = mo.ui.switch(value=args.spot, label="Spot machines")
    mo.hstack([depths, devices, minutes, budget, spot], justify="start", gap=1.5, wrap=True, align="end")
    return budget, depths, devices, minutes, spot


@app.cell
def details(args):
    data = mo.ui.text(args.data, label="Data")
    vocab_size = mo.ui.number(272, 262144, value=args.vocab_size, label="Vocabulary")
    sequence_len = mo.ui.number(16, 65536, value=args.sequence_len, label="Context, tokens")
    ratio = mo.ui.number(0.01, 1000, value=args.ratio, step=0.5, label="Tokens per parameter")
    steps = mo.ui.number(0, 10**8, value=args.steps or 0, label="Steps (0: by the ratio)")
    mo.accordion(
        {"Recipe": mo.hstack([data, vocab_size, sequence_len, ratio, steps], justify="start", wrap=True, gap=1.5)}
    )
    return data, ratio, sequence_len, steps, vocab_size


@app.cell
def lab():
    store = verbs.find_lab()  # finished runs sharpen the prediction; without a lab nothing is made
    return (store,)


@app.cell
def estimate(
    budget,
    data,
    depths,
    devices,
    minutes,
    ratio,
    sequence_len,
    session,
    spot,
    steps,
    store,
    vocab_size,
):
    budget_s = 60 * minutes.value
    outcome = session.call(
        verbs.estimates,
        store,
        depths=sorted(int(depth) for depth in depths.value),
        devices=devices.value,
        spec={
            "data": data.value,
            "vocab_size": vocab_size.value,
            "sequence_len": sequence_len.value,
            "ratio": ratio.value,
            "num_steps": steps.value or None,
        },
        budget_s=budget_s,
        budget_usd_micros=round(1e6 * budget.value),
        spot=spot.value,
    )
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    rows = outcome.value
    return budget_s, rows


@app.cell
def columns():
    table = [
        show.Column("depth", lambda r: str(r.recipe.depth)),
        show.Column("device", lambda r: r.device.name, "left"),
        show.Column("verdict", lambda r: show.mark(str(r.verdict)), "left"),
        show.Column("wall time", lambda r: show.between(r.wall_s, show.seconds)),
        show.Column("cost", lambda r: show.between(r.cost_usd_micros, show.usd)),
        show.Column("val_bpb", lambda r: show.between(r.val_bpb, show.bpb)),
        show.Column("params", lambda r: show.count(r.num_params["total"])),
        show.Column("w/o v-emb", lambda r: show.count(r.num_params["without_value_embeds"])),
        show.Column("scaling", lambda r: show.count(r.num_params["scaling"])),
        show.Column("tokens", lambda r: show.count(r.recipe.train_tokens)),
        show.Column("FLOPs", lambda r: show.flops(r.recipe.train_flops)),
        show.Column("memory", lambda r: show.size(r.memory.peak_bytes.high)),
        show.Column("step", lambda r: show.seconds(r.step_s.mid)),
    ]
    return (table,)


@app.cell
def answer(rows, session, table):
    session.emit(
        {"estimates": [row.to_dict() for row in rows]},
        "\n".join([show.text_table(rows, table), "", *(f"d{row.recipe.depth}: {row.sentence}" for row in rows)]),
    )
    mo.Html(show.html_table(rows, table))
    return


@app.cell
def chart(budget_s, rows, session):
    None if session.is_script else charts.estimate_chart(rows, budget_s=budget_s)
    return


@app.cell
def reasons(rows):
    mo.accordion(
        {
            show.markdown(f"d{row.recipe.depth} on {row.device.name}: {row.sentence}"): mo.md(
                show.markdown("\n".join(f"- {assumption}" for assumption in row.assumptions))
            )
            for row in rows
        }
    )
    return


@app.cell
def conventions():
    mo.md("""
    *params* counts everything that is trained; *w/o v-emb* leaves out the value embeddings, as most published
    sizes do; *scaling* is matrices and output head, which drives the token horizon and the loss law. *memory* is
    the upper bound. Next: prove a depth on the real machine, `python notebooks/2_dryrun.py --depth 4`.
    """)
    return


if __name__ == "__main__":
    app.run()
