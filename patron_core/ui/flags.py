"""Flags from a pydantic model: the help, the ranges and the problems, all of them at once.

A field's description is its help and its bounds are the allowed range; a list or tuple takes A,B,C, or, where it is
`repeated`, one value each time the flag is given; a bool is a switch, with a --no-... form where it is on by default.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from patron_core.errors import InvalidInput
from patron_core.money import parse_usd, to_usd
from patron_core.ui.commands import as_typed
from trainer.contract.words import printable

_MISSING = "\0missing"  # a flag whose value was left out


def _strict_dollars(value: Any) -> Any:
    """0,10 is refused with what to write, as everywhere; what is no text is a default."""
    return to_usd(parse_usd(value)) if isinstance(value, str) else value


Usd = Annotated[float, BeforeValidator(_strict_dollars)]  # a flag's amount, in dollars; verbs.from_usd makes micros


class Arguments(BaseModel):
    """Base of every notebook's arguments. A field's description is its help, its bounds are the allowed range."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    FROM_ADDRESS: ClassVar[Collection[str]] = frozenset()  # flags that the address of a page may fill its fields with
    json_output: bool = Field(default=False, alias="json", description="print exactly one JSON object on stdout")
    fields: str = Field(default="", max_length=1000, description="of that object only these keys, comma between")

    @classmethod
    def problems_together(cls, given: dict[str, Any]) -> list[str]:
        """What is wrong with the flags beyond each one's type and range. `given`: their texts, by the flag's name."""
        return []


A = TypeVar("A", bound=Arguments)


def repeated(**options: Any) -> Any:
    """A field whose flag may be given again and again: --set a=1 --set b=2."""
    return Field(default=(), json_schema_extra={"repeated": True}, **options)


def parse_arguments(model: type[A], argv: Sequence[str], *, prog: str, description: str) -> A:
    """argv of `patron PROG` as `model`. Ends the process: 0 after --help; 2 with all problems and their ranges."""
    parser = _parser(model, prog, description)
    given: dict[str, Any] = {}
    try:
        known, unknown = parser.parse_known_args(list(argv))
    except _UsageError as error:
        problems = [str(error)]
    else:
        problems = [f"{flag}: unknown argument" for flag in unknown]
        given = _given(model, vars(known))
    problems += [f"{_flag(key)}: its value is missing" for key, value in given.items() if value == _MISSING]
    given = {key: value for key, value in given.items() if value != _MISSING}
    try:
        args = model.model_validate(given)
    except ValidationError as error:
        problems += [_problem(model, item) for item in error.errors()]
    problems += [one for one in model.problems_together(given) if one.partition(":")[0] not in _flags_of(problems)]
    if problems:
        refuse(InvalidInput(problems, next=f"patron {prog} --help"), as_json="--json" in argv)
    return args


def of_address(model: type[A], address: Mapping[str, Any]) -> A:
    """A page's arguments: the defaults, and what of `FROM_ADDRESS` its address says. What does not fit is left out:
    nothing is done by an address, and the fields show what was taken."""
    given: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        flag = field.alias or name
        said = address.get(flag)
        if flag not in model.FROM_ADDRESS or said is None:
            continue
        value = [said] if _is_repeated(field) and isinstance(said, str) else said
        if _is_list(field.annotation) and isinstance(value, str):
            value = [part for part in value.split(",") if part]
        try:
            model.model_validate({flag: value})
        except ValidationError:
            continue
        given[flag] = value
    return model.model_validate(given)


def _flags_of(problems: Sequence[str]) -> set[str]:
    """The flags and fields that are complained about already."""
    return {problem.partition(":")[0].removeprefix("--").replace("-", "_") for problem in problems}


class _UsageError(Exception):
    """What argparse would end the process for."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)  # a value left out is a problem of ours, not an option


def _parser(model: type[Arguments], prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"patron {prog}",
        usage=f"patron {prog} [flags]",
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        text = (field.description or "") + _default_text(default) + _range_text(field)
        shared: dict[str, Any] = {"dest": name, "default": None, "help": text.replace("%", "%%")}
        kind = _bare_type(field.annotation)
        if kind is bool and default:
            parser.add_argument(_flag(field.alias or name), action=argparse.BooleanOptionalAction, **shared)
        elif kind is bool:
            parser.add_argument(_flag(field.alias or name), action="store_true", **shared)
        else:
            shared |= {
                "nargs": "?",
                "const": _MISSING,
                "metavar": "KEY=VALUE" if _is_repeated(field) else _metavar(kind),
            }
            shared |= {"action": "append"} if _is_repeated(field) else {}
            parser.add_argument(_flag(field.alias or name), **shared)
    return parser


def _given(model: type[Arguments], values: dict[str, Any]) -> dict[str, Any]:
    """What was given, by the name that the model takes it under."""
    given = {}
    for name, value in values.items():
        if value is None:
            continue
        field = model.model_fields[name]
        is_list = _is_list(field.annotation) and value != _MISSING and not _is_repeated(field)
        value = _MISSING if isinstance(value, list) and _MISSING in value else value
        given[field.alias or name] = [v.strip() for v in value.split(",") if v.strip()] if is_list else value
    return given


def _is_repeated(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("repeated"))


def refuse(failure: InvalidInput, *, as_json: bool) -> NoReturn:
    """End the process with every problem, as JSON or in words."""
    next_ = as_typed(failure.next)
    if as_json:
        import json

        shape = failure.to_dict()["error"] | {"next": next_}
        print(json.dumps({"error": shape}, sort_keys=True), flush=True)
    else:
        said = "\n".join(failure.problems) + f"\nnext: {next_}"
        print(printable(said), file=sys.stderr, flush=True)
    sys.exit(failure.exit_code)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _bare_type(annotation: Any) -> Any:
    """The type inside Optional and Annotated."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _bare_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _bare_type(inner[0])
    return annotation


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(_bare_type(annotation)) in (list, tuple)


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (list, tuple):
        return "A,B,..."
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def _default_text(default: Any) -> str:
    if default is None or default is False or default == "" or default in ((), []):
        return ""
    if default is True:
        return " (on unless switched off)"
    shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
    return f" (default {shown})"


def _range_text(field: FieldInfo) -> str:
    metadata = list(field.metadata)
    if _is_list(field.annotation):  # the bounds are those of an item
        for item in typing.get_args(_bare_type(field.annotation)):
            if typing.get_origin(item) is typing.Annotated:
                metadata += [bound for info in item.__metadata__ for bound in getattr(info, "metadata", [info])]
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [
        f"{word} {_number(getattr(item, key))}"
        for item in metadata
        for key, word in words.items()
        if hasattr(item, key)
    ]
    return f" [{', '.join(parts)}]" if parts else ""


def _number(value: Any) -> str:
    return f"{int(value)}" if float(value).is_integer() else str(value)


_OUT_OF_RANGE = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})


def _problem(model: type[Arguments], item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else "arguments"
    field = next((f for n, f in model.model_fields.items() if name in (n, f.alias)), None)
    said = "not allowed" if item["type"] in _OUT_OF_RANGE else str(item["msg"]).removeprefix("Value error, ")
    return f"{_flag(name)}: {item.get('input')!r}: {said}{_range_text(field) if field else ''}"
