"""What comes next can be done: every command that Patron's words name exists, with the flags that they name."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from patron_core import verbs
from patron_core.commands import TABLE, notebooks
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store
from patron_core.ui.commands import as_typed, is_command, is_same
from patron_core.ui.flags import Arguments, parse_arguments
from patron_core.verbs import watch

ROOT = Path(__file__).parents[1]
HOLE = "HOLE"  # stands for what an f-string puts in
# `scripts` and `nanochat` are upstream's, run in its own folder
OURS = re.compile(
    r"(?:(?<![\w./-])patron (?P<name>[a-z]\w*)|python -m (?!scripts\.|nanochat\.)(?P<module>[\w.]+))"
    r"(?P<rest>[^`'\";,()>\n]*)"
)
PROGRAMS = ("python ", "patron ", "uv ", "sky ", "export ", "pg_isready ", "df ", "ls ", "fuser ")
FOREIGN = ("uv ", "sky ", "pg_isready", "iconv", "gcloud", "aws ", "sqlite3")  # whose flags are not ours


def words_of(node: ast.expr) -> list[str]:
    """The text of an expression, one for each branch that it can take; holes for what is not known."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(v.value if isinstance(v, ast.Constant) else HOLE for v in node.values)]  # type: ignore[misc]
    if isinstance(node, ast.IfExp):
        return [*words_of(node.body), *words_of(node.orelse)]
    return []


