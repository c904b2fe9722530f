"""Doctor: what has to be in order before a GPU can be rented, each with the command that mends it.

patron doctor --json
patron doctor --devices H100 --machine --yes      also starts one small machine, to see that it reaches the bucket
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: doctor")

with app.setup(hide_code=True):
    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import inert, show, tables
    from patron_core.ui.script import Arguments, open_session


@app.cell(hide_code=True)
def title():
    session = open_session(
        DoctorArguments,
        mode=mo.app_meta().mode,
        file=__file__,
        description="What has to be in order before a GPU can be rented, each with the command that mends it.",
    )
    args = session.args
    mo.md(
        """
        # Doctor

        What has to be in order before a GPU can be rented. Looking spends nothing; each look has a limit of its own.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class DoctorArguments(Arguments):
    devices: str = Field(default="A100-40GB,H100", description="GPUs that are to be rented, A,B,...")
    on_demand: bool = Field(default=False, description="on demand, in the place of spot")
    machine: bool = Field(default=False, description="also start one small machine, for some cents; needs --yes")
    yes: bool = Field(default=False, description="confirm the machine")


@app.cell(hide_code=True)
def ask(session):
    again = mo.ui.run_button(label="Look again")
    machine = mo.ui.run_button(label="Start one small machine, too (some cents)", kind="warn")
    None if session.is_script else mo.hstack([again, machine], justify="start", gap=1.0)
    return again, machine


@app.cell(hide_code=True)
def look(again, args, machine, session):
    again.value
    _machine = args.machine or machine.value
    if _machine and session.is_script:
        session.confirm(args.yes, "a machine is started, which costs some cents", "--yes")
    outcome = session.call(
        verbs.doctor,
        devices=[name.strip() for name in args.devices.split(",") if name.strip()],
        spot=not args.on_demand,
        machine=bool(_machine),
        on_check=lambda check: session.status(f"{check.name}: {check.status}"),
    )
    mo.stop(outcome.failed, mo.callout(mo.md(outcome.error_markdown()), kind="danger"))
    found = outcome.value
    return (found,)


@app.cell(hide_code=True)
def checks(found, session):
    _columns = tables.checks()
    _answer = found.to_dict()
    session.emit(_answer, f"{show.text_table(found.checks, _columns)}\nnext: {_answer['next']}")
    mo.vstack(
        [
            mo.callout(
                mo.md(inert.md("{} of {} checks failed.", len(found.failed), len(found.checks))),
                kind="danger" if found.failed else "success",
            ),
            mo.Html(show.html_table(found.checks, _columns)),
        ]
    )
    session.end(3 if found.failed else 0)
    return


if __name__ == "__main__":
    app.run()
