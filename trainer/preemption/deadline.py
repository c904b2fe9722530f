"""Deadlines of a process: the spec's own, which stays, and the one it was started with, which control.json may move."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

from trainer.contract import control
from trainer.contract.remote import Remote, is_url
from trainer.preemption.stop import StopWatch

_ANSWER_WITHIN_S = 2.0  # the time to stop in has begun


def keep_deadline(
    stop: StopWatch,
    spec_deadline_s: float | None,
    place: str,
    attempt: str | None,
    deadline_s: float | None,
    started_at: float,
) -> None:
    """Have `stop` hear of the shorter one. All are seconds from `started_at`, in Unix seconds."""
    began_at = time.monotonic() - (time.time() - started_at)
    fixed_s = math.inf if spec_deadline_s is None else spec_deadline_s

    def at() -> float:
        return began_at + min(fixed_s, math.inf if deadline_s is None else moved_deadline(place, attempt, deadline_s))

    first_s = min(fixed_s, math.inf if deadline_s is None else deadline_s)
    if first_s < math.inf:
        stop.set_deadline(began_at + first_s, at)


def moved_deadline(place: str, attempt: str | None, deadline_s: float) -> float:
    """What is asked for now; the given seconds where nobody asks or answers."""
    if attempt is None:
        return deadline_s
    with contextlib.suppress(OSError):
        return control.deadline_of(_read(place), attempt, deadline_s, os.environ.get(control.KEY_VARIABLE))
    return deadline_s


def _read(place: str) -> bytes | None:
    """control.json of the run directory, a path or a URL. Raises OSError."""
    if is_url(place):
        return Remote(place, timeout_s=_ANSWER_WITHIN_S / 2, retry_s=_ANSWER_WITHIN_S / 2).get(control.NAME)
    return Path(place, control.NAME).read_bytes()
