"""control.json in a run directory: what may still change about an attempt that runs. The core writes it.

    {"attempt": "r1-train-1", "deadline_s": 360.0, "proof": "..."}   instead of the one that it started with

A top-up moves the deadline on. Whoever keeps one looks here when it is due, and not before: nobody polls. Whoever can
write a run directory could write this file, and have a machine run for longer than money is held for: the core proves
what it says with a key of the attempt's own, which the job has in its environment and the run directory does not hold.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from trainer.contract import shapes

NAME = "control.json"
KEY_VARIABLE = "PATRON_CONTROL_KEY"  # of a job; without one, as where a person starts it, no proof is asked for


def content(attempt: str, deadline_s: float, key: str | None = None) -> bytes:
    proof = {"proof": _proof(key, attempt, deadline_s)} if key else {}
    return json.dumps({"attempt": attempt, "deadline_s": deadline_s} | proof).encode()


def deadline_of(text: bytes | None, attempt: str, given_s: float, key: str | None = None) -> float:
    """Seconds from the attempt's start: what the file says, where it moves the given deadline of this attempt on."""
    asked = shapes.object_of(text) or {}
    moved_s = shapes.number(asked.get("deadline_s")) if asked.get("attempt") == attempt else None
    if moved_s is None:
        return given_s
    if key and not hmac.compare_digest(str(asked.get("proof")).encode(), _proof(key, attempt, moved_s).encode()):
        return given_s
    return max(given_s, moved_s)


def _proof(key: str, attempt: str, deadline_s: float) -> str:
    said = json.dumps([attempt, float(deadline_s)])
    return hmac.new(key.encode(), said.encode(), hashlib.sha256).hexdigest()
