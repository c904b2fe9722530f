"""Which of the trainer's own sources decide a number, as one hash. Pure, so that the core can ask without torch."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

# Sources that report, store or arrange and never touch a number; a correction there must not end running experiments.
# Of the data, the tokens are hashed themselves; loader and packing carry a version that is part of that hash. As their
# number may change, so may the way in which processes add up.
NOT_HASHED = {
    "bucket.py", "cache.py", "checkpoint.py", "code.py", "console.py", "data",
    "devices.py", "distributed.py", "dryrun.py",
    "ending.py", "environment.py", "events.py", "files.py", "generate.py", "gpus.py", "launch.py", "loading.py",
    "notices.py", "out_of_memory.py", "outcome.py", "remote.py", "restore.py", "sample.py", "saving.py", "session.py",
    "showcase.py", "stop.py", "train.py", "uploads.py", "world.py",
}  # fmt: skip


def python_module(module: str) -> list[str]:
    """A command that starts a module as this process was started: with -P, never from the folder it is in."""
    return [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", module]


def code_hash() -> str:
    """Sixteen hex digits over names and contents of the sources that compute."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    sources = (path for path in folder.rglob("*") if path.suffix in (".py", ".cpp"))
    for path in sorted(path for path in sources if path.relative_to(folder).parts[0] not in NOT_HASHED):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
