"""What a checkpoint and an evaluation cost training on this device."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from tests.bench.gpu import figures
from tests.bench.jobs import ROOT, child_environ, run_job
from tests.bench.lease.setting import Report, Setting
from tests.bench.lease.speed import describe


def checkpoint(setting: Setting, report: Report) -> None:
    """tests.bench.checkpoint at this shape: stall, write, and how much slower the steps beside a write are."""
    job = setting.job()
    options = {
        "depth": job.depth,
        "sequence-len": job.sequence_len,
        "vocab-size": job.vocab_size,
        "window-pattern": job.window_pattern,
        "batch-size": job.device_batch_size,
        "steps": 1 if setting.smoke else 6,
        "saves": 1 if setting.smoke else 3,
        "dtype": job.dtype,
        "device": setting.device,
    }
    command = [sys.executable, "-m", "tests.bench.checkpoint"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command += ["--compile"] * job.compile
    done = subprocess.run(command, cwd=ROOT, env=child_environ(), stdout=subprocess.PIPE, text=True, check=True)
    report(**json.loads(done.stdout.splitlines()[-1]))


def evaluation(setting: Setting, report: Report) -> None:
    """A third graph is compiled for it, so that it comes last."""
    job = replace(setting.job(), eval_batches=1 if setting.smoke else 4, steps=1)
    result = run_job(job)
    report(job=describe(job), **figures(result), evaluation=result["eval"])
