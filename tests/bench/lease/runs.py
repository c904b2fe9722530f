"""Whole runs of the trainer: killed in mid-step and resumed, bit for bit; out of memory, with the batch that fits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.jobs import ROOT, child_environ
from tests.bench.lease.setting import Report, Setting, small_corpus
from trainer.contract.exits import EXIT_DONE, EXIT_OUT_OF_MEMORY, EXIT_RESUME
from trainer.contract.files import read_json

NUM_STEPS = 6
STOP_AFTER_STEP = 2
PATIENCE_S = 300.0  # the part has a limit of its own
# As in a process whose limit is reached when the data is there and the model is made: how a CPU runs out of memory.
LIMITED = """
import resource, sys
from trainer import session, train
from trainer.runtime import out_of_memory
loop_class = session.TrainingLoop
def limited(**parts):
    made = loop_class(**parts)
    limit = out_of_memory._process_bytes("VmSize") + 300 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return made
session.TrainingLoop = limited
sys.exit(train.main())
"""


def runs(setting: Setting, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        resume = interrupted_and_not(setting, Path(folder))
        report(ok=resume["ok"], resume=resume)
        memory = out_of_memory(setting, Path(folder))
        report(ok=resume["ok"] and memory["ok"], out_of_memory=memory)


def spec(setting: Setting, **changes: Any) -> dict[str, Any]:
    shape = {"depth": 1, "sequence_len": 64, "batch_tokens": 512, "device_batch_size": 4}
    if not setting.smoke:
        shape = {"depth": 4, "sequence_len": 1024, "batch_tokens": 2**15, "device_batch_size": 8}
    return {
        **shape,
        "vocab_size": 512,
        "num_steps": NUM_STEPS,
        "eval_every_steps": 0,
        "eval_tokens": 1024,
        "data": f"path:{small_corpus()}",
        "device": setting.device,
        "compile": False,
        "checkpoint_every_s": 0,
        **changes,
    }


def interrupted_and_not(setting: Setting, folder: Path) -> dict[str, Any]:
    """SIGTERM in mid-step, and the same run without: every loss has to be the same bit for bit on one card."""
    whole, cut = folder / "whole", folder / "cut"
    codes = [finish(start(whole, spec(setting)))]
    process = start(cut, spec(setting))
    wait_for_step(cut, STOP_AFTER_STEP, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    codes.append(finish(process))
    stopped_s = time.monotonic() - asked
    resumed_from = (read_json(cut / "result.json") or {}).get("step")
    codes.append(finish(start(cut, spec(setting))))
    mine, theirs = losses(cut), losses(whole)
    good = mine == theirs and len(mine) == NUM_STEPS and codes == [EXIT_DONE, EXIT_RESUME, EXIT_DONE]
    found = {"ok": good, "exit_codes": codes, "stopped_s": stopped_s, "resumed_from_step": resumed_from}
    return found | {"losses": mine, "losses_uninterrupted": theirs}


def out_of_memory(setting: Setting, folder: Path) -> dict[str, Any]:
    """A micro-batch that cannot fit ends with 76 and the one that would; with that it has to train."""
    if setting.smoke:
        large = spec(setting, batch_tokens=32768, device_batch_size=512, num_steps=2)
    else:
        large = spec(setting, depth=12, sequence_len=2048, batch_tokens=2**20, device_batch_size=512, num_steps=2)
    first = finish(start(folder / "large", large, limited=setting.smoke))
    said = read_json(folder / "large" / "result.json") or {}
    fitting = said.get("memory", {}).get("fitting_device_batch_size")
    found = {"exit_code": first, "message": said.get("message"), "fitting_device_batch_size": fitting}
    if first != EXIT_OUT_OF_MEMORY or not fitting:
        return {"ok": False} | found
    options = () if setting.smoke else ("--burst", "1")
    smaller = start(folder / "fits", large | {"device_batch_size": fitting}, *options, limited=setting.smoke)
    second = finish(smaller)
    peak = (read_json(folder / "fits" / "result.json") or {}).get("peak_memory_bytes")
    return {"ok": second == EXIT_DONE} | found | {"exit_code_with_it": second, "peak_memory_bytes": peak}


def start(run_dir: Path, values: dict[str, Any], *options: str, limited: bool = False) -> subprocess.Popen[bytes]:
    path = run_dir.with_suffix(".json")
    path.write_text(json.dumps(values), encoding="utf-8")
    program = ["-c", LIMITED] if limited else ["-m", "trainer.train"]
    environ = child_environ() | {"MALLOC_ARENA_MAX": "1"}
    return subprocess.Popen([sys.executable, *program, str(path), str(run_dir), *options], cwd=ROOT, env=environ)


def finish(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=PATIENCE_S)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while step not in losses(run_dir):
        assert process.poll() is None, f"ended with {process.returncode} before step {step}"
        assert time.monotonic() < end, f"no step {step} after {PATIENCE_S:.0f} s"
        time.sleep(0.002)


def losses(run_dir: Path) -> dict[int, float]:
    found = {}
    for path in sorted((run_dir / "events").glob("*.jsonl*")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            event = json.loads(line) if line.endswith("\n") else {}
            if event.get("kind") == "metrics":
                found[event["step"]] = event["metrics"]["train/loss"]
    return found
