"""How fast the face is: python tests/bench/notebook.py prints one JSON object. Writes only to a scratch home."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
REPEATS = 5


def timed(*command: str) -> tuple[float, float]:
    """Seconds of wall time and of processor time of a command that must succeed, output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(*command: str) -> dict[str, float]:
    timed(*command)  # the first one reads from a cold disk and writes byte code
    runs = [timed(*command) for _ in range(REPEATS)]
    walls, processors = zip(*runs, strict=True)
    return {
        "median_s": round(statistics.median(walls), 3),
        "best_s": round(min(walls), 3),
        "processor_s": round(min(processors), 3),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["PATRON_HOME"] = home
        answer = {
            "python": measured("-c", "pass"),
            "import_patron_core": measured("-c", "import patron_core"),
            "import_verbs": measured("-c", "import patron_core.verbs"),
            "import_marimo": measured("-c", "import marimo"),
            "estimate_json": measured(str(NOTEBOOKS / "1_estimate.py"), "--json"),
            "estimate_help": measured(str(NOTEBOOKS / "1_estimate.py"), "--help"),
            "load_average": round(os.getloadavg()[0], 1),
            "cores": len(os.sched_getaffinity(0)),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
