"""Small files written so that a reader sees the old content or the new, never half of it; and the run's lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.contract.exits import UserError
from trainer.contract.shapes import MAX_FILE_BYTES, object_of


def cache_folder() -> Path:
    """Downloads, tokenizers, token shards, compiled code, and the working folders of runs that live in a bucket."""
    return Path(os.environ.get("PATRON_CACHE") or Path.home() / ".cache" / "patron")


def compiled_folder() -> Path:
    """Compiled code, loaded as if it were our own: a folder that this user alone can write to. Made if missing.

    torch's own variable, or a place that outlives a restart of the machine, as /tmp does not. A cache that others can
    write to could hold a library that runs as whoever loads it: what is not the user's own is passed over.
    """
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    private = (cache_folder() / f"compiled-{os.getuid()}", Path.home() / ".cache" / "patron" / "compiled")
    for folder in (Path(named),) if named else private:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_own(folder):
                return folder
    return Path(tempfile.mkdtemp(prefix="patron-compiled-"))  # 0700, and gone with this machine's /tmp


def is_own(path: Path) -> bool:
    """Whether it is this user's and nobody else can write to it. A link is not: it may lead anywhere."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


@contextlib.contextmanager
def temporary_beside(path: Path, content: bytes, *, durable: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """A file with all of `content` beside `path`, for the caller to give it that name; else it goes again.

    For nobody whom the process's umask keeps out.
    """
    name = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(descriptor)
        yield name
    finally:
        name.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True, mode: int = 0o666) -> None:
    """A reader sees the old content or the new, never half of it; `durable` also after a power cut."""
    content = content.encode() if isinstance(content, str) else content
    with temporary_beside(path, content, durable=durable, mode=mode) as temporary:
        temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Atomic and durable."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None when it is missing, cannot be read or holds no whole one."""
    try:
        return object_of(read_bounded(path))
    except OSError:
        return None


def read_bounded(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """The content of a plain file; None for what is none, a pipe or a folder. One that is longer counts as empty.

    Raises OSError.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        content = file.read(max_bytes + 1)
    return content if len(content) <= max_bytes else b""


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for whoever would write into a pipe of this name."""
    return os.open(path, flags | os.O_NONBLOCK)


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
