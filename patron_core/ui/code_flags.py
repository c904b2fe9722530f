"""The flags of training code of others: where it is, what it is run with, and how a burst shortens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui.flags import repeated
from patron_core.ui.spec_flags import SpecArguments


class CodeArguments(SpecArguments):
    """Arguments of a notebook that takes a spec, or foreign code in its place."""

    workload: str = Field(default="", description="your own training code: a folder, or GIT_URL@COMMIT; or a preset")
    entry_point: str = Field(default="", description="of its MLproject; else main, or the first")
    param: tuple[str, ...] = repeated(description="a parameter of it, say --param num_iterations=200")
    steps_parameter: str = Field(default="", description="the parameter that shortens it; else found by its name")
    command: str = Field(default="", description="a command line in the place of an entry point, with {parameters}")
    patch: str = Field(default="", description="a file with a patch, as git diff writes it, to apply to its files")
    current_environment: bool = Field(default=False, description="run it in this environment, whatever it asks for")

    @classmethod
    def problems_together(cls, given: dict[str, Any]) -> list[str]:
        return super().problems_together(given) + code_problems(given)


def question_of(args: CodeArguments, page: Mapping[str, str]) -> verbs.CodeQuestion:
    """Of the flags, and of a page's fields in the place of those that `FIELDS` names. Raises InvalidInput."""
    try:
        patch = Path(args.patch).expanduser().read_text(encoding="utf-8") if args.patch else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput([f"patch: {args.patch}: {error}"], next="git diff > experiment.patch") from error
    return verbs.CodeQuestion(
        where=page["workload"].strip(),
        entry_point=page["entry_point"].strip(),
        parameters=verbs.parameters_of(line for line in page["param"].splitlines() if line.strip()),
        steps_parameter=page["steps_parameter"].strip(),
        command=page["command"].strip(),
        patch=patch,
        current=args.current_environment,
    )


# what a page offers of them
FIELDS = {
    "workload": "A folder here, or GIT_URL@COMMIT",
    "entry_point": "Entry point of its MLproject",
    "param": "Its parameters, name=value a line",
    "steps_parameter": "The parameter that shortens it (empty: found by its name)",
    "command": "A command line in the place of an entry point, with {parameters}",
}


def form(args: CodeArguments, typed: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name -> (label, text) of a page's fields; what was typed stays."""
    texts = {name: getattr(args, name) for name in FIELDS} | {"param": "\n".join(args.param)}
    return {name: (label, typed.get(name, texts[name])) for name, label in FIELDS.items()}


def changes(args: CodeArguments) -> dict[str, Any]:
    """What `--amend` is to change: fields of a spec, or parameters of foreign code. Raises InvalidInput."""
    return args.given_fields() | verbs.parameters_of(args.param)


def code_problems(given: Mapping[str, Any]) -> list[str]:
    """What goes together with foreign code, and what does not."""
    if given.get("workload"):
        own = sorted({"depth", "spec", "set", "steps", "data", "run"} & set(given))
        return [f"workload: it has parameters of its own; --{name} is not one: --param NAME=VALUE" for name in own]
    code = {"entry_point", "steps_parameter", "command", "patch", "current_environment"} & set(given)
    code |= {"param"} & set(given) if not given.get("amend") else set()
    return [f"{name}: it needs --workload FOLDER, or GIT_URL@COMMIT" for name in sorted(code)]
