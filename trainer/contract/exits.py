"""How a workload ends: exit codes, those of the guard around it, reasons, and the exceptions that carry them.

TrainerExit
|- BadSpec             78  the spec cannot run, or is not the run's own
|- EnvironmentDrift    78  a resume on something that would change results
|- Diverged            77  NaN or infinity
|- Stopped             75  asked to stop, or the deadline; its message says which checkpoint is there
|- TryAgain             75  the source of its data cannot be reached; what was trained is saved
|- RankLost           137  another process of this run was killed or fell silent: judged like this one being killed
+- UserError            1  anything else that a person must put right
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_RESUME = 75
EXIT_OUT_OF_MEMORY = 76
EXIT_DIVERGED = 77
EXIT_BAD_SPEC = 78
EXIT_STOPPED = 79  # the guard's, in the place of 75: it was asked to stop, or its deadline is over; not to be restarted
EXIT_KILLED = 80  # the guard's: killed for memory, by force after its grace, or unexplained once too often
EXIT_NOT_STARTED = 127  # as of a shell: there is no such command
EXIT_SIGKILL, EXIT_SIGTERM = 137, 143  # as of a shell: 128 and the signal's number

SOURCE_UNREACHABLE = "source_unreachable"  # the reason, beside 75, of an end that nobody asked for


class TrainerExit(Exception):
    """Ends the process with `exit_code`; `reason` goes to result.json and to the end event, `fields` to result.json."""

    exit_code = EXIT_ERROR
    reason = "user_error"

    def __init__(self, message: str, *, reason: str | None = None, fields: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.fields = dict(fields or {})
        self.reason = reason or self.reason


class BadSpec(TrainerExit):
    exit_code = EXIT_BAD_SPEC
    reason = "bad_spec"


class EnvironmentDrift(TrainerExit):
    exit_code = EXIT_BAD_SPEC
    reason = "environment_drift"


class Diverged(TrainerExit):
    exit_code = EXIT_DIVERGED
    reason = "diverged"


class Stopped(TrainerExit):
    exit_code = EXIT_RESUME
    reason = "notice"


class TryAgain(TrainerExit):
    exit_code = EXIT_RESUME
    reason = SOURCE_UNREACHABLE


class RankLost(TrainerExit):
    exit_code = EXIT_SIGKILL
    reason = "lost"


class UserError(TrainerExit):
    pass


def first_line(error: BaseException) -> str:
    """Of what it says, or its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
