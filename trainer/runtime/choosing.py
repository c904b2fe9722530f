"""The quickest of several ways to do the same thing, by a measurement that is made once a card and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer.contract.exits import first_line
from trainer.contract.files import compiled_folder, read_json, write_json


class WrongAnswer(Exception):
    """A candidate that computes something else, however quickly."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str | None  # None: none of them works here
    seconds: dict[str, float] = field(default_factory=dict)  # of those that work
    failed: dict[str, str] = field(default_factory=dict)  # why the others do not


def choose(kind: str, candidates: Mapping[str, Callable[[], float]], *, platform: str) -> Choice:
    """The name with the fewest seconds. A candidate measures itself, and raises where it does not work or is wrong.

    `kind` and `platform` (card, torch, everything that a time depends on) name the measurement; with the same
    candidates it is made once. What does not work is tried again only with other candidates or on another platform.
    """
    key = f"{kind}: {', '.join(sorted(candidates))}"
    path = _path(platform)
    table = read_json(path) or {}
    known = _parsed(table.get(key), candidates)
    if known is not None:
        return known
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, measure in candidates.items():
        try:
            seconds[name] = measure()
        except Exception as error:  # a compiler, a driver, a missing package: all mean that this one is not to be had
            failed[name] = f"{type(error).__name__}: {first_line(error)}"[:300]
    _forget_memory()
    choice = Choice(name=min(seconds, key=seconds.__getitem__, default=None), seconds=seconds, failed=failed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"platform": platform} | (read_json(path) or {}) | {key: asdict(choice)})
    return choice


def _forget_memory() -> None:
    """What measuring took of a GPU is no part of the run's peak."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def card_name(device: torch.device) -> str:
    """The platform of a measurement on a GPU: the card, and what compiles for it."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def kept(platform: str) -> dict[str, Any]:
    """All that was measured on a platform."""
    return read_json(_path(platform)) or {}


def _path(platform: str) -> Path:
    return compiled_folder() / f"quickest-{hashlib.sha256(platform.encode()).hexdigest()[:16]}.json"


def _parsed(value: Any, candidates: Mapping[str, object]) -> Choice | None:
    """What the file says, where it says something that can be used."""
    if not isinstance(value, dict) or value.get("name") not in candidates:
        return None
    seconds, failed = value.get("seconds"), value.get("failed")
    if not isinstance(seconds, dict) or not isinstance(failed, dict):
        return None
    return Choice(name=value["name"], seconds=seconds, failed=failed)
