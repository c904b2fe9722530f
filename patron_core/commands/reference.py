"""`patron reference`: `patron_core.open()` and what is reached from it, from the code's own words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import Field

from patron_core.ui.script import Arguments, open_command

CHEAT_SHEET = """
import patron_core

lab = patron_core.open()  # PATRON_HOME, your name, the project with most runs
lab.wallet  # micro-dollars: available, held, spent

# what is there: names, ids, runs, sets of runs and sweeps are taken alike
runs = lab.runs()  # newest first; lab.runs(tags="lr-study"), lab.runs(text="d4")
runs.frame()  # polars: name, state, depth, val_bpb, usd, tags
run = lab.run("d4-better")  # by name, id, or the beginning of an id
run.spec["depth"], run.state.value, run.result  # its recipe, where it is, how it ended
lab.compare(["d2-finished", "d4-better"])  # predicted beside actual
lab.metrics(run, ["val/bpb"], x=["step", "usd"])  # a frame, with its source and how far MLflow is behind
lab.metrics(runs, ["train/loss"], x=["tokens"]).plot.line(x="tokens", y="value", color="name")
lab.note("Depth 4 is the better one.", kind="result", runs=[run])

# what is new: a grid over any fields of a spec, times seeds
sweep = lab.sweep("lr", depth=1, data="stdlib", num_steps=100, grid={"lr_scale": [0.5, 1, 2]}, seeds=2, tags=["lr"])
sweep.estimate().sentence  # how long, and at most how much; spends nothing
sweep.launch(max_usd=0.15, max_parallel=1)  # one dryrun per shape, one press, one hold
report = await sweep.wait()  # the kernel stays free; mirrored when it returns
sweep.compare(by="lr_scale").sentence  # mean, spread over seeds, is the difference real
lab.metrics(sweep, ["val/bpb"], x=["step", "usd", "flops"])
lab.close()
""".strip()

_HEAD = """# A notebook of your own: the library

Written by `patron reference --markdown > notebooks/REFERENCE.md` from the code. A whole notebook is
[own/lr_study.py](own/lr_study.py). Errors are `patron_core.errors.PatronError`: `.message` says what and with which
values, `.next` the command that goes on. An unknown run, tag or metric is an error that says what there is, never an
empty frame.

## Cheat sheet
"""


class ReferenceArguments(Arguments):
    markdown: bool = Field(default=False, description="print the page notebooks/REFERENCE.md")


def main(argv: Sequence[str]) -> int:
    session = open_command(ReferenceArguments, argv, prog="reference", description=__doc__ or "")
    said = {name: _first_line(member) for name, member in members()}
    width = max(map(len, said))
    lines = [CHEAT_SHEET, "", *(f"{name:<{width}}  {line}" for name, line in said.items())]
    answer = {"reference": said, "cheat_sheet": CHEAT_SHEET}
    session.emit(answer, markdown() if session.args.markdown else "\n".join(lines))
    return 0


def members() -> Iterator[tuple[str, Any]]:
    """Every public name with its object: `patron_core.open`, the classes of a notebook, and their members."""
    import patron_core
    from patron_core.notebook import Comparison, Lab, RunSet, SweepHandle

    yield "patron_core.open", patron_core.open
    for kind in (Lab, RunSet, SweepHandle, Comparison):
        yield kind.__name__, kind
        for name, member in vars(kind).items():
            if not name.startswith("_"):
                yield f"{kind.__name__}.{name}", member


def markdown() -> str:
    """The page, as notebooks/REFERENCE.md has it."""
    parts = [_HEAD, f"```python\n{CHEAT_SHEET}\n```\n"]
    for name, member in members():
        told = inspect.getdoc(member) or ""
        if inspect.isclass(member):
            parts.append(f"## {name}\n\n{told}\n")
        else:
            heading = "##" if name.startswith("patron_core.") else "###"
            call = _signature(name.rpartition(".")[2], member)
            parts.append(f"{heading} `{name}`\n\n```python\n{call}\n```\n\n{told}\n")
    return "\n".join(parts).rstrip()


def _signature(name: str, member: Any) -> str:
    """`compare(by: str | list[str] = '') -> Comparison`, without self; of a property what it gives."""
    if isinstance(member, property):
        assert member.fget is not None
        return f"{name}: {inspect.signature(member.fget).return_annotation}"
    return _call(name, member)


class _Word:
    """An annotation as it is written in the source, without quotes."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _call(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name != "self"]
    said = str(signature.replace(parameters=[each.replace(annotation=_Word(each.annotation)) for each in kept]))
    result = signature.return_annotation
    head, _, _ = said.rpartition(" -> ")
    before = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{before}{name}{head or said} -> {result}"


def _first_line(member: Any) -> str:
    return (inspect.getdoc(member) or "").partition("\n")[0]
