"""A study of your own: which learning rate is best, beyond the noise of seeds? A notebook as a researcher writes one.

python notebooks/own/lr_study.py              what it would take; spends nothing
python notebooks/own/lr_study.py --yes        make its runs on this machine, for at most fifteen cents
marimo edit notebooks/own/lr_study.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="A study of learning rates")

with app.setup:
    import marimo as mo

    import patron_core

    MAX_USD = 0.15  # three times the upper bound: a busy machine takes longer; with more it goes on where it was


@app.cell(hide_code=True)
def story():
    mo.md("""
    # Which learning rate?

    A small model is trained at three rates with two seeds each, on the text of Python's standard library. The first
    cell opens the lab; everything else is reached from it. Copy this file and change what you like.
    """)
    return


@app.cell
def open_the_lab():
    lab = patron_core.open()
    lab
    return (lab,)


@app.cell
def ask(lab):
    sweep = lab.sweep(
        "lr",
        depth=1,
        data="stdlib",
        num_steps=100,
        grid={"lr_scale": [0.5, 1, 2]},
        seeds=2,
        tags=["lr-study"],
    )
    print(f"{sweep.estimate().sentence} The study may spend ${MAX_USD:.2f}.")  # this spends nothing
    return (sweep,)


@app.cell(hide_code=True)
def press():
    launch = mo.ui.run_button(label=f"Make these runs for at most ${MAX_USD:.2f}")
    launch
    return (launch,)


@app.cell
async def make_the_runs(launch, sweep):
    _yes = "yes" in mo.cli_args() or launch.value
    mo.stop(not _yes, mo.md("Press the button, or give `--yes` in a shell: nothing is spent before."))
    sweep.launch(max_usd=MAX_USD, max_parallel=1)  # one dryrun for the shape, one press, one hold
    report = await sweep.wait()  # the kernel stays free; mirrored when it returns
    sweep
    return (report,)


@app.cell
def curves(lab, report, sweep):
    report
    frame = lab.metrics(sweep, ["val/bpb"], x=["step", "usd", "flops"])  # polars, from MLflow, with its lag
    frame.plot.line(x="usd", y="value", color="name")
    return


@app.cell
def verdict(report, sweep):
    report
    comparison = sweep.compare(by="lr_scale")  # mean, spread over seeds, is the difference real
    print(comparison.sentence)
    comparison
    return (comparison,)


@app.cell
def runs(lab, report):
    report
    lab.runs(tags="lr-study").frame()
    return


@app.cell
def note(comparison, lab, sweep):
    lab.note(comparison.sentence, kind="result", runs=sweep)
    return


if __name__ == "__main__":
    app.run()
