"""The seconds between "stop" and "gone": one sum, read by everybody who asks, waits, kills or pays.

    0                     somebody asks: a signal, a notice, the deadline
    stop_within_s()       the process has saved and said its last word; LAST_WORD_S of it are the watching thread's,
                          which ends a process that is late
    + UPLOAD_S            in a bucket: what is saved and closed has gone up
    + LAST_UPLOAD_S       in a bucket: the last events and result.json, too
    + LEAVE_S             the process has left, and whoever watches it has seen that
    = kill_after_s()      SIGKILL, by whoever watches it. A hold pays for training up to here

PATRON_STOP_WITHIN_S    more where a cloud gives more notice; large checkpoints need it
"""

from __future__ import annotations

import math
import os

from trainer.contract.remote import is_url

STOP_WITHIN_S = 10.0
WAIT_FOR_SAVE_S = 1.0  # a late process may have a save under way
WRITE_S = 0.8  # result.json and the last events, on a local disk
LAST_WORD_S = 2.0
UPLOAD_S = 16.0
LAST_UPLOAD_S = 4.0
LEAVE_S = 5.0
UPLOAD_AFTER_FAILURE_S = 20.0  # nobody asked it to stop, so that saving took no time
SHORTEST_NOTICE_S = 30.0  # that a cloud gives before it takes a machine: Google's


def stop_within_s() -> float:
    """From a request to stop to the end of a process; the default where the variable holds no such time."""
    try:
        seconds = float(os.environ["PATRON_STOP_WITHIN_S"])
    except (KeyError, ValueError):
        return STOP_WITHIN_S
    return seconds if LAST_WORD_S <= seconds < math.inf else STOP_WITHIN_S


def ends_within_s(run_dir: str) -> float:
    """From a request to stop until the process of the run in `run_dir` has brought up everything."""
    return stop_within_s() + (UPLOAD_S + LAST_UPLOAD_S if is_url(run_dir) else 0.0)


def kill_after_s(run_dir: str) -> float:
    """From a request to stop to SIGKILL."""
    return ends_within_s(run_dir) + LEAVE_S


def linger_s() -> float:
    """From the first process of a run that ends badly to the kill of the others; they may have a bucket to fill."""
    return stop_within_s() + UPLOAD_S + LAST_UPLOAD_S


assert WAIT_FOR_SAVE_S + WRITE_S <= LAST_WORD_S < STOP_WITHIN_S
assert STOP_WITHIN_S + UPLOAD_S + LAST_UPLOAD_S <= SHORTEST_NOTICE_S
assert UPLOAD_AFTER_FAILURE_S + LAST_UPLOAD_S <= STOP_WITHIN_S + UPLOAD_S + LAST_UPLOAD_S
