"""What a run's bytes cost: the way to its bucket and the place there, of its plan, in its quote and in its hold."""

from __future__ import annotations

import math
import os
from typing import Any

from patron_core.machines.target import Target
from patron_core.market import transfer
from patron_core.money import cost_usd_micros
from patron_core.store.records import Run

DRYRUN_UPLOADS = 4  # the burst's, its resume's, the notice's, and one that was late


def egress_usd_micros_per_gb(target: Target, run_dir: str) -> int:
    """To the bucket of `run_dir` from the dearest place that a machine may be found in; 0 where it is a folder."""
    bucket = transfer.bucket_place(run_dir, os.environ)
    if bucket is None:
        return 0
    return max(transfer.egress_usd_micros_per_gb(transfer.Place.of(place), bucket) for place in _places(target))


def with_transfer(quote: dict[str, Any], run: Run, target: Target, *, is_dryrun: bool = False) -> dict[str, Any]:
    """The quote of an attempt with what moving and keeping its checkpoints costs, where they go to a bucket."""
    bucket, estimate = transfer.bucket_place(run.run_dir, os.environ), run.estimate or {}
    if bucket is None:
        return quote
    measured = ((run.dryrun or {}).get("measured") or {}).get("checkpoint_bytes")
    num_bytes = float(measured or estimate.get("checkpoint_bytes") or 0.0)
    interval_s = math.inf if is_dryrun else float(estimate.get("checkpoint_interval_s") or math.inf)
    terms = transfer.terms(
        bucket,
        _places(target),
        checkpoint_bytes=num_bytes,
        interval_s=interval_s,
        uploads_at_least=DRYRUN_UPLOADS if is_dryrun else 2,
    )
    return quote | {"transfer": terms}


def hold_usd_micros(quote: dict[str, Any], seconds: float) -> int:
    """What to hold for it, for a run that takes so long at most."""
    terms = quote.get("transfer")
    if not terms:
        return 0
    return int(terms["set_aside_usd_micros"]) + cost_usd_micros(seconds, int(terms["usd_micros_per_hour"]))


def _places(target: Target) -> list[str]:
    """As SkyPilot writes them; one that is in no table where nobody knows, which costs the dearest."""
    return ["local"] if target.is_local else target.places() or ["unknown"]
