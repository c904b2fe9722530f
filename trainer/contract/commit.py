"""Which commit the sources are of, and whether they were changed since: from git, or as written beside what was sent.

A rented machine gets the sources without `.git`, which holds tokens and all that was ever committed; a small file says
there what git would have said.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

COMMIT_FILE = "trainer/commit.json"  # beside the sources of a copy
_SHOWN = ("git_commit", "git_diff_hash")


def commit_of(root: Path) -> dict[str, str | None]:
    """git_commit, and git_diff_hash: 16 hex digits over uncommitted changes of the trainer. None: nothing to say."""
    try:
        written = json.loads((root / COMMIT_FILE).read_text(encoding="utf-8"))
        return {name: str(written[name]) if written.get(name) else None for name in _SHOWN}
    except (OSError, ValueError, AttributeError):
        pass
    diff = _git(root, "diff", "HEAD", "--", "trainer")
    changed = hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else None
    return {"git_commit": _git(root, "rev-parse", "HEAD"), "git_diff_hash": changed}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=10, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
