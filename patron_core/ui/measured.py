"""What a dryrun measured, beside what was estimated: lines of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patron_core import verbs
from patron_core.estimate import Estimate
from patron_core.store.records import Run
from patron_core.ui import show
from patron_core.workloads.forecast import ForeignEstimate


def measured_beside_estimated(run: Run, repriced: Estimate | ForeignEstimate) -> list[tuple[str, str, str]]:
    """(what, estimated, measured) of a run whose dryrun has been made; `repriced`: with what it measured."""
    was, got = run.estimate or {}, (run.dryrun or {})["measured"]
    if isinstance(repriced, ForeignEstimate):
        return _of_code(repriced, got)
    return [
        ("a step", show.between(was["step_s"], show.seconds), show.seconds(got.get("step_s"))),
        ("MFU", show.percent(was.get("mfu_expected")), show.percent(got.get("mfu"))),
        (
            "peak memory",
            show.between(was["memory"]["peak_bytes"], show.size),
            show.size(got.get("peak_memory_bytes")),
        ),
        ("an evaluation", show.between(was["eval_s"], show.seconds), show.seconds(got.get("eval_s"))),
        ("start to first step", show.between(verbs.startup_s(was), show.seconds), show.seconds(got.get("start_s"))),
        (
            "a checkpoint",
            show.DASH,
            f"{show.seconds(got.get('checkpoint_s'))}, {show.size(got.get('checkpoint_bytes'))}",
        ),
        ("training stalls for it", show.DASH, show.seconds(got.get("checkpoint_stall_s"))),
        (
            "training tokens",
            show.count(got.get("train_tokens_needed")),
            f"{show.count(got.get('train_tokens_available'))} there",
        ),
        ("wall time", show.between(was["wall_s"], show.seconds), show.between(repriced.wall_s, show.seconds)),
        ("cost", show.between(was["cost_usd_micros"], show.usd), show.between(repriced.cost_usd_micros, show.usd)),
        ("val_bpb", show.between(was["val_bpb"], show.bpb), show.between(repriced.val_bpb, show.bpb)),
    ]


def _of_code(repriced: ForeignEstimate, got: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Nothing was estimated of foreign code."""
    return [
        (
            f"one of {repriced.num_steps:,} {show.plain(str(got.get('unit')))}",
            show.DASH,
            show.seconds(got.get("step_s")),
        ),
        ("start to first step", show.DASH, show.seconds(got.get("start_s"))),
        ("last step to end", show.DASH, show.seconds(got.get("end_s"))),
        ("wall time", show.DASH, show.between(repriced.wall_s, show.seconds)),
        ("cost", show.DASH, show.between(repriced.cost_usd_micros, show.usd)),
    ]


def what_is_trained(row: Estimate | ForeignEstimate) -> list[tuple[str, str]]:
    """The first facts of an offer."""
    if isinstance(row, ForeignEstimate):
        return [
            ("code", row.spec.name),
            ("from", row.spec.origin.get("url") or row.spec.origin.get("folder", show.DASH)),
            ("commit", row.spec.origin.get("commit", show.DASH)),
            (show.plain(row.spec.steps_parameter or "steps"), show.count(row.num_steps)),
        ]
    return [
        ("model", f"depth {row.recipe.depth}, {show.count(row.num_params['total'])} parameters"),
        ("steps", f"{row.num_steps:,} of {show.count(row.recipe.batch_tokens)} tokens"),
        ("predicted val_bpb", show.between(row.val_bpb, show.bpb)),
    ]


def rehearsed(run: Run) -> list[tuple[str, Any]]:
    """What the kill and the resume of its dryrun came to, by name; nothing where they were not rehearsed."""
    proof = run.dryrun or {}
    return [*(proof.get("rehearsal") or {}).items(), *([("notice", proof["notice"])] if proof.get("notice") else [])]
