"""What can go wrong, in one shape: what happened, with the values, and what to do next.

    PatronError
    ├── InvalidInput      2   bad flags or specs; carries every problem at once
    ├── NotFound          2   no such run, project or note
    ├── Refused           3   understood, and not done: no money, no dryrun, drift
    │   ├── Conflict      3   somebody else changed it first
    │   └── Unavailable   3   a tool, server or credential is missing or does not answer
    │       └── Busy      5   busy or unreachable for now: the same command may do in a moment
    │           └── OnItsWay      it was asked for, takes minutes, and nothing is wrong
    ├── ConfirmationNeeded 4  costs money, and the confirmation is missing
    ├── InternalError     1   a broken promise of our own
    └── Interrupted     130   Ctrl-C

The number is the exit code of a script. `to_dict` is the JSON that scripts, notebooks and routes show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from trainer.contract.masking import mask


class PatronError(Exception):
    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False  # the same again, unchanged, may do

    def __init__(self, message: str, *, next: str):
        """`next` is the command or call to try."""
        message = mask(message)  # it goes to terminals, pages, logs and the database
        super().__init__(message)
        self.message = message
        self.next = mask(next)

    def to_dict(self) -> dict[str, Any]:
        shape = {"code": self.code, "message": self.message, "next": self.next, "retryable": self.retryable}
        return {"error": shape}


class InvalidInput(PatronError):
    code = "invalid_input"
    exit_code = 2

    def __init__(self, problems: Sequence[str], *, next: str):
        super().__init__("; ".join(problems), next=next)
        self.problems = tuple(map(mask, problems))

    def to_dict(self) -> dict[str, Any]:
        shape = super().to_dict()
        shape["error"]["problems"] = list(self.problems)
        return shape


class NotFound(PatronError):
    code = "not_found"
    exit_code = 2


class Refused(PatronError):
    code = "refused"
    exit_code = 3


class Conflict(Refused):
    code = "conflict"


class Unavailable(Refused):
    code = "unavailable"


class Busy(Unavailable):
    code = "busy"
    exit_code = 5
    retryable = True


class OnItsWay(Busy):
    pass


class ConfirmationNeeded(PatronError):
    code = "confirmation_needed"
    exit_code = 4


class InternalError(PatronError):
    code = "internal"


class Interrupted(PatronError):
    code = "interrupted"
    exit_code = 130  # what shells use for Ctrl-C
    retryable = True
