"""How an attempt's key is made and read. It names the job at its executor, and the attempt's events, log and folders.

<run>-<kind>-<number>    r3k-train-1: kind is train or dryrun, numbers begin at 1 for each
"""

from __future__ import annotations

import re

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NUMBERED = re.compile(r"(?:.*-)?(?P<kind>[a-z]+)-(?P<number>\d+)")
JOB_VARIABLE = "PATRON_JOB"  # holds it in every process of a job, even in those that left its group
KEY_WORDS = "1 to 100 letters, digits, - or _"


def attempt_key(run_id: str, kind: str, number: int) -> str:
    return f"{run_id}-{kind}-{number}"


def is_key(text: str) -> bool:
    """It becomes a part of file and folder names."""
    return _KEY.fullmatch(text) is not None


def kind_and_number(key: str) -> tuple[str, int] | None:
    """Of an attempt; None for a name that somebody chose freely."""
    match = _NUMBERED.fullmatch(key)
    return (match["kind"], int(match["number"])) if match else None


def dryrun_folder(number: int) -> str:
    """In the run's own: a burst never mixes with the real thing."""
    return f"dryrun-{number}"
