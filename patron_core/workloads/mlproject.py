"""An MLproject, read: entry points with typed parameters, and what they run in. Nothing of it is run. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from patron_core.errors import InvalidInput
from trainer.contract.foreign import Environment, Value, placeholders, value_problem
from trainer.contract.spec import unknown_field

FILE = "MLproject"
_MAX_CHARS = 1_000_000
_TYPES: dict[str, type] = {"int": int, "integer": int, "float": float, "bool": bool}  # else it is a text
# of a spec, what the section `patron` may say: MLflow passes over it
EXTRA = {"checkpoints", "log", "shared", "steps_parameter", "variables"}
# what shortens a run, the most telling name first
STEPS = (
    "num_iterations", "num-iterations", "num_steps", "n_steps", "max_steps", "total_steps", "train_steps", "max_iters",
    "iterations", "steps", "num_epochs", "n_epochs", "max_epochs", "epochs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parameter:
    type: str = "string"
    default: Value | None = None  # None: it has to be given


@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    command: str
    parameters: dict[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Project:
    name: str
    entry_points: dict[str, EntryPoint]
    environment: Environment
    extra: dict[str, Any] = field(default_factory=dict)  # fields of a spec, from its section `patron`


def read(text: str, files: Mapping[str, str | None]) -> Project:
    """`files`: the texts of what an MLproject may name, by name. Raises InvalidInput with every problem at once."""
    values = _yaml(FILE, text)
    problems: list[str] = []
    points = values.get("entry_points")
    found: dict[str, EntryPoint] = {}
    for name, point in (points if isinstance(points, Mapping) else {}).items():
        if not isinstance(point, Mapping) or not isinstance(point.get("command"), str):
            problems.append(f"{FILE}: entry point {str(name)!r:.100} has no command")
            continue
        declared = point.get("parameters") or {}
        if not isinstance(declared, Mapping):
            problems.append(f"{FILE}: the parameters of {str(name)!r:.100} are no names with types")
            continue
        found[str(name)] = EntryPoint(
            command=point["command"].strip(),
            parameters={str(key): _parameter(str(key), value, problems) for key, value in declared.items()},
        )
    if not found and not problems:
        problems.append(f"{FILE}: it has no entry_points")
    environment = _environment(values, files, problems)
    extra = values.get("patron") or {}
    if not isinstance(extra, Mapping) or set(extra) - EXTRA:
        problems.append(f"{FILE}: its section `patron` may name {', '.join(sorted(EXTRA))}")
    if problems:
        raise InvalidInput(problems, next=f"correct the {FILE}")
    name = str(values.get("name") or "mlproject")[:100]
    return Project(name=name, entry_points=found, environment=environment, extra=dict(extra))


def chosen(point: EntryPoint, given: Mapping[str, str | Value]) -> dict[str, Value]:
    """The value of each parameter: what was given, as its type reads it, else its default. Raises InvalidInput."""
    problems = [unknown_field(name, point.parameters) for name in given if name not in point.parameters]
    values: dict[str, Value] = {}
    for name, declared in point.parameters.items():
        value = given.get(name, declared.default)
        if value is None:
            problems.append(f"{name}: it has no default; give --param {name}=VALUE")
            continue
        try:
            values[name] = _typed(declared.type, value)
        except ValueError:
            problems.append(f"{name}: {value!r:.100}; allowed is {declared.type}")
            continue
        if problem := value_problem(name, values[name]):
            problems.append(problem)
    if problems:
        raise InvalidInput(problems, next="give each as --param NAME=VALUE")
    return values


def steps_parameter(values: Mapping[str, Value]) -> str | None:
    """Which of them says how long it trains, as far as a name tells."""
    return next((name for name in STEPS if isinstance(values.get(name), int)), None)


def of_command(command: str, given: Mapping[str, str | Value]) -> EntryPoint:
    """A command line that somebody typed; what looks like a number is one."""
    try:
        names = [name for name in placeholders(command) if name in given]
    except ValueError as error:
        raise InvalidInput([f"command: {error}"], next="write a brace that is meant twice") from error
    return EntryPoint(command=command, parameters={name: Parameter(type=_type_of(given[name])) for name in names})


def _type_of(value: str | Value) -> str:
    text = str(value)
    if re.fullmatch(r"[+-]?\d+", text):
        return "int"
    return "float" if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else "string"


def _typed(kind: str, value: str | Value) -> Value:
    of = _TYPES.get(kind, str)
    if of is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if str(value).lower() not in known:
            raise ValueError
        return known[str(value).lower()]
    if isinstance(value, bool) and of is not str:
        raise ValueError
    if of is int:
        return int(str(value).strip())
    return float(str(value).strip()) if of is float else str(value)


def _parameter(name: str, value: Any, problems: list[str]) -> Parameter:
    if isinstance(value, str):  # the short form: name: type
        return Parameter(type=value)
    if not isinstance(value, Mapping):
        problems.append(f"{FILE}: parameter {name!r:.100} has neither a type nor a default")
        return Parameter()
    default = value.get("default")
    if default is not None and not isinstance(default, int | float | str):
        problems.append(f"{FILE}: the default of {name!r:.100} is no value")
        default = None
    return Parameter(type=str(value.get("type") or "string"), default=default)


def _environment(values: Mapping[str, Any], files: Mapping[str, str | None], problems: list[str]) -> Environment:
    docker = values.get("docker_env")
    if isinstance(docker, Mapping):
        if not isinstance(docker.get("image"), str):
            problems.append(f"{FILE}: docker_env names no image")
            return Environment()
        if docker.get("volumes"):
            problems.append(f"{FILE}: docker_env asks for volumes of this machine, which its code is not given")
        return Environment(image=docker["image"])
    for name in ("python_env", "conda_env"):
        if isinstance(values.get(name), str):
            return _of_file(values[name], files, problems, is_conda=name == "conda_env")
    return Environment()


def of_files(files: Mapping[str, str | None]) -> Environment:
    """What a folder without an MLproject asks for: its uv.lock, else its requirements.txt, else the one at hand."""
    lock, lines = files.get("uv.lock"), files.get("requirements.txt")
    if lock is not None and files.get("pyproject.toml") is not None:
        python = (files.get(".python-version") or "").strip() or None
        return Environment(lock=hashlib.sha256(lock.encode()).hexdigest(), python=python)
    return Environment() if lines is None else Environment(requirements=_lines("requirements.txt", files, []))


def _of_file(name: str, files: Mapping[str, str | None], problems: list[str], *, is_conda: bool) -> Environment:
    text = files.get(name)
    if text is None:
        problems.append(f"{FILE}: {name!r:.200} is not among its files")
        return Environment()
    values = _yaml(name, text)
    asked = values.get("dependencies") or []
    lines: list[str] = []
    python = str(values["python"]) if values.get("python") else None
    for line in asked if isinstance(asked, list) else []:
        if isinstance(line, Mapping):  # of conda: {"pip": [...]}
            lines += [str(each) for each in line.get("pip") or ()]
        elif is_conda and (found := re.fullmatch(r"python\s*=+\s*([\d.]+)", str(line).strip())):
            python = found[1]
        elif is_conda and str(line).strip() != "pip":
            problems.append(f"{name}: {str(line)!r:.100} is a package of conda; name it under pip")
        elif not is_conda:
            lines.append(str(line))
    flat = tuple(each for line in lines for each in _flat(line, files, problems))
    return Environment(python=python, requirements=flat)


def _lines(name: str, files: Mapping[str, str | None], problems: list[str], depth: int = 0) -> tuple[str, ...]:
    text = files.get(name)
    if text is None or depth > 5:
        problems.append(f"{name!r:.200} is not among its files")
        return ()
    found: list[str] = []
    for line in text.splitlines():
        found += _flat(line, files, problems, depth + 1)
    return tuple(found)


def _flat(line: str, files: Mapping[str, str | None], problems: list[str], depth: int = 0) -> tuple[str, ...]:
    """`-r other.txt` in the place of its lines, so that their hash is that of all of them."""
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    if not line:
        return ()
    other = re.fullmatch(r"(?:-r|--requirement)[= ]?\s*(\S+)", line)
    return _lines(other[1].removeprefix("./"), files, problems, depth) if other else (line,)


def _yaml(name: str, text: str) -> Mapping[str, Any]:
    text = text[:_MAX_CHARS]
    try:
        # a few lines of aliases are words of gigabytes
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("an alias (*name) is not read; write what it stands for")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput([f"{name}: no YAML: {said}"], next=f"correct the {name}") from error
    if not isinstance(values, Mapping):
        raise InvalidInput([f"{name}: no names with values"], next=f"correct the {name}")
    return values
