"""What is held for a run, and how long it lasts. Pure; whoever holds, launches, extends or plans asks here.

A hold is the upper bound of what is left to do, one more start, and the time to save a checkpoint at its end:
`stop_s`, the seconds from "stop" to "gone" (trainer.contract.grace), and on a rented machine until that is gone too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patron_core.estimate import Estimate
from patron_core.estimate.wall import AFTER_START
from patron_core.money import affordable_s, cost_usd_micros
from patron_core.workloads.forecast import ForeignEstimate
from trainer.contract.grace import kill_after_s

# SkyPilot looks at a job each 15 to 30 s, then asks the cloud to end its machine, which takes about as long again
TEARDOWN_S = 60.0
MIN_DRYRUN_S = 180.0  # two process starts, and data prepared for the first time
AGAIN = 2.0  # times as long as a burst that ran out: it may have been near its end, or not
MOST_SLOWER = 10.0  # than was said; a machine that slept was not slow


def stop_s(run_dir: str, *, is_rented: bool) -> float:
    """From a request to stop until nothing is paid for any more."""
    return kill_after_s(run_dir) + (TEARDOWN_S if is_rented else 0.0)


def for_run(row: Estimate | ForeignEstimate, *, stop_s: float, left: float = 1.0, slower: float = 1.0) -> int:
    """Micro-dollars for the share `left` of a run, `slower` times as slow as was said. A process that dies of nothing
    in particular starts once more."""
    startup_s = sum(phase.high for name, phase in row.phases_s.items() if name not in AFTER_START)
    upper_s = slower * (2 * startup_s + left * (row.wall_s.high - startup_s))
    return cost_usd_micros(upper_s + stop_s, row.price.usd_micros_per_hour)


def slower_than_said(
    row: Estimate | ForeignEstimate, *, taken_s: float, starts: int, share_done: float, stop_s: float
) -> float:
    """How many times as long as expected the share that is done took its `starts`; never less than once."""
    startup_s = sum(phase.mid for name, phase in row.phases_s.items() if name not in AFTER_START)
    said_s = starts * (startup_s + stop_s) + share_done * max(0.0, row.wall_s.mid - startup_s)
    return min(MOST_SLOWER, max(1.0, taken_s / said_s)) if said_s > 0 else 1.0


def for_dryrun(
    estimate: Mapping[str, Any] | None,
    usd_micros_per_hour: int,
    burst_steps: int,
    *,
    stop_s: float,
    ran_out_s: float = 0.0,
) -> int:
    """Micro-dollars for a burst: start-up twice, its steps several times over, an evaluation; room for a slow machine.

    `estimate` as the run keeps it (Estimate.to_dict). `ran_out_s`: after so long a burst of it was not at its end.
    """
    row = estimate or {}
    steps_s = 2 * burst_steps * row.get("step_s", {}).get("high", 0.0)
    startup_s = _phases_s(row, "high", startup_phases(row))
    said_s = 2 * startup_s + 2 * steps_s + row.get("eval_s", {}).get("high", 0.0)
    bound_s = max(MIN_DRYRUN_S, row.get("dryrun_s", 0.0), said_s, AGAIN * ran_out_s)
    return cost_usd_micros(bound_s + stop_s, usd_micros_per_hour)


def for_one_start(estimate: Mapping[str, Any] | None, usd_micros_per_hour: int, *, stop_s: float) -> int:
    """Micro-dollars that a launch takes before it can have a checkpoint to show: less would be spent for nothing."""
    row = estimate or {}
    first_step_s = row.get("step_s", {}).get("mid", 0.0)
    return cost_usd_micros(_phases_s(row, "mid", startup_phases(row)) + first_step_s + stop_s, usd_micros_per_hour)


def deadline_s(usd_micros: int, usd_micros_per_hour: int, *, stop_s: float) -> float:
    """Seconds from its start after which an attempt with `usd_micros` in all is told to save and stop."""
    return max(1.0, affordable_s(usd_micros, usd_micros_per_hour) - stop_s)


def startup_phases(row: Mapping[str, Any]) -> list[str]:
    """The names of what comes before the first step, in an estimate as it is kept."""
    return [name for name in row.get("phases_s", {}) if name not in AFTER_START]


def _phases_s(row: Mapping[str, Any], bound: str, names: Any) -> float:
    phases = row.get("phases_s", {})
    return float(sum(phases.get(name, {}).get(bound, 0.0) for name in names))
