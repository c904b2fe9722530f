"""What an attempt left behind, as the core keeps it: a dryrun's report, a run's result, measurements to learn from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from patron_core.estimate import Calibration
from patron_core.estimate.accuracy import MACHINE_QUANTITIES, Quantity, outcomes, said_of, widths_away
from patron_core.estimate.lateness import AROUND
from patron_core.lifecycle.evidence import of_notice
from patron_core.lifecycle.workload import FOREIGN
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.store import attempts, calibrations
from patron_core.store.records import Attempt, Run
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import TrainSpec

_RESULT_KEYS = (
    "val_bpb",
    "min_val_bpb",
    "val_bpb_bos",
    "step",
    "tokens",
    "train_s",
    "wall_s",
    "mfu",
    "tokens_per_s",
    "core_share",
    "peak_memory_bytes",
    "resumed_step",
    "message",
)
_LAST_WORD_KEYS = ("message", "step", "memory", "divergence", "last_checkpoint_step", "fitting")


def dryrun_report(run: Run, attempt: Attempt, directory: RunDir) -> dict[str, Any] | None:
    """What the burst measured and proved; None where it left no measurement."""
    result, environment = directory.result(), directory.environment()
    if not result or not environment or not isinstance(result.get("burst"), dict):
        return None
    try:
        if run.workload == FOREIGN:
            calibration = {"step_s": float(result["burst"]["step_s"])}  # of other code it says nothing
        else:
            calibration = _calibration(run, result["burst"], f"dryrun {attempt.id}").to_dict()
    except (KeyError, TypeError, ValueError, ArithmeticError):  # a burst that lacks what it should have measured
        return None
    rehearsal = result.get("rehearsal")
    return {
        "attempt": attempt.id,
        "spec_hash": run.spec_hash,
        "environment_hash": environment.get("hash"),
        "measured": result["burst"],
        "rehearsal": rehearsal,
        "notice": of_notice(rehearsal or {}, (run.estimate or {}).get("checkpoint_interval_s")),
        "price": attempt.price,
        "calibration": calibration,
    }


def run_result(directory: RunDir) -> dict[str, Any]:
    """The final figures, as far as there are any."""
    result = directory.result() or {}
    return {key: result[key] for key in _RESULT_KEYS if key in result}


def last_word(directory: RunDir, attempt_id: str) -> dict[str, Any]:
    """What this attempt itself says about its end; empty when it could not say anything."""
    result = directory.result() or {}
    if result.get("attempt") != attempt_id:
        return {}
    return {key: result[key] for key in _LAST_WORD_KEYS if result.get(key) is not None}


def record_dryrun(conn: Connection, run: Run, report: dict[str, Any], *, now: float) -> None:
    if run.workload == FOREIGN:
        return
    calibrations.record(
        conn, machine=machine_of(run), kind="dryrun", values=report["calibration"], run_id=run.id, now=now
    )


def record_run(conn: Connection, run: Run, result: dict[str, Any], *, now: float) -> None:
    """One more point for the scaling law of this corpus."""
    if run.workload == FOREIGN or not isinstance(result.get("val_bpb"), int | float):
        return
    spec = TrainSpec.from_dict(run.spec)
    recipe = spec.recipe()
    values = {
        "corpus": spec.data,
        "depth": recipe.depth,
        "num_params": recipe.num_params.scaling,
        "num_tokens": recipe.train_tokens,
        "val_bpb": result["val_bpb"],
        "vocab_size": recipe.vocab_size,
        "sequence_len": recipe.sequence_len,
        "batch_tokens": recipe.batch_tokens,
        "eval_tokens": spec.eval_tokens,
        "said_bpb": (run.estimate or {}).get("val_bpb"),
        "stretch": (run.estimate or {}).get("bpb_stretch", 1.0),
    }
    calibrations.record(conn, machine=machine_of(run), kind="run", values=values, run_id=run.id, now=now)


def run_timing(directory: RunDir, result: dict[str, Any]) -> dict[str, float]:
    """Seconds by what took them, as far as the record says: steps, evaluations, saves; `upload` of a GB to the bucket,
    `last_upload` of what the end waited for. And `resumes`, a number."""
    record = record_of(directory)
    phases, uploads = record.marks("phase"), record.marks("uploaded")

    def spent(name: str) -> float:
        return math.fsum(_positive(event.data.get("seconds")) for event in phases if event.data.get("name") == name)

    sizes = [(_positive(event.data.get("bytes")), _positive(event.data.get("seconds"))) for event in uploads]
    speeds = [1e9 * seconds / num_bytes for num_bytes, seconds in sizes if num_bytes and seconds]
    resumed = sum(event.data.get("resumed_step") is not None for event in record.marks("start"))
    found = {"evals": spent("eval"), "checkpoints": spent("checkpoint"), "resumes": float(resumed)}
    if steps_s := _positive(result.get("train_s")):
        found["steps"] = steps_s
    if speeds:
        found |= {"upload": statistics.median(speeds), "last_upload": sizes[-1][1]}
    return found


def record_timing(
    conn: Connection, run: Run, result: Mapping[str, Any], timing: Mapping[str, float], *, now: float
) -> None:
    """What it took beside what was said of it at funding, and how far that was off: the next interval has it.

    Only of an estimate that rested on a measurement here: what a guess was late by says nothing of those that do.
    """
    estimate = run.estimate or {}
    said = estimate.get("said_s") if estimate.get("calibration") else None
    if not said or not timing:
        return
    charged_s, charged_usd_micros = attempts.train_totals(conn, [run.id]).get(run.id, (0.0, 0))
    taken = {name: timing[name] for name in ("steps", "upload") if name in timing}
    worked_s = math.fsum(timing.get(name, 0.0) for name in ("steps", "evals", "checkpoints", "last_upload"))
    if resumes := timing.get("resumes"):  # what is neither work nor one start was lost to these
        taken["recovery"] = max(0.0, charged_s - worked_s - said[AROUND]) / resumes
    else:
        taken |= {name: timing[name] for name in ("evals", "checkpoints") if name in timing}
        taken[AROUND] = max(0.0, charged_s - worked_s)
    away = _away(estimate, outcomes(result, charged_s, charged_usd_micros))
    values = {"said_s": said, "taken_s": taken, "away": away}
    calibrations.record(conn, machine=machine_of(run), kind="timing", values=values, run_id=run.id, now=now)


def _away(estimate: Mapping[str, Any], came: Mapping[Quantity, Any]) -> dict[str, float]:
    """In half-widths of the intervals as they were before any stretching."""
    found: dict[str, float] = {}
    for quantity in MACHINE_QUANTITIES:
        said = said_of(estimate, quantity)
        if said is None or not came[quantity] or not 0 < said["low"] < said["mid"] < said["high"]:
            continue
        if quantity != "peak_memory_bytes" or estimate["memory"].get("measured"):
            factor = estimate.get("stretch", {}).get(quantity, 1.0)
            found[quantity] = factor * widths_away((said["low"], said["mid"], said["high"]), came[quantity])
    return found


def _positive(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else 0.0


def machine_of(run: Run) -> str:
    return str((run.estimate or {}).get("machine", run.executor))


def _calibration(run: Run, burst: dict[str, Any], source: str) -> Calibration:
    device = str((run.estimate or {}).get("device", "cpu"))
    spec = TrainSpec.from_dict(run.spec)
    world = WorldSize(per_node=(run.estimate or {}).get("num_gpus", 1), nodes=(run.estimate or {}).get("num_nodes", 1))
    return Calibration.from_burst(spec, burst, device=device, source=source, world=world)
