"""How fast a run directory reaches MLflow in SQLite, and comes back. Prints one JSON object.

.venv/bin/python tests/bench/tracking.py [--steps 5000] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from patron_core.mirror import tracking
from patron_core.store import Store, runs
from patron_core.store.records import Run

KEYS = ("loss", "tokens_per_s", "step_s", "mfu", "lr_multiplier", "peak_memory_bytes")


def write_events(run_dir: Path, attempt: str, resumed_step: int | None, steps: range) -> None:
    start = {"seq": 0, "time": 1e9, "attempt": attempt, "kind": "start", "step": None, "resumed_step": resumed_step}
    lines = [json.dumps(start)]
    for step in steps:
        metrics = {f"train/{key}": step * 0.37 + number for number, key in enumerate(KEYS)}
        head = {"seq": step + 1, "time": 1e9 + step, "attempt": attempt, "kind": "metrics", "step": step}
        lines.append(json.dumps(head | {"metrics": metrics}))
    (run_dir / "events").mkdir(parents=True, exist_ok=True)
    (run_dir / "events" / f"{attempt}-000000.jsonl").write_text("\n".join(lines) + "\n")


def timed_sync(store: Store, run: Run) -> tuple[float, int]:
    began = time.perf_counter()
    report = tracking.sync(store, run, now=1e9, budget_s=1e9)
    assert report.error is None, report.error
    assert not report.behind
    return time.perf_counter() - began, report.num_points


def make_run(store: Store, folder: Path) -> Run:
    return runs.create_run(
        store,
        project="bench",
        name="bench",
        workload="trainer",
        spec={"depth": 4},
        spec_hash="0",
        executor="local",
        run_dir=lambda run_id: str(folder / run_id),
        actor="bench",
        key=None,
        now=1e9,
    )


def measure(folder: Path, num_steps: int) -> dict[str, Any]:
    began = time.perf_counter()
    store = Store.open()
    warm_up = make_run(store, folder)
    write_events(Path(warm_up.run_dir), "w-train-1", None, range(1, 101))
    timed_sync(store, warm_up)
    first_use_s = time.perf_counter() - began

    run = make_run(store, folder)
    write_events(Path(run.run_dir), "b-train-1", None, range(1, num_steps + 1))
    cpu_began = time.process_time()
    sync_s, num_points = timed_sync(store, run)
    cpu_s = time.process_time() - cpu_began
    idle_s, _ = timed_sync(store, run)
    write_events(Path(run.run_dir), "b-train-2", num_steps // 2, range(num_steps // 2 + 1, num_steps // 2 + 11))
    rewind_s, num_rewound = timed_sync(store, run)
    began = time.perf_counter()
    num_rows = tracking.metrics_frame(store, [run.id]).height
    read_s = time.perf_counter() - began
    store.close()
    assert num_rows == num_rewound, (num_rows, num_rewound)
    return {
        "points": num_points,
        "sync_s": round(sync_s, 3),
        "points_per_s": round(num_points / sync_s),
        "points_per_cpu_s": round(num_points / cpu_s),
        "idle_sync_s": round(idle_s, 4),
        "rewind_points": num_rewound,
        "rewind_s": round(rewind_s, 3),
        "read_points_per_s": round(num_rows / read_s),
        "first_use_s": round(first_use_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help=f"training steps, {len(KEYS)} points each")
    parser.add_argument("--profile", action="store_true", help="where the time goes, on stderr")
    arguments = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("PATRON_DATABASE_URL", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATRON_HOME"] = folder
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        result = measure(Path(folder) / "runs", arguments.steps)
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
