"""The deadline of a run on spot machines, live: what market/spot_policy.py is asked, and on which terms. Pure.

A run that has to be done by a time, and may run on spot, carries its terms in the price of each attempt:

    price["finish"]   at: Unix time; machine: what this attempt is on; terms; other: the quote of the other machine

At every look the policy says what to be on. Where that is another machine than now, decide stops the attempt, waits for
its end, and has the next one started there, at its own price; both are paid from the one hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from patron_core.interval import Interval, total
from patron_core.lifecycle.holds import startup_phases
from patron_core.market.spot_policy import Choice, Machine, Progress, Terms, choose_machine
from patron_core.money import cost_usd_micros

LOOK_EVERY_S = 30.0  # at the newest checkpoint
DECIDE_EVERY_S = 60.0  # a look, and a tick that came late
_WORK = ("steps", "evals", "checkpoints", "upload")


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What the policy may look at now."""

    terms: Terms
    machine: Machine  # of the newest attempt, dead or alive
    time_left_s: float
    work_left_s: float
    usd_micros_per_hour: Mapping[Machine, int]

    @property
    def other_machine(self) -> Machine:
        return _other(self.machine)

    def choose(self, machine: Machine, *, looked_for_s: float = 0.0) -> Choice:
        """Being on `machine`, or on none and having looked for one on spot for so long, in vain."""
        known_to_be_gone = machine is Machine.NONE and looked_for_s >= self.terms.restart_s
        seen = Progress(
            work_left_s=self.work_left_s,
            time_left_s=self.time_left_s,
            machine=machine,
            spot_available=False if known_to_be_gone else None,
        )
        return choose_machine(self.terms, seen)


def finish_of(price: Mapping[str, Any], *, done_share: float, hourly: int, now: float) -> Finish | None:
    """As an attempt's price keeps it; `done_share` of all work is in a durable checkpoint. None: no deadline."""
    kept = price.get("finish")
    if not kept:
        return None
    terms, machine = Terms(**kept["terms"]), Machine(kept["machine"])
    return Finish(
        terms=terms,
        machine=machine,
        time_left_s=kept["at"] - now,
        work_left_s=terms.work_s * (1.0 - min(1.0, max(0.0, done_share))),
        usd_micros_per_hour={machine: hourly, _other(machine): int(kept["other"]["usd_micros_per_hour"])},
    )


def with_finish(
    spot: dict[str, Any], on_demand: dict[str, Any], *, estimate: Mapping[str, Any], stop_s: float, now: float
) -> dict[str, Any]:
    """The quote of the first attempt, on what the policy starts with, for a run whose `estimate` has `finish_s`."""
    share = spot["usd_micros_per_hour"] / on_demand["usd_micros_per_hour"]
    terms = terms_of(estimate, stop_s=stop_s, spot_price_share=share)
    kept = {"at": now + terms.deadline_s, "terms": asdict(terms)}
    quote = spot | {"finish": kept | {"machine": Machine.SPOT.value, "other": on_demand}}
    first = Progress(work_left_s=terms.work_s, time_left_s=terms.deadline_s, machine=Machine.NONE)
    return quote if choose_machine(terms, first).move.value == Machine.SPOT.value else on_the_other(quote)


def on_the_other(price: Mapping[str, Any]) -> dict[str, Any]:
    """The quote of the other machine, with the same terms: SPOT and ON_DEMAND change places."""
    kept = price["finish"]
    here = {name: value for name, value in price.items() if name != "finish"}
    machine = _other(Machine(kept["machine"]))
    return {**kept["other"], "finish": {**kept, "machine": machine.value, "other": here}}


def terms_of(estimate: Mapping[str, Any], *, stop_s: float, spot_price_share: float) -> Terms:
    """Of an estimate as it is kept, upper bounds. A change-over stops one machine and starts the next."""
    phases = {name: Interval(**phase) for name, phase in estimate["phases_s"].items()}
    startup_s = total(phases[name] for name in startup_phases(estimate)).high
    work_s = sum(phases[name].high for name in _WORK if name in phases)
    interval_s = float(estimate.get("checkpoint_interval_s") or math.inf)
    return Terms(
        work_s=work_s,
        deadline_s=float(estimate["finish_s"]),
        restart_s=startup_s + stop_s,
        decide_every_s=DECIDE_EVERY_S,
        loss_s=min(interval_s, work_s),
        spot_price_share=spot_price_share,
    )


def hold_usd_micros(terms: Terms, *, spot: int, on_demand: int, stop_s: float, left: float = 1.0) -> int:
    """At worst: all the slack on spot without a step done, then all the work on demand. Prices are of an hour."""
    needed_s = left * terms.work_s + 2 * terms.restart_s + stop_s
    slack_s = max(0.0, terms.deadline_s - left * terms.work_s - terms.restart_s)
    return cost_usd_micros(needed_s, on_demand) + cost_usd_micros(slack_s, spot)


def _other(machine: Machine) -> Machine:
    return Machine.SPOT if machine is Machine.ON_DEMAND else Machine.ON_DEMAND
