"""Small files written so that a reader sees the old content or the new, never half of it; and the run's lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.contract.exits import UserError


def cache_folder() -> Path:
    """Downloads, tokenizers, token shards, compiled code, and the working folders of runs that live in a bucket."""
    return Path(os.environ.get("PATRON_CACHE") or Path.home() / ".cache" / "patron")


def compiled_folder() -> Path:
    """Compiled code: torch's own variable, or a place that outlives a restart of the machine, as /tmp does not."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or cache_folder() / "compiled")


def write_json(path: Path, value: Any) -> None:
    """Atomic and durable."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None when it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """One trainer a run directory. The lock dies with its process, so a crash never leaves it behind."""
    path = run_dir / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"process {file.read().strip() or 'unknown'} already trains in {run_dir}; stop it first, or give "
                "another run directory"
            ) from error
        except OSError:
            pass  # a file system without locks: the executor sees to it that there is one trainer
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
