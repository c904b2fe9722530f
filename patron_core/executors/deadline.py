"""The deadline of an attempt, as whoever watches over it keeps it: given at the start, moved by control.json."""

from __future__ import annotations

import time
from contextlib import suppress

from patron_core.errors import PatronError
from patron_core.rundir.places import ANSWER_WITHIN_S
from patron_core.rundir.rundir import RunDir
from trainer.contract import control
from trainer.contract.remote import is_url


class Deadline:
    """Seconds after the start at which an attempt is told to stop. Once that is due, it is final."""

    def __init__(self, run_dir: str, attempt: str, deadline_s: float, *, key: str | None):
        """`key` is what control.json proves itself with."""
        self.seconds = deadline_s
        self._run_dir, self._attempt, self._key = run_dir, attempt, key
        # a bucket may take its time to answer, so it is asked that much earlier, and not in every turn
        self._early_s = ANSWER_WITHIN_S if is_url(run_dir) else 0.0
        self._look_again_at = 0.0  # monotonic
        self._over = False

    def is_over(self, elapsed_s: float) -> bool:
        if self._over or elapsed_s < self.seconds - self._early_s:
            return self._over
        if time.monotonic() >= self._look_again_at:
            self._look_again_at = time.monotonic() + self._early_s / 2
            self.seconds = moved(self._run_dir, self._attempt, self.seconds, key=self._key)
        self._over = elapsed_s >= self.seconds
        return self._over


def moved(run_dir: str, attempt: str, deadline_s: float, *, key: str | None) -> float:
    """The deadline as it is now; the given one where the run directory cannot be asked."""
    with suppress(OSError, PatronError):
        return control.deadline_of(RunDir(run_dir).control(), attempt, deadline_s, key)
    return deadline_s
