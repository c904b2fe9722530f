"""What an attempt owes, by kind, from what was seen of it. Pure; whoever charges, holds or stops for money asks here.

charge     machine time by the machines' own records, each start at the price of the place that it had
teardown   the same machine from its workload's end until SkyPilot has noticed it and ended the machine: estimated
egress     checkpoints that went up, at the price of the place that the machine was in: at its end
storage    what the run directory holds then, for as long as the attempt took; what is kept later is not on this bill

An hour is held at the attempt's own price, the dearest of the places that were allowed; so no place costs more than
is held, and one that is not known is charged at that price.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from patron_core.executors.base import Observation
from patron_core.lifecycle.holds import TEARDOWN_S
from patron_core.market import transfer
from patron_core.money import cost_usd_micros
from patron_core.store.records import Attempt

CHARGE_EVERY_S = 15.0  # a ledger entry a second would say no more
CLOCK_NOISE_S = 60.0  # two clocks of one lab may differ by so much


def owed(attempt: Attempt, seen: Observation | None) -> dict[str, int]:
    """Micro-dollars in all so far, by the ledger's kind."""
    if seen is None:
        return {"charge": 0}
    kinds = {"charge": machine_usd_micros(attempt, seen.uptime_s, seen.evidence)}
    if seen.is_final and is_rented(attempt):
        kinds["teardown"] = _teardown_usd_micros(attempt, seen)
    if seen.is_final and (terms := attempt.price.get("transfer")):
        moved, kept = (float(seen.evidence.get(name) or 0.0) for name in ("uploaded_bytes", "stored_bytes"))
        kinds["egress"] = transfer.move_usd_micros(moved, _egress_usd_micros_per_gb(terms, seen.evidence))
        monthly = int(terms["storage_usd_micros_per_gb_month"])
        kinds["storage"] = transfer.keep_usd_micros(kept, seen.uptime_s or 0.0, monthly)
    return kinds


def is_due(*, run_id: str, charged_s: float, uptime_s: float) -> bool:
    """Whether it is time to charge: every CHARGE_EVERY_S of its machine, runs that began together not all at once."""
    own_s = zlib.crc32(run_id.encode()) % 1000 / 1000 * CHARGE_EVERY_S
    return (uptime_s + own_s) // CHARGE_EVERY_S > (charged_s + own_s) // CHARGE_EVERY_S


def machine_usd_micros(attempt: Attempt, uptime_s: float | None, evidence: Mapping[str, Any]) -> int:
    """What `uptime_s` cost: the seconds of each known place at its price, what is left at the attempt's own."""
    uptime_s = max(0.0, uptime_s or 0.0)
    placed_s = _seconds_by_place(evidence)
    share = min(1.0, uptime_s / sum(placed_s.values())) if placed_s else 0.0
    rest_s = max(0.0, uptime_s - sum(placed_s.values()))
    cost = sum(cost_usd_micros(share * s, usd_micros_per_hour_in(attempt, place)) for place, s in placed_s.items())
    return cost + (cost_usd_micros(rest_s, attempt.usd_micros_per_hour) if rest_s > 1e-6 else 0)


def usd_micros_per_hour_in(attempt: Attempt, place: str) -> int:
    """Of cloud/region/zone, by the rows that the attempt was priced from; the dearest zone where several fit."""
    wanted = place.casefold().split("/")
    fitting = [
        row["usd_micros_per_hour"]
        for row in attempt.price.get("market") or []
        if [str(row.get(part) or "").casefold() for part in ("cloud", "region", "zone")][: len(wanted)] == wanted
    ]
    return min(attempt.usd_micros_per_hour, max(fitting)) if fitting else attempt.usd_micros_per_hour


def is_rented(attempt: Attempt) -> bool:
    """Whether its machine was made for it, and has to be ended."""
    return bool(attempt.price.get("machine"))


def set_aside_usd_micros(attempt: Attempt, hold_usd_micros: int, uptime_s: float | None = None) -> int:
    """Of what is held, what is no time to train in: the machine's end, and checkpoints that go up meanwhile."""
    aside = cost_usd_micros(TEARDOWN_S, attempt.usd_micros_per_hour) if is_rented(attempt) else 0
    terms = attempt.price.get("transfer")
    if not terms:
        return aside
    an_hour = int(terms["usd_micros_per_hour"])
    aside += int(terms["set_aside_usd_micros"]) + cost_usd_micros(uptime_s or 0.0, an_hour)
    left = max(0, hold_usd_micros - aside)
    return aside + left * an_hour // max(1, an_hour + attempt.usd_micros_per_hour)


def _egress_usd_micros_per_gb(terms: Mapping[str, Any], evidence: Mapping[str, Any]) -> int:
    """Of the dearest place that it had; of the dearest that was allowed where none is known."""
    by_place = {place.casefold(): int(price) for place, price in terms["egress_usd_micros_per_gb"].items()}
    had = [by_place[place] for place in _seconds_by_place(evidence) if place in by_place]
    return max(had, default=int(terms["dearest_usd_micros_per_gb"]))


def _teardown_usd_micros(attempt: Attempt, seen: Observation) -> int:
    """Of the last machine; nobody here ends one that was taken away, or that never was."""
    starts = seen.evidence.get("starts") or [{}]
    is_there = seen.exit_code is not None or seen.signal is not None
    if not is_there or seen.evidence.get("instance_gone") or starts[-1].get("told"):
        return 0
    place = str(starts[-1].get("place") or "")
    hourly = usd_micros_per_hour_in(attempt, place) if place else attempt.usd_micros_per_hour
    return cost_usd_micros(TEARDOWN_S, hourly)


def _seconds_by_place(evidence: Mapping[str, Any]) -> dict[str, float]:
    found = evidence.get("machine_s")
    if not isinstance(found, Mapping):
        return {}
    return {str(place): float(s) for place, s in found.items() if place and isinstance(s, int | float) and s > 0}


def unheard_s(seen: Observation, *, now: float) -> float:
    """How long its machine may have worked since it was last heard of: not charged, but counted with, so that one whose
    bucket hangs does not work for longer than its hold."""
    heard_at, counted_s = seen.evidence.get("heard_at"), seen.evidence.get("counted_s")
    if seen.is_final or not heard_at or not counted_s:
        return 0.0
    late_s = now - float(heard_at) - CLOCK_NOISE_S
    return max(0.0, min(late_s, float(counted_s) - (seen.uptime_s or 0.0)))
