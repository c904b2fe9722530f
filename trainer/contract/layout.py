"""Names in a run directory, and when a checkpoint is whole: what its writers and its readers agree on. Pure.

spec.json  environment.json  tokenizer.json  result.json
events/<attempt>-000012.jsonl                  closed; .jsonl.part while it is being written
events/<attempt>-000099.000000.jsonl           those from 000000 to 000099, merged (contract.merging)
checkpoints/step-000300/manifest.json, ...     the manifest, written last, states the size of every other file
logs/<attempt>.log
core/step-000300.json                          the CORE metric of a checkpoint, as far as it is computed

Beside the runs, for all of them:
.data/sources/<name>.json                      the revision of a remote source that is read
.data/tokenizers/<key>.json                    as in the cache (trainer.data.tokenizer)
.data/tokens/<key>/00000.tokens, ...           as in the cache (trainer.data.shards)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.contract.shapes import stated_files

SPEC, ENVIRONMENT, TOKENIZER, RESULT = "spec.json", "environment.json", "tokenizer.json", "result.json"
EVENTS, CHECKPOINTS, CORE = "events", "checkpoints", "core"
MANIFEST, STATE = "manifest.json", "state.json"

_SEGMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,199})-([0-9]{1,12})(?:\.([0-9]{1,12}))?\.jsonl")
OPEN_SUFFIX = ".part"
DATA = ".data"  # no name of a run: those begin with a letter or a digit
_DRYRUN_FOLDER = re.compile(r"dryrun-[0-9]{1,12}")
_CHECKPOINT_FOLDER = re.compile(r"step-([0-9]{1,12})")
_CHECKPOINT_FILE = re.compile(rf"(?:{CHECKPOINTS}/)?step-([0-9]{{1,12}})/(.+)")


def scratch_name(url: str) -> str:
    """Of the folder in which a machine works on a run of a bucket: the same each time, and no other run's."""
    url = url.rstrip("/")
    return f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class Segment(NamedTuple):
    """A closed segment in events/; a merged one holds all numbers from its first to its last."""

    attempt: str
    first: int
    last: int

    @property
    def name(self) -> str:
        """The last number comes first: a listing by names that has not seen the merged one yet, which is written before
        any part of it is deleted, has seen all of its parts."""
        merged = f".{self.first:06d}" if self.first < self.last else ""
        return f"{self.attempt}-{self.last:06d}{merged}.jsonl"


def segment_name(attempt: str, number: int) -> str:
    """Of a closed segment, in events/."""
    return Segment(attempt, number, number).name


def segment_of(name: str) -> Segment | None:
    """A closed segment by its name in events/; None for any other name."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        return None
    found = Segment(match[1], int(match[3] or match[2]), int(match[2]))
    return found if found.name == name else None


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """By attempt and number, without what lies in a merged one that is there, too."""
    found: list[Segment] = []
    reach: dict[str, int] = {}
    for segment in sorted(segments, key=lambda each: (each.attempt, each.first, -each.last)):
        if segment.last > reach.get(segment.attempt, -1):
            reach[segment.attempt] = segment.last
            found.append(segment)
    return found


def log_name(attempt: str) -> str:
    """In the run directory."""
    return f"logs/{attempt}.log"


def checkpoint_name(step: int) -> str:
    """The folder of a checkpoint in the run directory."""
    return f"{CHECKPOINTS}/step-{step:06d}"


def is_of_checkpoint(name: str) -> bool:
    """Whether a file of a run directory belongs to a checkpoint, of the run or of one of its dryruns."""
    first, _, rest = name.partition("/")
    return (rest if _DRYRUN_FOLDER.fullmatch(first) else name).startswith(f"{CHECKPOINTS}/")


def data_place(run_dir: str) -> str:
    """What runs share, beside the folder or URL of this one; of a dryrun, which lies in its run's, beside the run."""
    scheme, found, path = run_dir.rstrip("/").rpartition("://")
    parts = path.split("/")
    if _DRYRUN_FOLDER.fullmatch(parts[-1]):
        parts.pop()
    bucket = parts[:1] if found and scheme != "file" else []  # a bucket's name is not part of a path in it
    return f"{scheme}{found}" + "/".join([*(parts[:-1] or bucket or ["."]), DATA])


def step_of(folder: str) -> int | None:
    """The step of a folder's name in checkpoints/; None for what is none: a temporary or a damaged one, say."""
    match = _CHECKPOINT_FOLDER.fullmatch(folder)
    return int(match[1]) if match else None


def checkpoint_folders(run_dir: Path) -> dict[int, Path]:
    """Step -> folder, by step, whole or not."""
    found = {step_of(path.name): path for path in (run_dir / CHECKPOINTS).glob("step-*")}
    return {step: found[step] for step in sorted(step for step in found if step is not None)}


def newest_checkpoint_name(run_dir: Path) -> str | None:
    """step-000300, of the newest checkpoint that was written to its end; it may have been damaged since."""
    written = [path.name for path in checkpoint_folders(run_dir).values() if (path / MANIFEST).exists()]
    return written[-1] if written else None


def files_by_step(sizes: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """Step -> file -> bytes, from the names of all files under checkpoints/ and their sizes."""
    found: dict[int, dict[str, int]] = {}
    for name, size in sizes.items():
        if match := _CHECKPOINT_FILE.fullmatch(name):
            found.setdefault(int(match[1]), {})[match[2]] = size
    return found


def is_whole(sizes: Mapping[str, int], manifest: Mapping[str, Any] | None) -> bool:
    """Whether every file that a manifest states is there with the size that it states; none stated is not whole."""
    stated = stated_files(manifest)
    return stated is not None and all(sizes.get(name) == num_bytes for name, (num_bytes, _) in stated.items())
