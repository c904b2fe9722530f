"""What is read from a run directory, as checked and bounded values: whoever can write there can write anything. Pure.

A value that has not the shape that its readers count on is left out, never repaired: a seconds count of -1e9, 1e999,
"abc" or [] is none. Nesting, lengths and sizes end somewhere, so that no reader does more for a hostile file than for
an honest one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH, MAX_ITEMS, MAX_CHARS = 8, 1000, 10_000
MAX_FILE_BYTES = 32 * 2**20  # of what is read whole; a segment of events after a disk had refused is the largest
MAX_COUNT = 2**53  # what JSON's readers elsewhere still tell apart
MAX_SECONDS = 1e9  # thirty years
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

_COUNTS = {
    "step", "num_steps", "resumed_step", "checkpoint_step", "last_checkpoint_step", "device_batch_size",
    "fitting_device_batch_size", "num_bad", "num_values", "tokens", "oom_kills", "exit_code", "signal", "number",
}  # fmt: skip
_NUMBERS = {"val_bpb", "min_val_bpb", "val_loss", "mfu", "val_bpb_here"}  # and what ends with a unit: _s, _bytes
_TEXTS = {"attempt", "reason", "message", "advice", "error", "host", "job", "key", "hash", "quantity", "name", "place"}
_OBJECTS = {"memory", "divergence", "burst", "rehearsal", "evidence"}


def parse(content: bytes | str | None) -> Any:
    """The value of a JSON text; None for none, for a torn one, and for one that is nested without end."""
    try:
        return json.loads(content or b"null")
    except (ValueError, RecursionError):
        return None


def object_of(content: bytes | str | None) -> dict[str, Any] | None:
    """The object in a JSON text; None where there is no whole one."""
    value = parse(content)
    return value if isinstance(value, dict) else None


def number(value: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A finite number within its bounds as a float; None for anything else, a truth or a text too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and low <= found <= high else None


def count(value: Any, high: int = MAX_COUNT) -> int | None:
    """A whole number from 0; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high else None


def text(value: Any, max_chars: int = MAX_CHARS) -> str | None:
    return value[:max_chars] if isinstance(value, str) else None


def is_file_name(name: str) -> bool:
    """Whether it names a file in the folder at hand and nothing elsewhere: no separator, no .., no hidden file."""
    return _FILE_NAME.fullmatch(name) is not None


def is_inside(name: str) -> bool:
    """Whether a relative name with slashes stays in the folder at hand: no .., no root, no empty part."""
    return all(part not in ("", ".", "..") for part in name.split("/"))


def bounded(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Any JSON value with finite numbers, within the bounds above; what is nested deeper is null."""
    if isinstance(value, dict) and depth:
        items = list(value.items())[:MAX_ITEMS]
        return {str(key)[:200]: bounded(inner, depth - 1) for key, inner in items}
    if isinstance(value, list) and depth:
        return [bounded(inner, depth - 1) for inner in value[:MAX_ITEMS]]
    if isinstance(value, str):
        return value[:MAX_CHARS]
    return value if value is None or isinstance(value, bool) else _bounded_number(value)


def known(raw: Mapping[str, Any], depth: int = MAX_DEPTH) -> dict[str, Any]:
    """An object whose well-known fields have their type, at any depth; the rest is bounded."""
    found: dict[str, Any] = {}
    for key, value in list(raw.items())[:MAX_ITEMS]:
        checked = _known_value(key, value, depth - 1)
        if checked is not None or value is None:
            found[str(key)[:200]] = checked
    return found


def metrics(raw: Any) -> dict[str, float]:
    """Name -> finite number; whatever else is there is left out."""
    if not isinstance(raw, dict):
        return {}
    items = list(raw.items())[:MAX_ITEMS]
    return {key[:200]: found for key, value in items if (found := number(value)) is not None}


def start_record(raw: Any) -> dict[str, Any]:
    """A machine's record of one start. `damaged` is true where it says nothing that can be used."""
    found = known(raw) if isinstance(raw, dict) else {}
    elapsed_s = number(found.get("elapsed_s"), 0.0, MAX_SECONDS)
    at = number(found.get("at"), 0.0)
    evidence = found.get("evidence")
    tail = found.get("tail")
    return found | {
        "elapsed_s": elapsed_s or 0.0,
        "at": at or 0.0,
        "ended": found.get("ended") is True,
        "evidence": evidence if isinstance(evidence, dict) else {},
        "tail": [line for line in tail if isinstance(line, str)] if isinstance(tail, list) else [],
        "damaged": elapsed_s is None or at is None,
    }


def stop_wish(raw: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds until force; None leaves it to whoever is asked."""
    return {"at": number(raw.get("at")), "kill_after_s": number(raw.get("kill_after_s"), 0.0, MAX_SECONDS)}


def stated_files(manifest: Mapping[str, Any] | None) -> dict[str, tuple[int, str]] | None:
    """File -> (bytes, sha256) of a checkpoint's manifest; None where it states none, or one that is no file of ours."""
    stated = manifest.get("files") if manifest else None
    if not isinstance(stated, dict) or not stated:
        return None
    found = {}
    for name, entry in stated.items():
        size = count(entry.get("bytes")) if isinstance(entry, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if size is None or not is_file_name(name):
            return None
        found[name] = (size, digest if isinstance(digest, str) else "")
    return found


def _known_value(key: str, value: Any, depth: int) -> Any:
    if key in _COUNTS:
        return count(value)
    if key in _NUMBERS or key.endswith(("_s", "_bytes")):
        return number(value)
    if key in _TEXTS:
        return text(value)
    if key in _OBJECTS:
        return known(value, depth) if isinstance(value, dict) and depth else None
    return bounded(value, depth)


def _bounded_number(value: Any) -> float | int | None:
    return value if number(value, -MAX_COUNT, MAX_COUNT) is not None else None
