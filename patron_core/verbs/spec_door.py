"""The one door of a spec: depth and a few named flags, key=value for any other field, a file for all of them.

    given = asked_fields({"steps": 400}, settings=["lr_scale=2"], file="spec.json")
    spec = spec_on(device, given | {"depth": 4})

What is not given has the default of the device, the same in estimate, dryrun, search, sweep and on every page, so that
what was estimated is what is proven and run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.lifecycle.workload import check_spec
from trainer.contract.devices import Device
from trainer.contract.spec import FIELDS, TrainSpec, field_problems, unknown_field

# What a laptop can train in a minute: short sequences, a small vocabulary, small batches for many steps.
LOCAL_SPEC: dict[str, Any] = {
    "sequence_len": 256,
    "vocab_size": 4096,
    "batch_tokens": 4096,
    "eval_tokens": 65536,
    "data": "stdlib",
}
GPU_SPEC: dict[str, Any] = {"data": "climbmix"}  # and nanochat's recipe

# flag: field of the spec. Every other field is reached by key=value.
NAMED: dict[str, str] = {
    "steps": "num_steps",
    "ratio": "ratio",
    "data": "data",
    "num_shards": "data_shards",
    "vocab_size": "vocab_size",
    "tokenizer_chars": "tokenizer_chars",
    "sequence_len": "sequence_len",
    "window_pattern": "window_pattern",
    "batch_tokens": "batch_tokens",
    "device_batch_size": "device_batch_size",
    "eval_every": "eval_every_steps",
    "eval_tokens": "eval_tokens",
    "lr_scale": "lr_scale",
    "seed": "seed",
}
_PARTS = ("features", "learning_rates")  # fields with names inside: learning_rates.matrix=0.02


def defaults_for(device: Device) -> dict[str, Any]:
    """The fields whose default is the device's; the others have TrainSpec's."""
    return dict(LOCAL_SPEC if device.is_cpu else GPU_SPEC)


def spec_on(device: Device, given: Mapping[str, Any]) -> TrainSpec:
    """A checked spec: what was given, else the device's defaults. Raises InvalidInput with every problem at once."""
    return check_spec({**defaults_for(device), **given})


def asked_fields(named: Mapping[str, Any], *, settings: Iterable[str] = (), file: str = "") -> dict[str, Any]:
    """The fields of a spec that somebody gave, and no others. `named`: values by flag, None where it was left out.

    Flags and `key=value` beat the file. Raises InvalidInput with every problem at once: a file that is none, a key
    that no spec has, a field given by two flags, a value out of its range.
    """
    problems: list[str] = []
    found = _of_file(file, problems) if file else {}
    flags = {NAMED[name]: value for name, value in named.items() if value is not None}
    by_key = _of_settings(settings, problems)
    twice = {field: flag for flag, field in NAMED.items() if field in flags and field in by_key}
    problems += [
        f"{field}: given twice, by --{flag.replace('_', '-')} and by key=value" for field, flag in twice.items()
    ]
    found |= by_key | flags
    problems += [unknown_field(name) for name in found if name not in FIELDS] + field_problems(found)
    if problems:
        raise InvalidInput(list(dict.fromkeys(problems)), next="correct the values named and call again")
    return found


def words_of(spec: TrainSpec, *, rented: bool) -> list[str]:
    """The words of a command line that make this very spec there; the depth is the first of them.

    What this machine trains on is not asked: here the words hold for its CPU and for a GPU of its own.
    """
    possible = (GPU_SPEC,) if rented else (LOCAL_SPEC, GPU_SPEC)
    flags = {field: flag for flag, field in NAMED.items()}
    words = ["--depth", str(spec.depth)]
    rest: list[str] = []
    for name, value in spec.to_dict().items():
        if name == "depth" or all(value == _default(name, given) for given in possible):
            continue
        flag = flags.get(name)
        if flag and value is not None:
            words += ["--" + flag.replace("_", "-"), str(value)]
        else:
            rest += ["--set", f"{name}={json.dumps(value, separators=(',', ':'))}"]
    return [*words, *rest]


def _default(name: str, given: Mapping[str, Any]) -> Any:
    return given[name] if name in given else TrainSpec(depth=1).to_dict().get(name)


def _of_file(file: str, problems: list[str]) -> dict[str, Any]:
    try:
        values = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"--spec {file}: {error.strerror if isinstance(error, OSError) else f'not JSON: {error}'}")
        return {}
    if not isinstance(values, dict):
        problems.append(f"--spec {file}: a spec is a JSON object, not {type(values).__name__}")
        return {}
    return values


def _of_settings(settings: Iterable[str], problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, _, part = key.strip().partition(".")
        if not equals or not key:
            problems.append(f"{setting!r}: not key=value")
        elif key not in FIELDS:
            renamed = f"; it is {NAMED[key]} in a spec" if key in NAMED else ""
            problems.append(unknown_field(key, [*FIELDS, *NAMED]) + renamed)
        elif part and key not in _PARTS:
            problems.append(f"{key}.{part}: {key} has no parts")
        elif part:
            found.setdefault(key, {})[part] = _value(text)
        elif key in found:
            problems.append(f"{key}: given twice")
        else:
            found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    """As JSON reads it; what is no JSON is a word."""
    try:
        return json.loads(text.strip())
    except ValueError:
        return text.strip()


def by_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a spec by their own names or by the flags that name them: eval_every is eval_every_steps.

    Raises InvalidInput with every problem at once.
    """
    found = {NAMED.get(name, name): value for name, value in given.items()}
    problems = [unknown_field(name, [*FIELDS, *NAMED]) for name in found if name not in FIELDS] + field_problems(found)
    if problems:
        raise InvalidInput(problems, next="correct the values named and call again")
    return found


def grid_of(lines: Iterable[str]) -> dict[str, list[Any]]:
    """`lr_scale=0.5,1,2` as a field's values, a line or flag each; a JSON list where a value has commas of its own.

    Raises InvalidInput with every problem at once.
    """
    found: dict[str, list[Any]] = {}
    problems: list[str] = []
    for line in lines:
        key, equals, text = line.partition("=")
        field = NAMED.get(key.strip(), key.strip())
        whole = _value(text)
        values = whole if isinstance(whole, list) else [_value(part) for part in text.split(",") if part.strip()]
        if not equals or not values:
            problems.append(f"{line!r}: not field=value,value")
        elif field not in FIELDS:
            problems.append(unknown_field(key.strip(), [*FIELDS, *NAMED]))
        elif field in found:
            problems.append(f"{key.strip()}: given twice")
        else:
            problems += [problem for value in values for problem in field_problems({field: value})]
            found[field] = values
    if problems or not found:
        problems = problems or ["the grid names no field"]
        raise InvalidInput(problems, next="patron sweep --grid lr_scale=0.5,1,2 --seeds 2")
    return found
