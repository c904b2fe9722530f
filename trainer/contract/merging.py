"""Segments of events become fewer as they age: a hundred of them one, so that a long record is fetched in few pieces.

    read all of them -> create the merged one -> delete them

Whoever writes a record merges it, in its folder and in its bucket. A crash in between leaves both: readers take each
line once (`layout.in_order`), and the next merging deletes what lies in a merged one. A reader that listed parts which
are gone when their turn comes lists again. Segments never change, so that two who merge the same do the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from trainer.contract.files import read_bounded, write_atomic
from trainer.contract.layout import EVENTS, Segment, in_order, segment_of

SEGMENTS = 100  # become one
NEWEST = 100  # of an attempt that goes on stay as they are: who follows a run reads none of them again
FEW = 10  # of which no more come are merged from here on
MAX_BYTES = 8 * 2**20  # of a merged one; readers take less than MAX_FILE_BYTES
AT_ONCE = 8  # requests to a bucket


class Place(Protocol):
    """What `Remote` is, or a run directory here. Whatever fails raises OSError."""

    def sizes(self, folder: str) -> dict[str, int]: ...
    def get(self, name: str) -> bytes | None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def delete(self, names: Sequence[str]) -> None: ...


class Merging:
    """Of one record by its writer: at its start, then for each hundred segments that came."""

    def __init__(self, place: Place, attempt: str):
        self._place, self._attempt = place, attempt
        self._left = 0

    def after(self, num_new: int) -> None:
        """A place that refuses is asked again after the next hundred; its record is whole all the same."""
        self._left -= num_new
        if self._left <= 0:
            self._left = SEGMENTS
            with contextlib.suppress(OSError, RuntimeError):  # the latter: a machine that starts no more threads
                merge(self._place, self._attempt)


def merge(place: Place, attempt: str) -> None:
    """All that is old enough; `attempt` is the one that goes on."""
    there = {
        segment: size
        for name, size in place.sizes(EVENTS).items()
        if (segment := segment_of(name.removeprefix(f"{EVENTS}/")))
    }
    needed = in_order(there)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="merging") as threads:
        _delete(place, threads, sorted(there.keys() - needed))
        for parts in _mergeable(needed, there, attempt):
            contents = [content for content in threads.map(place.get, map(_path, parts)) if content is not None]
            if [len(content) for content in contents] != [there[part] for part in parts]:
                continue  # somebody else has merged them, or they cannot be read whole
            merged = Segment(parts[0].attempt, parts[0].first, parts[-1].last)
            place.create(_path(merged), b"".join(map(_with_its_end, contents)))
            _delete(place, threads, parts)


def _mergeable(needed: Sequence[Segment], sizes: Mapping[Segment, int], attempt: str) -> Iterator[list[Segment]]:
    """Of the attempt that goes on whole hundreds, without its newest; of others what is left, too."""
    newest = [segment for segment in needed if segment.attempt == attempt][-NEWEST:]
    staying = set(newest)
    old = [segment for segment in needed if segment.first == segment.last and segment not in staying]
    for parts in _neighbours(old, sizes):
        more_come = bool(newest) and parts[-1] == Segment(attempt, newest[0].first - 1, newest[0].first - 1)
        if len(parts) == SEGMENTS or (len(parts) >= FEW and not more_come):
            yield parts


def _neighbours(segments: Sequence[Segment], sizes: Mapping[Segment, int]) -> Iterator[list[Segment]]:
    """Of one attempt, number by number, up to SEGMENTS and MAX_BYTES: a gap stays a gap."""
    parts: list[Segment] = []
    for segment in segments:
        follows = bool(parts) and segment[:2] == (parts[-1].attempt, parts[-1].last + 1)
        fits = len(parts) < SEGMENTS and sum(sizes[part] for part in (*parts, segment)) <= MAX_BYTES
        if parts and not (follows and fits):
            yield parts
            parts = []
        parts.append(segment)
    if parts:
        yield parts


def _path(segment: Segment) -> str:
    return f"{EVENTS}/{segment.name}"


def _with_its_end(content: bytes) -> bytes:
    """A torn last line stays one line."""
    return content if content.endswith(b"\n") or not content else content + b"\n"


def _delete(place: Place, threads: ThreadPoolExecutor, parts: Sequence[Segment]) -> None:
    list(threads.map(lambda part: place.delete([_path(part)]), parts))


class Here:
    """The Place of a run directory on this machine; names are inside it."""

    def __init__(self, run_dir: Path):
        self._run_dir = run_dir

    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        for path in (self._run_dir / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):  # a segment that is closed, and so renamed, just now
                found[f"{folder}/{path.name}"] = path.stat().st_size
        return found

    def get(self, name: str) -> bytes | None:
        return read_bounded(self._run_dir / name)

    def create(self, name: str, content: bytes) -> bool:
        write_atomic(self._run_dir / name, content)  # durable before any part of it goes
        return True

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self._run_dir / name).unlink(missing_ok=True)