def all_words() -> Iterator[tuple[str, str, bool]]:
    """(place, text, whether it is given as `next`)"""
    for path in [*ROOT.glob("patron_core/**/*.py"), *ROOT.glob("notebooks/*.py"), *ROOT.glob("trainer/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
        given = {
            id(k.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for k in node.keywords
            if k.arg == "next"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and id(node) not in inside:
                for text in words_of(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text, id(node) in given


@cache
def arguments_of(name: str) -> type[Arguments]:
    """Of a notebook, by its command."""
    spec = importlib.util.spec_from_file_location(f"flags_{name}", notebooks()[name])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Arguments)]
    return next(kind for kind in kinds if kind is not Arguments)


@cache
def flags_of(command: str) -> frozenset[str]:
    if command in TABLE:
        with redirect_stdout(io.StringIO()) as help_, suppress(SystemExit):
            importlib.import_module(TABLE[command][0]).main(["--help"])
        return frozenset(re.findall(r"--[a-z][a-z-]*", help_.getvalue()))
    fields = arguments_of(command).model_fields.items()
    names = {"--" + (field.alias or name).replace("_", "-") for name, field in fields}
    off = {"--no-" + name.removeprefix("--") for name in names}
    return frozenset(names | off | {"--help"})


def problems_of(text: str) -> list[str]:
    """What of the commands in a text cannot be run."""
    problems = []
    for found in OURS.finditer(text):
        name, module = found["name"], found["module"]
        if module is not None:
            if HOLE not in module and importlib.util.find_spec(module) is None:
                problems.append(f"there is no module {module}")
            continue
        if name not in {*notebooks(), *TABLE}:
            problems.append(f"there is no command {name}")
            continue
        flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", found["rest"]))
        problems += [f"{name} has no flag {flag}" for flag in sorted(flags - flags_of(name))] if flags else []
    return problems


def test_every_command_of_ours_that_is_named_anywhere_exists() -> None:
    seen = [(place, text) for place, text, _ in all_words() if OURS.search(text)]
    assert len(seen) > 25
    assert [f"{place}: {problem}" for place, text in seen for problem in problems_of(text)] == []


def test_what_is_said_works_without_a_checkout() -> None:
    """`patron watch`, and not `python notebooks/4_watch.py`, which a wheel has elsewhere."""
    assert [f"{place}: {text}" for place, text, _ in all_words() if "python notebooks/" in text] == []


def test_advice_names_only_flags_that_exist() -> None:
    known = frozenset[str]().union(*map(flags_of, notebooks()))
    given = [(place, text) for place, text, is_next in all_words() if is_next]
    assert len(given) > 80
    wrong = [
        f"{place}: {flag}"
        for place, text in given
        if not any(program in text for program in FOREIGN) and not OURS.search(text) and "trainer" not in place
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", text)
        if flag not in known
    ]
    assert wrong == []


def test_what_begins_like_a_command_can_be_run_as_it_stands() -> None:
    begins = [(place, text) for place, text, is_next in all_words() if is_next and text.startswith(PROGRAMS)]
    assert len(begins) > 15
    assert [(place, text) for place, text in begins if not is_command(text)] == []


def test_the_check_itself_sees_what_is_wrong() -> None:
    assert problems_of("patron dream") == ["there is no command dream"]
    assert problems_of(f"patron watch --run {HOLE} --shout") == ["watch has no flag --shout"]
    assert problems_of("python -m trainer.levitate") == ["there is no module trainer.levitate"]
    assert problems_of("patron watch --run r1 --no-follow") == []


def run_in(state: RunState, reason: EndReason | None, **changes: Any) -> Run:
    spec = {
        "depth": 1,
        "sequence_len": 64,
        "vocab_size": 512,
        "batch_tokens": 256,
        "num_steps": 90_000,
        "data": "path:/a b/[1]",
    }
    known = {"id": "r1", "project": "lab", "name": "it's one", "state": state, "reason": reason, "spec": spec}
    given: dict[str, Any] = known | {"estimate": {}} | changes
    fields = Run.__dataclass_fields__
    return Run(**{name: given.get(name) for name in fields})


STATES = [(state, None) for state in RunState] + [(RunState.FAILED, reason) for reason in EndReason]


@pytest.mark.parametrize("project", ["lab", "the other one"])
@pytest.mark.parametrize(("state", "reason"), STATES)
def test_what_comes_next_of_a_run_is_understood_by_the_notebook_it_names(
    state: RunState, reason: EndReason | None, project: str
) -> None:
    for last_word in (
        None,
        {"fitting": {"num_steps": 280}},
        {"fitting": "x"},
        {"memory": {"fitting_device_batch_size": 2}},
    ):
        command = verbs.next_step(run_in(state, reason, project=project), last_word)
        assert is_command(command)
        patron, name, *argv = shlex.split(command)
        assert patron == "patron"
        parse_arguments(arguments_of(name), argv, prog=name, description="")


def test_a_failed_run_is_not_sent_back_to_where_it_is_looked_at() -> None:
    for reason in EndReason:
        assert "patron watch" not in verbs.next_step(run_in(RunState.FAILED, reason))
    again = verbs.next_step(run_in(RunState.FAILED, EndReason.BAD_SPEC), {"fitting": {"num_steps": 280}})
    assert "--steps 280" in again
    assert "--data 'path:/a b/[1]'" in again
    smaller = verbs.next_step(run_in(RunState.FAILED, EndReason.CUDA_OOM), {"memory": {"fitting_device_batch_size": 2}})
    assert "--device-batch-size 2" in smaller


def test_a_command_is_told_from_advice() -> None:
    for text in ("sky api start", "patron lab --project 'a, or b'", "export PATRON_HOME=/a/b"):
        assert is_command(text)
    for text in (
        "",
        "try again",
        "take more --minutes",
        "sky show-gpus, then another",
        "python a.py (or b.py)",
        "uv 'x",
    ):
        assert not is_command(text)
    assert is_same("patron watch --run r1 --no-follow", "patron watch --no-follow --run r1")
    assert not is_same("patron watch --run r1", "patron watch --run r2")


def test_under_uv_run_every_command_can_be_pasted_into_the_shell_it_was_typed_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "next: patron watch --run a\nStart with: patron search\nuv run patron lab\nor patron gc.\nthe patron of arts"
    assert as_typed(text) == text
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    wanted = [
        "next: uv run patron watch --run a",
        "Start with: uv run patron search",
        "uv run patron lab",
        "or uv run patron gc.",
        "the patron of arts",
    ]
    assert as_typed(text).splitlines() == wanted
    assert is_command(as_typed("patron watch --run a"))


@pytest.mark.parametrize("argv", [["lab", "--limit", "none"], ["watch", "--run", "nobody"], ["nothing"]])
@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_script_says_comes_next_runs_where_it_was_started(argv: list[str], as_json: bool, home: Path) -> None:
    env = dict(os.environ) | {"UV_RUN_RECURSION_DEPTH": "1"}
    command = [sys.executable, "-m", "patron_core.commands", *argv, *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode
    said = json.loads(done.stdout)["error"]["next"] if as_json else done.stderr.rpartition("next: ")[2]
    assert said.startswith("uv run patron ")


def test_a_dryrun_that_ran_out_of_money_is_planned_again(home: Path) -> None:
    """Nothing is wrong with it: the machine was slower than was held for. A paused run is funded again."""
    with closing(Store.open()) as store:
        draft = verbs.plan(store, spec={"depth": 1, "data": "stdlib", "num_steps": 20}, name="one", actor="ada")
    ended = replace(draft, state=RunState.FAILED, reason=EndReason.OUT_OF_FUNDS)
    assert re.match(r"patron dryrun --depth 1 .*--steps 20 .*--yes$", verbs.next_step(ended))
    assert watch._sentence(ended, None) == "The money held for it is used up."
    again = replace(ended, state=RunState.DRAFT)
    assert verbs.next_step(again) == f"patron dryrun --run {draft.id} --yes"
    assert watch._sentence(again, None) == "The money held for it is used up. Another dryrun holds twice as much."
    paused = replace(ended, state=RunState.PAUSED)
    assert verbs.next_step(paused) == f"patron launch --run {draft.id} --yes"
    assert watch._sentence(paused, None) == "The money held for it is used up. Fund it again to go on."
