"""A tiny run for tests: a small corpus, a spec that trains in a second, and ways to start the trainer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.train import main

ROOT = Path(__file__).parents[2]
WORDS = ("the", "cat", "dog", "sat", "mat", "on", "ran", "big", "red", "of", "and", "to", "in", "house", "tree", "sky")
PATIENCE_S = 120.0


def write_corpus(path: Path, documents: int = 2500) -> None:
    rng = random.Random(0)
    path.write_text("\n\n".join(" ".join(rng.choices(WORDS, k=60)) + "." for _ in range(documents)))


class Trainer:
    """Starts real trainer processes on one corpus and one cache."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.corpus = folder / "corpus.txt"
        write_corpus(self.corpus)

    def spec(self, **changes: Any) -> dict[str, Any]:
        return {
            "depth": 1,
            "sequence_len": 64,
            "vocab_size": 512,
            "window_pattern": "L",
            "batch_tokens": 512,
            "device_batch_size": 4,
            "num_steps": 8,
            "eval_every_steps": 4,
            "eval_tokens": 1024,
            "data": f"path:{self.corpus}",
            "device": "cpu",
            "dtype": "float32",
            **changes,
        }

    def command(self, run_dir: Path, spec: dict[str, Any] | str, *options: str, module: str = "train") -> list[str]:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        path = run_dir.parent / f"{run_dir.name}-spec.json"
        path.write_text(spec if isinstance(spec, str) else json.dumps(spec))
        return [sys.executable, "-m", f"trainer.{module}", str(path), str(run_dir), *options]

    def environ(self, **changes: str) -> dict[str, str]:
        return os.environ | {"PATRON_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"} | changes

    def start(
        self,
        run_dir: Path,
        spec: dict[str, Any] | str,
        *options: str,
        module: str = "train",
        env: dict[str, str] | None = None,
        **popen: Any,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(run_dir, spec, *options, module=module),
            cwd=ROOT,
            env=self.environ(**(env or {})),
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )

    def train_here(self, run_dir: Path, spec: dict[str, Any], *options: str) -> int:
        """The same in this process: no signals, no kill, but a start costs no import."""
        command = self.command(run_dir, spec, *options)
        return main(command[command.index("trainer.train") + 1 :])

    def train(
        self, run_dir: Path, spec: dict[str, Any] | str, *options: str, env: dict[str, str] | None = None, **popen: Any
    ) -> tuple[int, str]:
        """Exit code and stderr of a start that runs to its end."""
        process = self.start(run_dir, spec, *options, env=env, **popen)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        return process.returncode, stderr


def events(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Closed and open segments together, in order of time."""
    found = []
    for path in sorted((run_dir / "events").glob("*.jsonl*")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                found.append(json.loads(line))
    found.sort(key=lambda event: event["time"])
    return [event for event in found if kind is None or event["kind"] == kind]


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of each step; a step done twice must have had the same loss both times."""
    found: dict[int, float] = {}
    for event in events(run_dir, "metrics"):
        loss = event["metrics"]["train/loss"]
        assert found.setdefault(event["step"], loss) == loss, (
            f"step {event['step']}: {found[event['step']]} then {loss}"
        )
    return found


def result(run_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return value


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds; fails at once when the process ends before."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"ended early: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
