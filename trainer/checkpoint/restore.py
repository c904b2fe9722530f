"""Bring what a run left under its URL into a local folder, so that the run goes on where it stopped, on any machine.

What comes down: spec.json, environment.json and result.json, the attempt's log, and the newest checkpoint that is
whole, unless the folder holds it or a newer one. A checkpoint up there counts when its manifest is there;
each file is checked against the manifest as it comes. What is damaged is passed over with a warning. Of the events only
their numbers are needed: a writer goes on behind them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import find_damage
from trainer.contract.events import attempt_segments, last_seq, seq_of
from trainer.contract.files import sync_folder
from trainer.contract.layout import (
    CHECKPOINTS,
    ENVIRONMENT,
    EVENTS,
    MANIFEST,
    RESULT,
    SPEC,
    STATE,
    checkpoint_folders,
    checkpoint_name,
    files_by_step,
    in_order,
    is_whole,
    log_name,
    segment_of,
)
from trainer.contract.remote import Remote
from trainer.contract.shapes import number, object_of, stated_files
from trainer.runtime.console import say

SMALL_FILES = (SPEC, ENVIRONMENT, RESULT)
SEQ_GAP = 1000  # what a machine that is still dying may number after we looked must not meet our numbers


@dataclass(frozen=True, kw_only=True)
class Segments:
    """What is up there of one attempt's events."""

    next_number: int = 0
    last_seq: int = 0


@dataclass(kw_only=True)
class Restored:
    """What was found up there: the whole checkpoints with their validation, and the `step` of the one brought down."""

    manifests: dict[int, dict[str, Any]] = field(default_factory=dict)
    scores: dict[int, float | None] = field(default_factory=dict)
    segments: dict[str, Segments] = field(default_factory=dict)
    step: int | None = None
    bytes: int = 0
    seconds: float = 0.0
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def first_seq(self, folder: Path, attempt: str) -> int:
        """The number of the attempt's next event."""
        here = last_seq(attempt_segments(folder / EVENTS, attempt))
        there = self.segments.get(attempt, Segments()).last_seq
        return there + SEQ_GAP if there > here else here + 1


class Damaged(Exception):
    """A checkpoint that is not what its manifest says."""


def restore(remote: Remote, folder: Path, attempt: str | None) -> Restored:
    """Raises RemoteError when the place does not answer: the run must not begin anew because of that."""
    found = Restored(segments=_segments(remote))
    for name in SMALL_FILES:
        _bring_small_file(remote, folder, name)
    if attempt is not None:
        _bring_small_file(remote, folder, log_name(attempt), keep_local=True)
    _restore_checkpoint(remote, folder, found)
    return found


def whole_checkpoints(remote: Remote, damaged: set[int] | None = None) -> dict[int, dict[str, Any]]:
    """Step -> manifest of the checkpoints that are all there; what a half-done upload or delete left is not.

    A manifest is put last and deleted first: `damaged` gets the steps of those that state what is not there.
    """
    whole = {}
    for step, files in files_by_step(remote.sizes(CHECKPOINTS)).items():
        manifest = _get_json(remote, f"{checkpoint_name(step)}/{MANIFEST}") if MANIFEST in files else None
        if is_whole(files, manifest):
            whole[step] = manifest or {}
        elif MANIFEST in files and damaged is not None:
            damaged.add(step)
    return whole


def _restore_checkpoint(remote: Remote, folder: Path, found: Restored) -> None:
    """The newest whole one. A machine that is going down may prune while we read: then look again."""
    tried: set[int] = set()
    damaged: set[int] = set()
    while True:
        known = set(damaged)
        whole = whole_checkpoints(remote, damaged)
        for step in sorted(damaged - known):
            _pass_over(remote, found, step, f"its {MANIFEST} does not state what is there")
        manifests = {step: manifest for step, manifest in whole.items() if step not in tried}
        found.manifests, found.scores = manifests, {step: _score(remote, step) for step in manifests}
        here = _newest_local(folder)
        steps = [step for step in sorted(found.scores, reverse=True) if here is None or step > here]
        if not steps:
            return
        step = steps[0]
        size = sum(num_bytes for num_bytes, _ in (stated_files(manifests[step]) or {}).values())
        say(f"trainer: fetching the checkpoint of step {step}, {size:,} bytes, from {remote.url}")
        start = time.monotonic()
        try:
            _download(remote, folder, step, manifests[step])
        except (Damaged, FileNotFoundError) as error:
            tried.add(step)
            _pass_over(remote, found, step, str(error))
            continue
        found.step, found.bytes, found.seconds = step, size, time.monotonic() - start
        return


def _pass_over(remote: Remote, found: Restored, step: int, why: str) -> None:
    message = f"step {step} in {remote.url} is not used: {why}"
    found.warnings.append(("checkpoint_damaged", message))
    say(f"trainer: warning: {message}")


def _download(remote: Remote, folder: Path, step: int, manifest: dict[str, Any]) -> None:
    final = folder / checkpoint_name(step)
    temporary = final.with_name(f".tmp-{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, (_, expected) in (stated_files(manifest) or {}).items():
            digest = hashlib.sha256()
            with (temporary / name).open("wb") as file:
                for chunk in remote.stream(f"{checkpoint_name(step)}/{name}"):
                    file.write(chunk)
                    digest.update(chunk)
            if digest.hexdigest() != expected:
                raise Damaged(f"the content of {name} differs from its manifest's hash")
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _newest_local(folder: Path) -> int | None:
    """The newest local step that is whole; damaged ones are left for the loader to set aside."""
    newest_first = reversed(checkpoint_folders(folder).items())
    return next((step for step, path in newest_first if find_damage(path) is None), None)


def _segments(remote: Remote) -> dict[str, Segments]:
    """Where each attempt's events end up there. What is merged between listing and reading is listed again: taken for
    empty, its numbers would be given twice."""
    while True:
        there = (segment_of(name.removeprefix(f"{EVENTS}/")) for name in remote.sizes(EVENTS))
        newest = {segment.attempt: segment for segment in in_order(filter(None, there))}
        found: dict[str, Segments] = {}
        for attempt, segment in newest.items():
            if (content := remote.get(f"{EVENTS}/{segment.name}")) is None:
                break
            found[attempt] = Segments(next_number=segment.last + 1, last_seq=_last_seq(content))
        else:
            return found


def _last_seq(content: bytes) -> int:
    return max((seq_of(line) or 0 for line in content.splitlines()), default=0)


def _score(remote: Remote, step: int) -> float | None:
    state = _get_json(remote, f"{checkpoint_name(step)}/{STATE}") or {}
    return number(state.get("val_bpb_here"))


def _bring_small_file(remote: Remote, folder: Path, name: str, *, keep_local: bool = False) -> None:
    """The file as it is up there; what is not there stays as it is here."""
    path = folder / name
    if keep_local and path.exists():
        return
    content = remote.get(name)
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _get_json(remote: Remote, name: str) -> dict[str, Any] | None:
    return object_of(remote.get(name))
