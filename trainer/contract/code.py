"""Which of the trainer's own sources decide a number, as one hash. Pure, so that the core can ask without torch."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

# Sources that report, store or arrange and never touch a number; a correction there must not end running experiments.
# Of the data, the tokens are hashed themselves; loader and packing carry a version that is part of that hash. As their
# number may change, so may the way in which processes add up.
NOT_HASHED = {
    "checkpoint", "core.py", "data", "dryrun.py", "environment.py", "foreign", "frozen.py", "model/cache.py", "pace.py",
    "preemption", "runtime/console.py", "runtime/distributed.py", "runtime/joining.py", "runtime/measure.py",
    "runtime/out_of_memory.py", "runtime/system.py", "runtime/transfer.py", "runtime/world.py", "sample.py",
    "sampling", "session.py", "start.py", "supply.py", "train.py",
}  # fmt: skip
HASHED_OF_CONTRACT = {"__init__.py", "blocks.py", "footprint.py", "recipe.py", "spec.py"}  # the rest is names and words


def python_module(module: str) -> list[str]:
    """A command that starts a module as this process was started: with -P, never from the folder it is in."""
    return [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", module]


def hashed_sources() -> dict[str, Path]:
    """What decides a number: the path inside the trainer -> the file."""
    folder = Path(__file__).parents[1]
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp")):
        inner = path.relative_to(folder)
        if inner.parts[0] == "contract" and inner.name not in HASHED_OF_CONTRACT:
            continue
        if not NOT_HASHED & {inner.as_posix(), *(parent.as_posix() for parent in inner.parents)}:
            found[inner.as_posix()] = path
    return found


def code_hash() -> str:
    """Sixteen hex digits over names and contents of the sources that compute."""
    digest = hashlib.sha256()
    for name, path in hashed_sources().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
