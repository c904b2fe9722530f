"""What is known of a machine and of a corpus before a run: measurements, lateness, and the loss law, from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from patron_core.estimate import Calibration, micro_batch_size
from patron_core.estimate.accuracy import STRETCHED_BY, widening, widths_away
from patron_core.estimate.lateness import Lateness, Timing
from patron_core.lifecycle.learned import machine_of
from patron_core.machines import this_machine
from patron_core.scaling import Fit, Observation, refit, regime
from patron_core.store import Store, calibrations
from patron_core.store.records import Run
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.spec import TrainSpec


def calibration_for(
    store: Store | None, spec: TrainSpec, *, machine_key: str | None = None, world: WorldSize = ONE
) -> Calibration | None:
    """The newest dryrun on this machine, or one with that key, of the same model, else of the nearest depth."""
    if store is None:
        return None
    key = machine_key or this_machine.machine_key()
    found = [Calibration.from_dict(row.values) for row in calibrations.latest(store, key, kind="dryrun")]
    if not found:
        return None
    flops, micro = spec.recipe().flops_per_token, micro_batch_size(spec, world) * spec.sequence_len

    def distance(c: Calibration) -> tuple[bool, bool, int]:
        return (c.flops_per_token != flops, c.micro_batch_tokens != micro, abs(c.depth - spec.depth))

    best = replace(min(found, key=distance), late=lateness(store, key))
    # only the same model's start-up is its own; another depth's step time is scaled, its phases are not known
    return best if best.flops_per_token == flops else replace(best, startup_s={}, peak_memory_bytes=None)


def lateness(store: Store, machine_key: str) -> Lateness:
    """What the newest finished runs of a machine took beyond what was said of them, and what its dryruns saw of others'
    work."""
    timings = []
    for row in calibrations.latest(store, machine_key, kind=("timing", "dryrun")):
        if row.kind == "timing":
            timings.append(Timing.from_dict(row.values))
        elif share := row.values.get("core_share"):
            timings.append(Timing.of_burst(share))
    return Lateness.of(timings)


def proven_calibration(store: Store, run: Run) -> Calibration | None:
    """What a run's own dryrun measured, with what finished runs of its machine were late by; None without a dryrun."""
    if not run.dryrun:
        return None
    late = lateness(store, machine_of(run))
    return replace(Calibration.from_dict(run.dryrun["calibration"]), late=late)


def fit_of(store: Store | None, corpus: str) -> Fit:
    """The corpus's loss law, refitted to every run that was finished on it, and as unsure as those showed."""
    found = [
        row
        for row in (calibrations.all_for(store) if store is not None else ())
        if row.kind == "run" and row.values.get("corpus") == corpus
    ]
    seen = [
        Observation(
            num_params=row.values["num_params"],
            num_tokens=row.values["num_tokens"],
            val_bpb=row.values["val_bpb"],
            label=row.run_id or "",
            regime=regime(row.values["vocab_size"], row.values["sequence_len"]),
            eval_tokens=row.values.get("eval_tokens"),
        )
        for row in found
    ]
    fit, factor = refit(corpus, seen), _stretch([row.values for row in found])
    if factor <= 1.0:
        return fit
    return replace(fit, stretch=factor, source=f"{fit.source}; intervals {factor:.1f} x as wide, as its runs came out")


def _stretch(newest: Sequence[Mapping[str, Any]]) -> float:
    """What nine in ten of the newest runs would have needed of the intervals that they were told, as those were before
    any stretching; 1 where they needed less, and of fewer than ENOUGH."""
    told = [(values["said_bpb"], values) for values in newest[:STRETCHED_BY] if values.get("said_bpb")]
    scores = [
        widths_away((said["low"], said["mid"], said["high"]), values["val_bpb"]) * values.get("stretch", 1.0)
        for said, values in told
    ]
    return widening(scores)
