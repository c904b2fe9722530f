"""The revision of a remote source that a run reads: the one that it began with, else the one that is kept beside the
runs or in the cache, else the newest, which is then kept there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.contract.files import read_json, write_atomic
from trainer.data.files import Progress, no_progress
from trainer.data.keep import Keep
from trainer.data.sources import REMOTES, ask_revision, base_url, is_revision


def pinned_revision(
    name: str,
    cache: Path,
    *,
    keep: str | None = None,
    begun_with: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> str | None:
    """None for local files, and for a mirror that has no revisions. Raises Unreachable.

    `begun_with` is `data_source` of the run's environment.json.
    """
    if name not in REMOTES:
        return None
    url, kept, local = base_url(name), Keep(keep, progress), cache / "sources" / f"{name}.json"
    there = f"sources/{name}.json"
    for found in (begun_with, kept.get_object(there), read_json(local)):
        if found is not None and found.get("url") == url:
            revision = found.get("revision")
            return revision if is_revision(revision) else None
    revision = ask_revision(name, progress)
    text = json.dumps({"url": url, "revision": revision})
    local.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(local, text)
    kept.put(there, text.encode())
    kept.drain()
    return revision
