"""The input of a run of somebody else's training code: its files, its command, its parameters. Read from spec.json.

    {"kind": "foreign", "name": "hello", "sources": "<sha256>", "command": "python train.py --n {num_iterations}",
     "parameters": {"num_iterations": 1500}, "steps_parameter": "num_iterations", "environment": {...}}

Pure standard library, as `spec` is: whoever prepares a run checks it with the very code that will read it.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trainer.contract.spec import SpecError, canonical_json, json_object, unknown_field

KIND = "foreign"
SOURCES = "sources.tar.gz"  # in the run directory
MAX_SOURCES_BYTES = 24 * 2**20
RESUME = "resume"  # the placeholder of what makes the command go on, empty at the first start
PLACES = ("work", "cache")  # placeholders: the folder of its files, one that outlives its runs
IMAGE_VARIABLE = "PATRON_IMAGE"  # of a machine whose tasks run in an image: which one
MAX_COMMAND_CHARS = 20_000
LOGS = ("mlflow", "nanochat")  # how what it says is read; whatever it logs to MLflow is read in any case

Value = int | float | str | bool
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99})*")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What it runs in: an image, else an environment made of a lock or of requirements, else the one at hand."""

    image: str | None = None
    python: str | None = None  # a version, for an environment of its own
    requirements: tuple[str, ...] | None = None  # lines, as pip reads them; () has none, None makes no environment
    lock: str | None = None  # sha256 of a uv.lock among its files, which is then synchronised

    def kind(self) -> str:
        if self.image:
            return "image"
        return "lock" if self.lock else "current" if self.requirements is None else "requirements"

    def hash(self) -> str:
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The files that its code saves by itself, and what makes it go on from them."""

    folder: str  # in its work folder
    pattern: str  # of a file's name; the first group is the step
    resume: str  # for the placeholder {resume}, with {step} in it


@dataclass(frozen=True, kw_only=True)
class ForeignSpec:
    name: str
    sources: str  # sha256 of the archive of its files
    command: str  # of a shell, with {parameter} for each value
    parameters: dict[str, Value] = field(default_factory=dict)
    steps_parameter: str | None = None  # the one that says how long it trains
    entry_point: str = "main"
    origin: dict[str, str] = field(default_factory=dict)  # where the files came from, for people
    environment: Environment = field(default_factory=Environment)
    variables: dict[str, str] = field(default_factory=dict)  # of its process, beside those that it is always given
    shared: tuple[str, ...] = ()  # folders in its work folder that all its runs on a machine share
    log: str = "mlflow"
    checkpoints: Checkpoints | None = None  # None: what it saves is its own affair
    deadline_s: float | None = None

    @property
    def num_steps(self) -> int | None:
        """In units of its steps parameter: iterations, epochs."""
        value = self.parameters.get(self.steps_parameter or "")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ForeignSpec:
        """A checked spec. Raises SpecError with every problem at once."""
        given = {name: value for name, value in values.items() if name != "kind"}
        problems = [unknown_field(name, FIELDS) for name in given if name not in FIELDS]
        problems += [f"{name}: missing" for name in ("name", "sources", "command") if name not in given]
        problems += _problems(given)
        if problems:
            raise SpecError(problems)
        environment = dict(given.get("environment") or {})
        if environment.get("requirements") is not None:
            environment["requirements"] = tuple(environment["requirements"])
        saved = given.get("checkpoints")
        found = cls(
            **{
                **given,
                "parameters": dict(given.get("parameters") or {}),
                "environment": Environment(**environment),
                "checkpoints": Checkpoints(**saved) if saved else None,
                "shared": tuple(given.get("shared") or ()),
            }
        )
        problems = found._problems_together()
        if problems:
            raise SpecError(problems)
        return found

    @classmethod
    def from_json(cls, text: str) -> ForeignSpec:
        values = json_object(text)
        if not is_foreign(values):
            raise SpecError([f"spec is not of kind {KIND}"])
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values["shared"] = list(self.shared)
        lines = self.environment.requirements
        values["environment"]["requirements"] = None if lines is None else list(lines)
        return {"kind": KIND, **values}

    def hash(self) -> str:
        """Sixteen hex digits that change when any value does."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:16]

    def cache_name(self) -> str:
        """The folder of what its runs share on a machine."""
        return re.sub(r"[^A-Za-z0-9_.-]", "_", self.name)[:80].lstrip(".") or "_"

    def burst_value(self, steps: int) -> int:
        """What the steps parameter is in a burst of that many steps: epochs are long, and one of them is enough."""
        wanted = 1 if "epoch" in (self.steps_parameter or "") else steps
        return max(1, min(wanted, self.num_steps or wanted))

    def line(self, *, places: Mapping[str, str], burst: int | None = None, resume: str = "") -> str:
        """The line for a shell. `places`: for PLACES. `burst`: the value of the steps parameter in its place."""
        values = {**self.parameters, **({self.steps_parameter: burst} if burst and self.steps_parameter else {})}
        words = {name: shlex.quote(_text(value)) for name, value in values.items()}
        words |= {name: shlex.quote(place) for name, place in places.items()} | {RESUME: resume}
        return "".join(
            literal + ("" if name is None else words[name]) for literal, name, _, _ in _FORMAT.parse(self.command)
        ).strip()

    def _problems_together(self) -> list[str]:
        problems = [
            f"command: {{{name}}} is no parameter; there are {', '.join(self.parameters) or 'none'}"
            for name in placeholders(self.command)
            if name not in {*self.parameters, *PLACES, RESUME}
        ]
        if self.steps_parameter is not None and self.num_steps is None:
            value = self.parameters.get(self.steps_parameter)
            problems.append(f"{self.steps_parameter}: {value!r}; how long it trains is a whole number from 1")
        return problems


