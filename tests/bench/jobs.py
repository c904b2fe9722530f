"""What the benches of the trainer have a process do, and both ends of that process: `run_job` starts it, `main` is it.

    python -m tests.bench.jobs '{"side": "ours", "depth": 4}'

Stdout gets one JSON object, everything else goes to stderr. No torch here until a process works on its job.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.runtime.transfer import use_expandable_segments

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one trainer ("ours" or "upstream") does: steps on random tokens to be timed, or a run to learn from data."""

    side: str
    eval_batches: int = 0  # of our trainer after the steps, timed beside their bare arithmetic
    checkout: str | None = None  # of upstream
    depth: int = 4
    sequence_len: int = 512
    vocab_size: int = 32768
    window_pattern: str = "L"
    batch_tokens: int = 8192
    device_batch_size: int | None = 8  # sequences; None: what our trainer takes by itself
    device: str = "cpu"
    dtype: str = "bfloat16"
    compile: bool = True
    fp8: bool = False  # of our trainer
    steps: int = 6  # measured, after two that warm up
    seed: int = 0
    learn_steps: int = 0  # a run of as many steps on `data` instead; its result is val_bpb
    data: str = "stdlib"
    eval_tokens: int = 2**17
    schedule: str = "shared"  # shared, own


class JobError(RuntimeError):
    """The process of a job failed; the message ends with the last lines that it wrote."""


def run_job(
    job: Job, *, launcher: Sequence[str] = (), env: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> dict[str, Any]:
    """The job's result, from a process of its own. `launcher` is a command put before it, such as `taskset -c 0-3`."""
    environ = child_environ() | (env or {})
    if not job.compile:
        environ["TORCHDYNAMO_DISABLE"] = "1"  # upstream has no other switch
    command = [*launcher, sys.executable, "-m", "tests.bench.jobs", json.dumps(asdict(job))]
    name = f"{job.side}, depth {job.depth}, {job.dtype}"
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise JobError(f"{name}: not done after {error.timeout:.0f} s") from error
    if done.returncode:
        raise JobError(f"{name}: exit {done.returncode}\n" + "\n".join(done.stderr.splitlines()[-15:]))
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def child_environ() -> dict[str, str]:
    """This process's environment, with the repository in front of what PYTHONPATH already names."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


def checkout_problem(path: Path | None) -> str | None:
    """Why nothing can be measured against this checkout; None when it can."""
    if path is None:
        return "no checkout of nanochat was named; give one with --vs PATH"
    if not (path / "nanochat" / "gpt.py").is_file():
        return f"{path} is no checkout of nanochat: it has no nanochat/gpt.py; clone github.com/karpathy/nanochat"
    return None


def checkout_version(path: Path) -> str | None:
    """The commit; None for a folder that is not itself the root of a git checkout."""
    if not (path / ".git").exists():
        return None
    command = ["git", "-C", str(path), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def main() -> None:
    started = time.perf_counter()
    job = Job(**json.loads(sys.argv[1]))
    use_expandable_segments()  # as both sides' own scripts do
    with contextlib.redirect_stdout(sys.stderr):
        from tests.bench.sides import work

        result = work(job, started)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
