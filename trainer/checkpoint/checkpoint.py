"""Checkpoints that a crash at any instant cannot spoil.

A save goes to a temporary folder, is synced, gets its manifest (sizes and SHA-256 of every file) last and is then
renamed: a folder named step-000300 is complete or was damaged later. Loading trusts the manifest only, and falls back
to the checkpoint before when the newest does not match it. `saving` does this while training goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.folders import FORMAT, find_damage, score_of, steps_to_keep
from trainer.contract.files import read_json, sync_folder, write_json
from trainer.contract.layout import CHECKPOINTS, MANIFEST, STATE, checkpoint_folders, checkpoint_name
from trainer.contract.shapes import count
from trainer.divergence import Culprit, find_in_files

MEAN_TIME_BETWEEN_FAILURES_S = 2 * 3600.0
MIN_INTERVAL_S = 15.0
MIN_INTERVAL_WRITES = 3.0  # a write in the background costs too: for at least two thirds of the time there is none
CHUNK_BYTES = 4 * 2**20

Tensors = Mapping[str, Tensor]


class CheckpointError(RuntimeError):
    """A save that failed; older checkpoints are as they were."""


class NotFinite(CheckpointError):
    """What was to be saved holds a NaN or an infinity; nothing was written."""

    def __init__(self, step: int, culprit: Culprit):
        super().__init__(f"the checkpoint of step {step} was not written")
        self.step, self.culprit = step, culprit


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a resume needs. `files` maps model, optimizer, rng to their tensors; `state` is JSON."""

    step: int
    files: Mapping[str, Tensors]
    state: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SaveReport:
    path: Path
    seconds: float  # until the checkpoint was safe
    stall_s: float  # for which training stood still, when nobody waits for the write
    num_bytes: int
    waited_for: bool = True


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    path: Path
    step: int
    state: dict[str, Any]

    def load(self, name: str) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = torch.load(self.path / f"{name}.pt", map_location="cpu", weights_only=True)
        return tensors


class Checkpointer:
    """Saves into RUN_DIR/checkpoints, keeping the newest `keep` and the one with the best validation."""

    def __init__(self, run_dir: Path, *, keep: int):
        self._run_dir = run_dir
        self.folder = run_dir / CHECKPOINTS
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        for leftover in self.folder.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> SaveReport:
        """Returns when the checkpoint is safe. Raises CheckpointError, with nothing half-made left behind."""
        start = time.perf_counter()
        culprit = find_in_files(snapshot.files)
        if culprit is not None:
            raise NotFinite(snapshot.step, culprit)
        final = self._run_dir / checkpoint_name(snapshot.step)
        temporary = self.folder / f".tmp-{final.name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            num_bytes = _write_files(temporary, snapshot)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            sync_folder(self.folder)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._explain(snapshot, error)) from error
        seconds = time.perf_counter() - start
        self._prune()
        return SaveReport(path=final, seconds=seconds, stall_s=seconds, num_bytes=num_bytes)

    def newest_valid(self, warn: Callable[[str, str], None]) -> Checkpoint | None:
        """The newest checkpoint whose manifest holds; those that fail are set aside with a warning."""
        for path in reversed(checkpoint_folders(self._run_dir).values()):
            problem = find_damage(path)
            state = read_json(path / STATE)
            step = None if state is None else count(state.get("step"))
            if problem is None and state is not None and step is not None:
                return Checkpoint(path=path, step=step, state=state)
            warn("checkpoint_damaged", f"{path.name} is not used: {problem or f'{STATE} says no step'}")
            set_aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(set_aside, ignore_errors=True)
            path.rename(set_aside)
        return None

    def _prune(self) -> None:
        paths = checkpoint_folders(self._run_dir)
        kept = steps_to_keep({step: score_of(path) for step, path in paths.items()}, self._keep)
        gone = [path for step, path in paths.items() if step not in kept]
        for path in [*gone, *self.folder.glob("damaged-*")]:
            shutil.rmtree(path, ignore_errors=True)

    def _explain(self, snapshot: Snapshot, error: Exception) -> str:
        needed = sum(t.numel() * t.element_size() for tensors in snapshot.files.values() for t in tensors.values())
        older = [path.name for path in checkpoint_folders(self._run_dir).values()]
        return (
            f"checkpoint of step {snapshot.step} failed ({error}): it needs {needed:,} bytes in {self.folder}, "
            f"{shutil.disk_usage(self.folder).free:,} are free. Free some space or lower checkpoint_keep. "
            + (f"Still there: {', '.join(older)}" if older else "No older checkpoint exists")
        )


def save_interval_s(*, stall_s: float, write_s: float) -> float:
    """Young's optimum between losing work and losing time to saves: sqrt(2 stall MTBF)."""
    young_s = math.sqrt(2 * stall_s * MEAN_TIME_BETWEEN_FAILURES_S)
    return max(MIN_INTERVAL_S, MIN_INTERVAL_WRITES * write_s, young_s)


class _HashingFile:
    """A file that counts and hashes what passes through, so that nothing is read back for the manifest.

    It does so in chunks, which stay in the processor's cache between the two; both let other threads run meanwhile.
    """

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.error: OSError | None = None  # torch.save replaces it with one that hides the cause

    def write(self, data: bytes) -> int:
        whole = memoryview(data)
        for start in range(0, len(whole), CHUNK_BYTES):
            chunk = whole[start : start + CHUNK_BYTES]
            try:
                self._file.write(chunk)
            except OSError as error:
                self.error = error
                raise
            self._digest.update(chunk)
        self.num_bytes += len(whole)
        return len(whole)

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> dict[str, Any]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self.num_bytes, "sha256": self._digest.hexdigest()}

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _write_files(folder: Path, snapshot: Snapshot) -> int:
    manifest: dict[str, Any] = {}
    for name, tensors in snapshot.files.items():
        file = _HashingFile(folder / f"{name}.pt")
        try:
            torch.save(dict(tensors), file)  # type: ignore[arg-type]  # it needs write and flush
            manifest[f"{name}.pt"] = file.finish()
        except RuntimeError as error:
            raise (file.error or error) from error
        finally:
            file.abandon()
    state = json.dumps({"format": FORMAT, "step": snapshot.step, **snapshot.state}, indent=2, allow_nan=False).encode()
    file = _HashingFile(folder / STATE)
    try:
        file.write(state)
        manifest[STATE] = file.finish()
    finally:
        file.abandon()
    write_json(folder / MANIFEST, {"format": FORMAT, "step": snapshot.step, "files": manifest})
    return sum(entry["bytes"] for entry in manifest.values())
