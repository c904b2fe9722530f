"""What the guard says of a start, by its exit code: whether SkyPilot is to start the job again. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any

from patron_core.lifecycle.decide import FAILURE_BUDGET
from trainer.contract.exits import EXIT_KILLED, EXIT_RESUME, EXIT_STOPPED, SOURCE_UNREACHABLE


def judged(starts: Sequence[Mapping[str, Any]]) -> int:
    """What is said of the last of a machine's starts, from their records."""
    last = starts[-1]
    evidence = last["evidence"]
    if evidence.get("stopped_before_start"):
        return EXIT_STOPPED
    return what_to_say(last.get("exit_code"), last.get("signal"), evidence, lost_in_a_row=lost_in_a_row(starts))


def what_to_say(exit_code: int | None, signum: int | None, evidence: Mapping[str, Any], *, lost_in_a_row: int) -> int:
    """The exit code that SkyPilot sees: it starts the job again on 75, and on nothing else."""
    asked = any(evidence.get(reason) for reason in ("cancelled", "deadline_hit"))
    if exit_code == EXIT_RESUME:
        asked = asked or (SOURCE_UNREACHABLE in evidence and lost_in_a_row >= FAILURE_BUDGET)
        return EXIT_STOPPED if asked else EXIT_RESUME
    if exit_code is not None:
        return exit_code
    killed = signum in (signal.SIGKILL, signal.SIGTERM)
    if asked or evidence.get("oom_kills") or not killed or lost_in_a_row >= FAILURE_BUDGET:
        return EXIT_KILLED
    return EXIT_RESUME


def lost_in_a_row(starts: Sequence[Mapping[str, Any]]) -> int:
    """Deaths by a signal that nobody explains, or of a source of data that does not answer, since the last start that
    left a new checkpoint or was told to go.
    """
    count = 0
    reached = -1
    for start in starts:
        step = start.get("checkpoint_step")
        progressed = step is not None and int(step) > reached
        reached = max(reached, -1 if step is None else int(step))
        told = (start.get("evidence") or {}).get("reclaim_notice")
        died = start.get("signal") or SOURCE_UNREACHABLE in (start.get("evidence") or {})
        if start.get("ended") and died and not told:
            count = 1 if progressed else count + 1
        elif progressed:
            count = 0
    return count
