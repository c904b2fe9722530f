"""Files that several processes share: atomic writes, hashes, and a lock that dies with its process."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str, float | None], None]  # message, fraction done or None


def no_progress(message: str, fraction: float | None = None) -> None:
    """The default: say nothing."""


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def locked(path: Path, progress: Progress = no_progress) -> Iterator[None]:
    """Hold `path`.lock. A second process waits and says so; the kernel frees the lock of a dead one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting: {path.name} is being prepared elsewhere", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file frees the lock; the file stays, since removing it would let a third process in
