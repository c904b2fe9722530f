"""control.json in a run directory: what may still change about an attempt that runs. The core writes it.

    {"attempt": "r1-train-1", "deadline_s": 360.0}    in the place of the deadline that it was started with

A top-up moves the deadline on. Whoever keeps one looks here when it is due, and not before: nobody polls.
"""

from __future__ import annotations

import json

from trainer.contract import shapes

NAME = "control.json"


def content(attempt: str, deadline_s: float) -> bytes:
    return json.dumps({"attempt": attempt, "deadline_s": deadline_s}).encode()


def deadline_of(text: bytes | None, attempt: str, given_s: float) -> float:
    """Seconds from the attempt's start: what the file says, where it moves the given deadline of this attempt on."""
    asked = shapes.object_of(text)
    moved_s = shapes.number(asked.get("deadline_s")) if asked and asked.get("attempt") == attempt else None
    return given_s if moved_s is None else max(given_s, moved_s)
