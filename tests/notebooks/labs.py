"""A lab with a past, made by store calls: what notebooks have to show, without training anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from patron_core import verbs
from patron_core.estimate import Calibration
from patron_core.lifecycle.learned import record_run
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs, searches
from patron_core.verbs.fund import current_environment
from trainer.contract.spec import TrainSpec, canonical_json

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))
HOUR_USD_MICROS = 100_000
START = 1_760_000_000.0
SPEC: dict[str, Any] = {
    "sequence_len": 256,
    "vocab_size": 4096,
    "batch_tokens": 8192,
    "device_batch_size": 32,
    "eval_tokens": 65536,
    "eval_every_steps": 50,
}


def fill(store: Store) -> dict[str, Run]:
    """A run of every kind that a notebook meets, by a word for it."""
    verbs.deposit(store, usd_micros=2_000_000, key="first", actor="ada", now=START)
    found = {
        "finished": trained(store, depth=2, name="d2-finished", at=START + 100, val_bpb=1.872, steps=400),
        "better": trained(store, depth=4, name="d4-better", at=START + 2000, val_bpb=1.741, steps=300),
        "oom": trained(store, depth=8, name="d8-oom", at=START + 4000, val_bpb=None, steps=60),
        "running": trained(store, depth=3, name="d3-running", at=START + 5000, val_bpb=None, steps=150, live=True),
        "proven": proven(store, depth=6, name="d6-proven", at=START + 6000),
        "draft": draft(store, depth=1, name="d1-draft", at=START + 7000),
    }
    for kind, title, body in (
        ("hypothesis", "Depth 4 is best in a minute", "- depth 4: 1.75 bpb\n- depth 2: 1.86 bpb"),
        ("failed", "Depth 8 does not fit", "Ran out of memory at 32 sequences a micro-batch."),
        ("result", "Depth 4 wins", "1.741 bpb for $0.004, as predicted."),
    ):
        verbs.write_note(store, project="lab", kind=kind, title=title, body=body, actor="ada", now=START + 8000)
    with store.begin() as conn:
        searches.save(
            conn,
            search_id=runs.new_id("s"),
            project="lab",
            key="first",
            question={"minutes": 1},
            state="done",
            decisions=[{"kind": "stop", "sentence": "Depth 6 promises nothing more."}],
            result=None,
            now=START + 8100,
        )
    return found


def draft(store: Store, *, depth: int, name: str, at: float, executor: str = "nowhere", num_steps: int = 400) -> Run:
    """Planned, at an executor that does not exist: no supervisor can start anything of it."""
    run = verbs.plan(store, spec=SPEC | {"depth": depth, "num_steps": num_steps}, name=name, actor="ada", now=at)
    with store.begin() as conn:
        runs.set_fields(conn, run.id, now=at, max_usd_micros=1_000_000)
        conn.exec_driver_sql("UPDATE runs SET executor = ? WHERE id = ?", (executor, run.id))
    return runs.get_run(store, run.id)


def proven(store: Store, *, depth: int, name: str, at: float, environment_hash: str = "e" * 16, **more: Any) -> Run:
    """It passed a dryrun and waits for money."""
    run = draft(store, depth=depth, name=name, at=at, **more)
    with store.begin() as conn:
        attempt = _attempt(conn, run, "dryrun", hold=9_000, at=at)
        _move(conn, run, RunState.DRYRUN, at)
        _charge(conn, run, attempt, seconds=42.0, at=at + 42)
        attempts.ended(conn, attempt.id, reason=EndReason.COMPLETED, exit_code=0, evidence={}, now=at + 42)
        runs.set_fields(conn, run.id, now=at, dryrun=report(run, attempt.id, environment_hash))
        _move(conn, run, RunState.AWAITING_FUNDING, at + 42)
        ledger.release(conn, run, key=f"release:{run.id}:1", now=at + 42)
    return runs.get_run(store, run.id)


def trained(
    store: Store, *, depth: int, name: str, at: float, val_bpb: float | None, steps: int, live: bool = False
) -> Run:
    """It trained: preempted once and finished, or out of memory without a `val_bpb`, or still at it."""
    run = proven(store, depth=depth, name=name, at=at, num_steps=400 if live else steps)
    first, second = f"{run.id}-train-1", f"{run.id}-train-2"
    with store.begin() as conn:
        one = _attempt(conn, run, "train", hold=20_000, at=at + 60)
        for state in (RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING):
            _move(conn, run, state, at + 60)
        _charge(conn, run, one, seconds=50.0, at=at + 110)
        attempts.ended(conn, one.id, reason=EndReason.PREEMPTED, exit_code=None, evidence={}, now=at + 110)
        _move(conn, run, RunState.RECOVERING, at + 110, EndReason.PREEMPTED)
        two = _attempt(conn, run, "train", hold=0, at=at + 115)
        _move(conn, run, RunState.LAUNCHING, at + 115)
        _move(conn, run, RunState.RUNNING, at + 116)
        _charge(conn, run, two, seconds=70.0, at=at + 180)
    write_events(run, {first: (0, steps // 2), second: (steps // 2, steps)}, at=at + 60, end=val_bpb or 2.0)
    if not live:
        _end(store, run, two.id, val_bpb, steps, at=at + 200)
    return runs.get_run(store, run.id)


def report(run: Run, attempt_id: str, environment_hash: str) -> dict[str, Any]:
    burst = {
        "step_s": 0.21,
        "step_s_iqr": 0.01,
        "first_step_s": 0.6,
        "tokens_per_s": 39_000.0,
        "mfu": 0.24,
        "peak_memory_bytes": 830_000_000,
        "eval_s": 1.7,
        "checkpoint_s": 0.31,
        "checkpoint_stall_s": 0.12,
        "checkpoint_bytes": 96_000_000,
        "data_s": 1.1,
        "tokenizer_s": 2.9,
        "model_s": 0.2,
        "compile_s": 0.0,
        "start_s": 6.4,
        "train_tokens_available": 40_000_000,
        "train_tokens_needed": 3_276_800,
        "steps": 8,
    }
    calibration = Calibration.from_burst(
        TrainSpec.from_dict(run.spec), burst, device="cpu", source=f"dryrun {attempt_id}"
    )
    return {
        "attempt": attempt_id,
        "spec_hash": run.spec_hash,
        "environment_hash": environment_hash,
        "measured": burst,
        "rehearsal": {"killed_at_step": 4, "resumed_step": 3, "identical": True, "seconds": 9.1},
        "price": {"usd_micros_per_hour": HOUR_USD_MICROS, "device": "cpu"},
        "calibration": calibration.to_dict(),
    }


def write_events(run: Run, spans: dict[str, tuple[int, int]], *, at: float, end: float) -> None:
    """One closed segment for each attempt, with a loss that falls towards `end`."""
    folder = Path(run.run_dir)
    (folder / "events").mkdir(parents=True)
    (folder / "logs").mkdir()
    for attempt, (first, last) in spans.items():
        lines = [_event(0, at, attempt, "start", None, resumed_step=first or None, num_steps=run.spec["num_steps"])]
        for step in range(first + 1, last + 1):
            bpb = end + 2.2 * math.exp(-step / 60)
            metrics = {"train/loss": 2.1 * bpb + 0.05 * math.sin(step), "train/step_s": 0.21, "train/mfu": 0.24}
            lines.append(_event(2 * step, at + 0.2 * step, attempt, "metrics", step, metrics=metrics))
            if step % 50 == 0:
                lines.append(
                    _event(2 * step + 1, at + 0.2 * step, attempt, "eval", step, val_bpb=bpb, val_loss=2 * bpb)
                )
        if last == run.spec["num_steps"]:
            said = {"prompts": ["import ", "def main("], "texts": ["os\nimport sys", ")é" * 80]}
            ends = ["end of document", "max tokens"]
            lines.append(_event(2 * last + 2, at + 0.2 * last, attempt, "sample", last, **said, ends=ends))
        (folder / "events" / f"{attempt}-000000.jsonl").write_text("".join(line + "\n" for line in lines))
        (folder / "logs" / f"{attempt}.log").write_text("".join(f"step {s} done\n" for s in range(first, last)))


def _event(seq: int, at: float, attempt: str, kind: str, step: int | None, **data: Any) -> str:
    return json.dumps({"seq": seq, "time": at, "attempt": attempt, "kind": kind, "step": step, **data})


def _end(store: Store, run: Run, attempt_id: str, val_bpb: float | None, steps: int, *, at: float) -> None:
    reason = EndReason.COMPLETED if val_bpb is not None else EndReason.CUDA_OOM
    result = {"val_bpb": val_bpb, "step": steps, "mfu": 0.24, "tokens_per_s": 39_000.0, "peak_memory_bytes": 9e8}
    with store.begin() as conn:
        attempts.ended(conn, attempt_id, reason=reason, exit_code=0, evidence={}, now=at)
        runs.set_fields(conn, run.id, now=at, result=result)
        record_run(conn, run, result, now=at)
        _move(conn, run, RunState.SUCCEEDED if val_bpb is not None else RunState.FAILED, at, reason)
        ledger.release(conn, run, key=f"release:{run.id}:end", now=at)


def _attempt(conn: Any, run: Run, kind: Any, *, hold: int, at: float) -> Any:
    if hold:
        ledger.hold(conn, run, hold, key=f"hold:{run.id}:{kind}", actor="ada", now=at)
    price = {"usd_micros_per_hour": HOUR_USD_MICROS, "device": "cpu", "burst_steps": 8}
    made = attempts.create(conn, run, kind=kind, usd_micros_per_hour=HOUR_USD_MICROS, price=price, now=at)
    return attempts.submitted(conn, made.id, handle={"key": made.id}, now=at)


def _charge(conn: Any, run: Run, attempt: Any, *, seconds: float, at: float) -> None:
    total = math.ceil(seconds * HOUR_USD_MICROS / 3600)
    ledger.charge_up_to(conn, run, attempt.id, total, now=at)
    attempts.meter(conn, attempt.id, charged_s=seconds, charged_usd_micros=total)


def _move(conn: Any, run: Run, new: RunState, at: float, reason: EndReason | None = None) -> None:
    old = runs.get_run(conn, run.id).state
    runs.transition(conn, run.id, old=old, new=new, reason=reason, actor="ada", now=at)


def prove_here(store: Store, run: Run) -> Run:
    """As if its dryrun had been made in this very environment, so that it can be funded."""
    folder = Path(run.run_dir) / "dryrun-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(canonical_json(run.spec))
    environment = current_environment(folder)
    (folder / "environment.json").write_text(json.dumps(environment))
    proof = report(run, f"{run.id}-dryrun-1", environment["hash"])
    with store.begin() as conn:
        return runs.set_fields(conn, run.id, now=run.updated_at, dryrun=proof)
