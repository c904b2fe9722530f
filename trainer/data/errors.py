"""What can go wrong with data: what happened, with the values, and what to do next.

DataError           no data, too little of it, or a download that failed; the trainer exits with 78
├── DataExhausted   the loader was asked for more than one pass over the data
└── Unreachable     a server that was asked again and again does not answer; the trainer exits with 75: try again
"""

from __future__ import annotations

from collections.abc import Mapping


class DataError(Exception):
    def __init__(self, problem: str, *, next: str, fitting: Mapping[str, int] | None = None):
        """`next` is what the reader can change; `fitting` the values of the spec that would do, if any are known."""
        super().__init__(f"{problem} Next: {next}")
        self.problem = problem
        self.next = next
        self.fitting = dict(fitting or {})


class DataExhausted(DataError):
    pass


class Unreachable(DataError):
    pass


class StopWaiting(Exception):
    """Whoever waits for data is asked to stop."""
