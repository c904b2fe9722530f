"""The door of foreign code: a place, an entry point and parameters become a checked spec and an archive of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.workloads import mlproject, nanochat
from patron_core.workloads.mlproject import Project
from patron_core.workloads.presets import PRESETS
from patron_core.workloads.sources import Snapshot, snapshot
from trainer.contract.foreign import Environment, ForeignSpec, Value
from trainer.contract.spec import SpecError

_SMALL_FILE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class CodeQuestion:
    """What a person gives; empty is as the code says."""

    where: str  # a folder, or GIT_URL@COMMIT
    entry_point: str = ""
    parameters: Mapping[str, str | Value] = field(default_factory=dict)
    steps_parameter: str = ""
    command: str = ""  # in the place of an entry point
    patch: str = ""  # its text
    current: bool = False  # the environment at hand, whatever it asks for


@dataclass(frozen=True, kw_only=True)
class Asked:
    spec: ForeignSpec
    archive: bytes


def ask(question: CodeQuestion, *, as_nobody: bool = False) -> Asked:
    """Reads its files, and runs nothing of them. `as_nobody`: as a stranger would who has no key to a repository.

    Raises InvalidInput with every problem at once.
    """
    asked, question = question.where, resolved(question)
    found = snapshot(question.where, patch=question.patch or None, as_nobody=as_nobody)
    origin = found.origin | ({"preset": asked} if asked in PRESETS else {})
    archive = found.archive()
    project = _project(found, question)
    name = question.entry_point or next(iter(project.entry_points))
    if name not in project.entry_points:
        raise InvalidInput(
            [f"entry point: {name!r}; there are {', '.join(project.entry_points)}"], next="--entry-point NAME"
        )
    point = project.entry_points[name]
    values = mlproject.chosen(point, question.parameters)
    extra = nanochat.extra() if nanochat.is_nanochat(found.files) else dict(project.extra)
    steps = question.steps_parameter or extra.pop("steps_parameter", "") or mlproject.steps_parameter(values)
    if not steps:
        raise InvalidInput(
            [f"which parameter shortens it is not to be seen among {', '.join(values) or 'none'}"],
            next="name it: --steps-parameter NAME",
        )
    return Asked(
        spec=checked(
            {
                "name": project.name,
                "sources": hashlib.sha256(archive).hexdigest(),
                "command": point.command,
                "parameters": values,
                "steps_parameter": steps,
                "entry_point": name,
                "origin": origin,
                "environment": Environment() if question.current else project.environment,
                **extra,
            }
        ),
        archive=archive,
    )


def resolved(question: CodeQuestion) -> CodeQuestion:
    """A preset by its name as the place and the entry point that it stands for. Raises InvalidInput for one of ours."""
    preset = PRESETS.get(question.where)
    if preset is None:
        return question
    if not preset.where:
        raise InvalidInput(
            [f"workload: {question.where} is a training of ours, with the fields {preset.spec}"],
            next=f"patron dryrun --workload {question.where}",
        )
    beside = Path(__file__).parent / preset.where
    where = str(beside) if beside.is_dir() else preset.where
    return replace(question, where=where, entry_point=question.entry_point or preset.entry_point)


def checked(values: Mapping[str, Any]) -> ForeignSpec:
    """Raises InvalidInput with every problem at once."""
    plain = dict(values)
    if isinstance(plain.get("environment"), Environment):
        plain["environment"] = vars(plain["environment"])
    try:
        return ForeignSpec.from_dict(plain)
    except SpecError as error:
        raise InvalidInput(error.problems, next="correct the values named and call again") from error


def parameters_of(lines: Iterable[str]) -> dict[str, str]:
    """Of NAME=VALUE each. Raises InvalidInput."""
    found: dict[str, str] = {}
    problems = []
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name.strip() or name.strip() in found:
            problems.append(f"param: {line!r:.100}; " + ("given twice" if equals else "not NAME=VALUE"))
        found[name.strip()] = value
    if problems:
        raise InvalidInput(problems, next="--param num_iterations=100 --param lr=0.01")
    return found


def _project(found: Snapshot, question: CodeQuestion) -> Project:
    texts = {name: found.text(name) for name, (content, _) in found.files.items() if len(content) <= _SMALL_FILE_BYTES}
    text = found.text(mlproject.FILE)
    name = question.where.rstrip("/").rpartition("/")[2].partition("@")[0] or "command"
    if question.command:
        known = mlproject.read(text, texts) if text is not None else None
        point = mlproject.of_command(question.command, question.parameters)
        environment = known.environment if known else mlproject.of_files(texts)
        points = {"command": point}
        extra = known.extra if known else {}
        return Project(name=known.name if known else name, entry_points=points, environment=environment, extra=extra)
    if text is not None:
        return mlproject.read(text, texts)
    if nanochat.is_nanochat(found.files):
        project = nanochat.project()
        return replace(project, environment=mlproject.of_files(texts))
    raise InvalidInput(
        [f"{question.where} has no MLproject, and no command was given"],
        next="add an MLproject, or --command 'python train.py --steps {steps}' --param steps=1000",
    )