_FORMAT = string.Formatter()
FIELDS = {f.name: f for f in fields(ForeignSpec)}


def is_foreign(values: Any) -> bool:
    return isinstance(values, Mapping) and values.get("kind") == KIND


def placeholders(command: str) -> list[str]:
    """The names in braces; doubled braces are braces, as MLflow reads a command. Raises ValueError for a torn one."""
    return list(dict.fromkeys(name for _, name, _, _ in _FORMAT.parse(command) if name is not None))


def value_problem(name: str, value: Any) -> str | None:
    if not _NAME.fullmatch(name):
        return f"parameter {name!r:.100}: a name has letters, digits and _.- in it"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}: {value!r}; allowed is a finite number"
    if not isinstance(value, int | float | str):
        return f"{name}: {value!r:.100}; allowed is a number or a text"
    if isinstance(value, str) and ("\0" in value or len(value) > 10_000):
        return f"{name}: a text of at most 10,000 characters without NUL"
    return None


def _text(value: Value) -> str:
    return str(value)


def _problems(given: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for name in ("name", "command", "entry_point", "log"):
        value, most = given.get(name, "mlflow"), MAX_COMMAND_CHARS if name == "command" else 200
        if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > most:
            problems.append(f"{name}: {value!r:.100}; allowed is a text of 1 to {most} characters")
        elif name == "log" and value not in LOGS:
            problems.append(f"log: {value!r}; allowed {', '.join(LOGS)}")
        elif name == "command":
            try:
                placeholders(value)
            except ValueError as error:
                problems.append(f"command: {error}; a brace that is meant is written twice")
    if not isinstance(given.get("sources", ""), str) or not _SHA256.fullmatch(given.get("sources") or "0" * 64):
        problems.append(f"sources: {given.get('sources')!r:.100}; allowed is the SHA-256 of its files")
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        return [*problems, "parameters: allowed is an object"]
    problems += [found for name, value in parameters.items() if (found := value_problem(name, value))]
    steps = given.get("steps_parameter")
    if steps is not None and steps not in parameters:
        problems.append(f"steps_parameter: {steps!r:.100}; allowed {', '.join(parameters) or 'none'}")
    for name in ("origin", "variables"):
        texts = given.get(name) or {}
        if not isinstance(texts, Mapping) or not all(isinstance(v, str) and "\0" not in v for v in texts.values()):
            problems.append(f"{name}: allowed are texts by name")
        elif name == "variables":
            problems += [f"variables: {key!r:.100} is no name" for key in texts if not key.isidentifier()]
    for folder in given.get("shared") or ():
        if not isinstance(folder, str) or not _FOLDER.fullmatch(folder):
            problems.append(f"shared: {folder!r:.100} is no folder inside its own")
    return problems + _environment_problems(given.get("environment") or {}) + _saved_problems(given.get("checkpoints"))


def _environment_problems(given: Any) -> list[str]:
    if not isinstance(given, Mapping):
        return ["environment: allowed is an object"]
    known = {f.name for f in fields(Environment)}
    problems = [unknown_field(name, known) for name in given if name not in known]
    for name in ("image", "python", "lock"):
        value = given.get(name)
        if value is not None and (
            not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w./:@-]{0,399}", value)
        ):
            problems.append(f"{name}: {value!r:.100}; allowed is a name without spaces")
    lines = given.get("requirements")
    if lines is not None and not (isinstance(lines, list | tuple) and all(isinstance(line, str) for line in lines)):
        problems.append("requirements: allowed is a list of lines")
    return problems


def _saved_problems(given: Any) -> list[str]:
    if given is None:
        return []
    known = {f.name for f in fields(Checkpoints)}
    if not isinstance(given, Mapping) or set(given) != known or not all(isinstance(v, str) for v in given.values()):
        return [f"checkpoints: allowed is an object with {', '.join(sorted(known))}"]
    problems = [] if _FOLDER.fullmatch(given["folder"]) else [f"checkpoints: {given['folder']!r:.100} is no folder"]
    try:
        if re.compile(given["pattern"]).groups < 1:
            problems.append("checkpoints: the pattern's first group is to be the step")
    except re.error as error:
        problems.append(f"checkpoints: the pattern is none: {error}")
    return problems
