"""Checkpoints in a run's folder as anybody finds them: damage, scores, which of them are kept. No torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from trainer.contract.files import read_json
from trainer.contract.layout import MANIFEST, STATE
from trainer.contract.shapes import number, stated_files

FORMAT = 1


def find_damage(path: Path, *, only: Collection[str] | None = None) -> str | None:
    """What does not match the manifest; None when everything does. `only`: the files to look at."""
    manifest = read_json(path / MANIFEST)
    if manifest is None:
        return f"{MANIFEST} is missing or not JSON"
    if manifest.get("format") != FORMAT:
        return f"format {manifest.get('format')!r}, this trainer reads {FORMAT}"
    stated = stated_files(manifest)
    if stated is None:
        return f"{MANIFEST} states no files, or such as are none of a checkpoint"
    for name, (num_bytes, digest) in stated.items():
        if only is not None and name not in only:
            continue
        try:
            with (path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != num_bytes:
                    return f"{name} has {size:,} bytes, its manifest says {num_bytes:,}"
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"the content of {name} differs from its manifest's hash"
        except OSError as error:
            return f"{name}: {error}"
    return None


def score_of(path: Path) -> float | None:
    """val_bpb at this very step, if it was evaluated there."""
    return number((read_json(path / STATE) or {}).get("val_bpb_here"))


def best_step(scores: Mapping[int, float | None]) -> int | None:
    """The step with the lowest score; None where none has one."""
    scored = {step: score for step, score in scores.items() if score is not None}
    return min(scored, key=lambda step: scored[step]) if scored else None


def steps_to_keep(scores: Mapping[int, float | None], keep: int) -> set[int]:
    """The newest `keep`, and the one with the best validation."""
    best = best_step(scores)
    return set(sorted(scores)[-keep:]) | (set() if best is None else {best})
