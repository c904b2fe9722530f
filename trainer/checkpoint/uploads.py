"""What goes up to a bucket from the local folder of a run, and in what order. Each `push` is one round, by one thread.

Records      events, log, spec.json, environment.json, tokenizer.json, and at the end result.json
Checkpoints  files first, manifest.json last: without it up there a checkpoint does not count
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import score_of, steps_to_keep
from trainer.checkpoint.restore import Restored, Segments
from trainer.contract.events import files_in, seq_of
from trainer.contract.files import read_json
from trainer.contract.layout import (
    CHECKPOINTS,
    ENVIRONMENT,
    EVENTS,
    MANIFEST,
    RESULT,
    SPEC,
    TOKENIZER,
    Segment,
    checkpoint_folders,
    checkpoint_name,
    in_order,
    log_name,
    segment_name,
    segment_of,
)
from trainer.contract.merging import Merging
from trainer.contract.remote import Remote

LOG_EVERY_S = 30.0
LIST_EVERY_S = 300.0  # else only the segment after the last one is looked for: a long run has many
DEFAULT_KEEP = 2  # until the spec is there


class Records:
    """`result_due` is set at the end; an older attempt's result.json is taken away, it is not this one's.

    Two threads may push events, one after the other.
    """

    def __init__(self, remote: Remote, folder: Path, restored: Restored, attempt: str):
        self.result_due = False
        self._remote, self._folder, self._attempt = remote, folder, attempt
        self._segments: dict[str, Segments] = dict(restored.segments)
        self._read: set[Segment] = set()  # here
        self._merging = Merging(remote, attempt)
        self._num_created = 0  # up there since the last time that they were merged
        self._next_number = 0  # of this attempt's segments here
        self._listed_at = -math.inf
        self._sent: dict[str, tuple[int, int]] = {}  # small files: time and size when they went up
        self._stale_result = True
        self._log_at = 0.0
        self._lock = threading.Lock()

    def push(self) -> None:
        for name in (SPEC, ENVIRONMENT, TOKENIZER):
            self._put_small(name)
        if self._stale_result and not (self._folder / RESULT).exists():
            self._remote.delete([RESULT])
            self._stale_result = False
        self.push_events()
        if not self.result_due:  # else there is little time
            created, self._num_created = self._num_created, 0
            self._merging.after(created)
        if self.result_due or time.monotonic() >= self._log_at:
            self._put_small(log_name(self._attempt))
            self._log_at = time.monotonic() + LOG_EVERY_S
        if self.result_due:
            self._put_small(RESULT)

    def push_events(self) -> None:
        """All that was closed since the last round as one object an attempt; lines that are up there stay out of it."""
        with self._lock:
            self._push_closed_segments()

    def _push_closed_segments(self) -> None:
        new: dict[str, list[bytes]] = {}
        closed = self._closed_segments()
        for segment, content in closed:
            after = self._segments.get(segment.attempt, Segments()).last_seq
            unsent = (line + b"\n" for line in content.splitlines() if (seq_of(line) or 0) > after)
            new.setdefault(segment.attempt, []).extend(unsent)
        for attempt, lines in new.items():
            if lines:
                self._create_segment(attempt, b"".join(lines), last_seq=max(seq_of(line) or 0 for line in lines))
        self._read.update(segment for segment, _ in closed)
        numbers = [segment.last for segment, _ in closed if segment.attempt == self._attempt]
        self._next_number = max([self._next_number, *(number + 1 for number in numbers)])

    def _closed_segments(self) -> list[tuple[Segment, bytes]]:
        """That were not read yet, in order."""
        while True:
            is_listed = self.result_due or time.monotonic() >= self._listed_at + LIST_EVERY_S
            found = self._all_segments() if is_listed else self._following_segments()
            try:
                return [(segment, (self._folder / EVENTS / segment.name).read_bytes()) for segment in found]
            except FileNotFoundError:
                self._listed_at = -math.inf  # merged just now: a second listing has what it is in

    def _following_segments(self) -> list[Segment]:
        """Of this attempt, up to a gap, which only a disk that refuses leaves; what is behind one is listed later."""
        found: list[Segment] = []
        while True:
            number = self._next_number + len(found)
            segment = Segment(self._attempt, number, number)
            if not (self._folder / EVENTS / segment.name).is_file():
                return found
            found.append(segment)

    def _all_segments(self) -> list[Segment]:
        there = (segment_of(path.name) for path in files_in(self._folder / EVENTS, "*.jsonl"))
        found = in_order(filter(None, there))
        self._listed_at = time.monotonic()
        self._read.intersection_update(found)
        return [segment for segment in found if segment not in self._read]

    def _create_segment(self, attempt: str, content: bytes, *, last_seq: int) -> None:
        number = self._segments.get(attempt, Segments()).next_number
        name = f"{EVENTS}/{segment_name(attempt, number)}"
        while not self._remote.create(name, content):
            if self._remote.get(name) == content:  # ours: it arrived, and the answer was lost
                break
            number += 1
            name = f"{EVENTS}/{segment_name(attempt, number)}"
        self._segments[attempt] = Segments(next_number=number + 1, last_seq=last_seq)
        self._num_created += 1

    def _put_small(self, name: str) -> None:
        try:
            status = (self._folder / name).stat()
            if self._sent.get(name) == (status.st_mtime_ns, status.st_size):
                return
            content = (self._folder / name).read_bytes()
        except FileNotFoundError:
            return
        self._remote.put(name, content)
        self._sent[name] = (status.st_mtime_ns, status.st_size)


class Checkpoints:
    """`check_writer` raises when the run is somebody else's by now; `on_durable` gets step, bytes and seconds.

    `push_events` brings up all that happened so far, and comes before a manifest: a run that goes on from a checkpoint
    has its whole curve up to there.
    """

    def __init__(
        self,
        remote: Remote,
        folder: Path,
        restored: Restored,
        *,
        check_writer: Callable[[], None],
        push_events: Callable[[], None],
        on_durable: Callable[[int, int, float], None],
    ):
        self._remote, self._folder = remote, folder
        self._check_writer, self._push_events, self._on_durable = check_writer, push_events, on_durable
        self._up = dict(restored.manifests)
        self._scores = dict(restored.scores)

    @property
    def durable_step(self) -> int | None:
        """The newest checkpoint that is whole up there."""
        return max(self._up.copy(), default=None)

    def push(self) -> None:
        while (step := self._next()) is not None:
            self._upload(step)

    def _next(self) -> int | None:
        """The newest that shall be kept and is not up there as it is; when saves outrun the network, others wait."""
        here = self._local_manifests()
        scores = self._scores | {step: self._local_score(step) for step in here}
        wanted = steps_to_keep(scores, self._keep())
        return max((step for step in wanted & here.keys() if self._up.get(step) != here[step]), default=None)

    def _local_manifests(self) -> dict[int, dict[str, Any]]:
        read = {step: read_json(path / MANIFEST) for step, path in checkpoint_folders(self._folder).items()}
        return {step: manifest for step, manifest in read.items() if manifest is not None}

    def _local_score(self, step: int) -> float | None:
        return score_of(self._folder / checkpoint_name(step))

    def _keep(self) -> int:
        return int((read_json(self._folder / SPEC) or {}).get("checkpoint_keep", DEFAULT_KEEP))

    def _upload(self, step: int) -> None:
        start = time.monotonic()
        name, score = checkpoint_name(step), self._local_score(step)
        staged = self._folder / ".uploading"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir()
            for path in (self._folder / name).iterdir():  # links: pruning here must not disturb what is going up
                (staged / path.name).hardlink_to(path)
            manifest = json.loads((staged / MANIFEST).read_bytes())
        except FileNotFoundError:
            return  # pruned just now
        self._check_writer()
        self._up.pop(step, None)
        self._remote.delete([f"{name}/{MANIFEST}"])  # of a damaged one: from here on it does not count
        for file in manifest["files"]:
            self._remote.put(f"{name}/{file}", staged / file)
            self._check_writer()
        self._push_events()
        self._remote.put(f"{name}/{MANIFEST}", staged / MANIFEST)
        self._up[step], self._scores[step] = manifest, score
        self._on_durable(step, sum(entry["bytes"] for entry in manifest["files"].values()), time.monotonic() - start)
        shutil.rmtree(staged, ignore_errors=True)
        self._prune()

    def _prune(self) -> None:
        """Also what is half or damaged: it is older than one that is whole, or this run has gone back behind it."""
        kept = steps_to_keep(self._scores, self._keep())
        names = self._remote.sizes(CHECKPOINTS)
        gone = [name for name in names if not any(name.startswith(f"{checkpoint_name(step)}/") for step in kept)]
        self._remote.delete(sorted(gone, key=lambda name: not name.endswith(f"/{MANIFEST}")))
        for step in self._scores.keys() - kept:
            del self._scores[step]
            self._up.pop(step, None)
