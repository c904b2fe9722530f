"""Where a run directory is: a folder, or s3:// and gs:// URLs. The same few calls for both.

What cannot be read now raises Unreachable, a bucket within about ANSWER_WITHIN_S; it is never taken for one that is
empty. What has the name of a file and is none, a folder for instance, is no file.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from patron_core.errors import Busy
from patron_core.rundir.files import tail
from trainer.contract.files import read_bounded, temporary_beside, write_atomic
from trainer.contract.layout import SPEC
from trainer.contract.remote import Remote, RemoteError, is_url
from trainer.contract.shapes import is_inside

ANSWER_WITHIN_S = 10.0
READ_AT_ONCE = 16  # objects of a bucket
READ_AHEAD = 32  # of who takes them: bounded, so that a long run is not held in memory
LOG_LINE_BYTES = 400  # assumed, to fetch only the end of a log
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
Skip = Callable[[str], str | None]


class Unreachable(Busy, OSError):
    """It cannot be read now. An OSError too, so that who handles a missing disk handles this."""


class Place(Protocol):
    """Names are relative, with slashes. What is not there is None or empty, and no error."""

    def exists(self) -> bool: ...
    def read(self, name: str) -> bytes | None: ...
    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Each as `read` gives it, in order; a bucket is asked for several at once."""

    def tail(self, name: str, lines: int) -> str: ...
    def names(self, folder: str, skip: Skip) -> list[str]:
        """Of the files in `folder`. skip(name) may give a later name: what lies between them may be left out."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Of the files in `folder` and below, by their name inside it."""

    def is_away(self, folder: str) -> bool:
        """Whether all of it went: unmounted, not deleted."""

    def create(self, name: str, content: bytes) -> bool:
        """Write unless it is there; False then."""

    def write(self, name: str, content: bytes) -> None:
        """All of it or nothing."""


def place_of(where: str | Path) -> Place:
    return Bucket(str(where)) if is_url(where) else Folder(Path(where))


class Folder:
    def __init__(self, path: Path):
        self.path = path

    def exists(self) -> bool:
        with _reading(self.path) as path:
            return path.is_dir()

    def read(self, name: str) -> bytes | None:
        with _reading(self._file(name)) as path, suppress(*_NOT_THERE):
            return read_bounded(path)
        return None

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        return map(self.read, names)

    def tail(self, name: str, lines: int) -> str:
        with _reading(self._file(name)) as path:
            # a workload may make a link of it, to what it shall not read itself
            is_ours = path.is_file() and path.resolve().is_relative_to(self.path.resolve())
            return tail(path, lines) if is_ours else ""

    def names(self, folder: str, skip: Skip) -> list[str]:
        with _reading(self.path / folder) as path, suppress(*_NOT_THERE):
            return os.listdir(path)  # noqa: PTH208 (names only, and half the time)
        return []

    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        with _reading(self.path / folder) as root:
            for parent, _, names in os.walk(root, onerror=_raise_unless_away):
                for name in names:
                    path = Path(parent, name)
                    with suppress(OSError):  # pruned just now
                        found[path.relative_to(root).as_posix()] = path.stat().st_size
        return found

    def is_away(self, folder: str) -> bool:
        return not (self.path / folder).is_dir()

    def create(self, name: str, content: bytes) -> bool:
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path, content) as temporary:
            try:
                _publish(temporary, path)
            except FileExistsError:
                return False
        return True

    def write(self, name: str, content: bytes) -> None:
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)

    def _file(self, name: str) -> Path:
        if not is_inside(name):
            raise Unreachable(f"{name!r} is no name of a file in {self.path}", next=_look_at(self.path))
        return self.path / name


class Bucket:
    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def exists(self) -> bool:
        """Whoever begins a run writes its spec first; asking for one object costs a tenth of a listing."""
        return self.read(SPEC) is not None

    def read(self, name: str) -> bytes | None:
        with _asking():
            return _remote(self.url).get(name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        if len(names) < 2:
            yield from map(self.read, names)
            return
        with ThreadPoolExecutor(READ_AT_ONCE) as threads:
            asked: deque[Future[bytes | None]] = deque()
            try:
                for name in names:
                    asked.append(threads.submit(self.read, name))
                    if len(asked) == READ_AHEAD:
                        yield asked.popleft().result()
                while asked:
                    yield asked.popleft().result()
            finally:
                for each in asked:
                    each.cancel()

    def tail(self, name: str, lines: int) -> str:
        with _asking():
            content = _remote(self.url).get_end(name, max(1, lines) * LOG_LINE_BYTES)
        return "\n".join(content.decode("utf-8", errors="replace").splitlines()[-lines:]) if lines > 0 else ""

    def names(self, folder: str, skip: Skip) -> list[str]:
        """A page of 1000 whose last name is to be skipped is followed by a listing from further on."""
        found: list[str] = []
        after: str | None = None
        while True:
            jump = None
            with _asking():
                for page in _remote(self.url).pages(folder, after):
                    names = [name.removeprefix(f"{folder}/") for name, _ in page]
                    found += names
                    target = skip(names[-1]) if names else None
                    if target is not None and target > names[-1]:
                        jump = f"{folder}/{target}"
                        break
            if jump is None:
                return found
            after = jump

    def sizes(self, folder: str) -> dict[str, int]:
        with _asking():
            return {name.removeprefix(f"{folder}/"): size for name, size in _remote(self.url).sizes(folder).items()}

    def is_away(self, folder: str) -> bool:
        return False  # it would have raised

    def create(self, name: str, content: bytes) -> bool:
        with _asking():
            return _remote(self.url).create(name, content)

    def write(self, name: str, content: bytes) -> None:
        with _asking():
            _remote(self.url).put(name, content)


def _raise_unless_away(error: OSError) -> None:
    if not isinstance(error, _NOT_THERE):
        raise error


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        if isinstance(error, Unreachable):
            raise
        raise Unreachable(f"{path} cannot be read: {error.strerror}", next=_look_at(path)) from error


def _look_at(path: Path) -> str:
    return f"ls -la {shlex.quote(str(path))}"


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise Unreachable(error.message, next=error.advice) from None


@functools.lru_cache(maxsize=64)
def _remote(url: str) -> Remote:
    """One for each run, with its open connections."""
    return Remote(url, timeout_s=ANSWER_WITHIN_S / 2, retry_s=ANSWER_WITHIN_S / 2)


def _publish(source: Path, target: Path) -> None:
    """Give `source` the name `target`, which must be free: FileExistsError otherwise."""
    try:
        os.link(source, target)  # unlike a rename, a link never replaces what is there
    except FileExistsError:
        raise
    except OSError:  # a mounted bucket has no links; it is one writer's folder, so look and rename
        if target.exists():
            raise FileExistsError(target) from None
        source.rename(target)
