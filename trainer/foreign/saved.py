"""Checkpoints that the code saves by itself, taken into the run directory as ours are: whole, with sizes and hashes.

So they are seen, count as durable once they are up, and come down on the next machine. What it saves is waited for
until it is quiet: a file that is still written is no checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import FORMAT
from trainer.contract.files import sync_folder, write_json
from trainer.contract.foreign import Checkpoints
from trainer.contract.layout import CHECKPOINTS, MANIFEST, checkpoint_folders, checkpoint_name
from trainer.contract.shapes import is_file_name

QUIET_S = 2.0  # since the last change of any of its files
KEEP = 2


class Saved:
    def __init__(self, declared: Checkpoints, run_dir: Path, work: Path):
        self._folder, self._resume = work / declared.folder, declared.resume
        self._pattern = re.compile(declared.pattern)
        self._run_dir = run_dir

    def take(self, *, quiet_s: float = QUIET_S) -> list[tuple[int, int]]:
        """(step, bytes) of each that is new and quiet."""
        known = checkpoint_folders(self._run_dir)
        taken = []
        for step, files in sorted(self._by_step().items()):
            if step in known or step < max(known, default=0):
                continue
            if time.time() - max(path.stat().st_mtime for path in files) < quiet_s:
                continue
            taken.append((step, self._take(step, files)))
            self._remove_old()
        return taken

    def put_back(self) -> int | None:
        """The step to go on from: the newest whole one, whose files are there again for the code to find."""
        whole = {n: path for n, path in checkpoint_folders(self._run_dir).items() if (path / MANIFEST).exists()}
        step = max(whole, default=None)
        if step is None:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in whole[step].iterdir():
            if path.name != MANIFEST and not (self._folder / path.name).exists():
                _link(path, self._folder / path.name)
        return step

    def words(self, step: int | None) -> str:
        """What is put in the place of {resume}."""
        return "" if step is None else self._resume.replace("{step}", str(step))

    def _by_step(self) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = {}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            match = self._pattern.fullmatch(path.name)
            if match and is_file_name(path.name) and path.is_file() and not path.is_symlink():
                found.setdefault(int(match[1]), []).append(path)
        return found

    def _take(self, step: int, files: list[Path]) -> int:
        final = self._run_dir / checkpoint_name(step)
        making = final.with_name(f".tmp-{final.name}")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        stated: dict[str, dict[str, Any]] = {}
        for path in files:
            _link(path, making / path.name)
            stated[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(making / path.name)}
        write_json(making / MANIFEST, {"format": FORMAT, "step": step, "files": stated})
        sync_folder(making)
        making.rename(final)
        sync_folder(self._run_dir / CHECKPOINTS)
        return sum(int(entry["bytes"]) for entry in stated.values())

    def _remove_old(self) -> None:
        steps = sorted(checkpoint_folders(self._run_dir).items())
        for step, path in steps[:-KEEP]:
            shutil.rmtree(path, ignore_errors=True)
            for file in self._by_step().get(step, ()):
                file.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name, which takes no space; a copy on a file system without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
