"""What reclaims add to a run on a spot machine: lost work, new starts, waiting. Pure.

Reclaims are taken to come at random at a constant rate while the machine is up (a Poisson process), as in Young (1974)
and Daly (2006). With M the mean time between reclaims, R the paid time from a new machine to the first new step, tau
the work between checkpoints and delta what steps wait for one, Daly's complete formula (his equation 13) gives the paid
time for W seconds of work:

    T = M e^(R/M) (e^((tau + delta)/M) - 1) W/tau

It is exact for this process, a reclaim during a restart or a save included. Young's tau = sqrt(2 delta M), which the
estimate's checkpoint interval uses, is close to its minimum. The first start is paid too: M (e^(R0/M) - 1).
T/M reclaims are expected, and after each one nothing is paid while no machine is to be had.

J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.
J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from patron_core.estimate.wall import SPOT_MTBF_S

HOPELESS = 50.0  # exponents above this: the machine is gone long before a checkpoint; e^50 hours is no plan

NEVER = 1e-9  # reclaims an hour: once in a hundred thousand years; below it the exponentials lose their digits


@dataclass(frozen=True, kw_only=True)
class ReclaimRate:
    """How often a spot machine is taken away, in reclaims an hour of running."""

    mid: float
    high: float  # the pessimistic view, for upper bounds
    source: str
    away_s: float = 600.0  # until there is a machine again, in this place or in another


ASSUMED_RATE = ReclaimRate(
    mid=3600 / SPOT_MTBF_S.mid,
    high=3600 / SPOT_MTBF_S.high,
    source="assumed, not measured: one in six hours, in the upper bound one in two, and ten minutes until the next",
)


@dataclass(frozen=True, kw_only=True)
class SpotTime:
    """Expected seconds on spot machines. `paid_s` counts what the machine is up, `wall_s` adds waiting for one."""

    paid_s: float
    wall_s: float
    reclaims: float
    restart_s: float  # of paid_s: starts after the first
    lost_s: float  # of paid_s: work done twice

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("paid_s", "wall_s", "reclaims", "restart_s", "lost_s")}


def spot_time(
    *,
    work_s: float,
    startup_s: float,
    restart_s: float,
    interval_s: float,
    stall_s: float,
    wait_s: float,
    reclaims_per_hour: float,
) -> SpotTime:
    """Expected time for `work_s` of stepping and evaluating, checkpointed each `interval_s` of it for `stall_s`.

    `startup_s`: paid before the first step. `restart_s`: paid after a reclaim before the first new step. `wait_s`:
    unpaid after a reclaim, until there is a machine. Infinite where no machine stays for a checkpoint.
    """
    interval_s = min(interval_s, work_s) if work_s > 0 else interval_s
    undisturbed = startup_s + work_s + stall_s * work_s / max(interval_s, 1e-9)
    if reclaims_per_hour < NEVER:
        return SpotTime(paid_s=undisturbed, wall_s=undisturbed, reclaims=0.0, restart_s=0.0, lost_s=0.0)
    mean_s = 3600 / reclaims_per_hour
    if (restart_s + interval_s + stall_s) / mean_s > HOPELESS or startup_s / mean_s > HOPELESS:
        never = math.inf
        return SpotTime(paid_s=never, wall_s=never, reclaims=never, restart_s=never, lost_s=never)
    segments = work_s / max(interval_s, 1e-9)
    stepping = mean_s * math.exp(restart_s / mean_s) * math.expm1((interval_s + stall_s) / mean_s) * segments
    paid_s = mean_s * math.expm1(startup_s / mean_s) + stepping
    reclaims = paid_s / mean_s
    restarts_s = min(paid_s - undisturbed, reclaims * restart_s)
    return SpotTime(
        paid_s=paid_s,
        wall_s=paid_s + reclaims * wait_s,
        reclaims=reclaims,
        restart_s=restarts_s,
        lost_s=max(0.0, paid_s - undisturbed - restarts_s),
    )
