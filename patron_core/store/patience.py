"""Trying again: how long between two tries, and for how long at all. The one place where waiting is written down."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from patron_core.errors import Busy

BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # after the first failure in a row, the second, and so on

log = logging.getLogger("patron.store")  # its warnings are on stderr wherever nobody has set up logging
T = TypeVar("T")


def jittered_s(failures: int, delays_s: Sequence[float] = BACK_OFF_S) -> float:
    """Seconds to wait after so many failures in a row (1 or more): those who failed together come back apart."""
    return delays_s[min(failures, len(delays_s)) - 1] * random.uniform(0.5, 1.5)


def patiently(work: Callable[[], T], *, patience_s: float) -> T:
    """What `work` returns, tried again while it says Busy for at most `patience_s`, and said. Raises its last Busy.

    Only for work that did nothing when it said Busy: the beginning of a transaction.
    """
    begun = time.monotonic()
    for failures in range(1, 1_000_000):
        try:
            return work()
        except Busy as error:
            waited_s = time.monotonic() - begun
            if waited_s >= patience_s:
                raise
            log.warning("%s; waited %.0f s, up to %.0f s", error.message, waited_s, patience_s)
        time.sleep(min(jittered_s(failures), max(0.0, begun + patience_s - time.monotonic())))
    raise AssertionError
