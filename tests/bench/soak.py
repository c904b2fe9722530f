"""Memory over time: simulated runs that write events, a supervisor that charges them, and sessions that watch.

python -m tests.bench.soak [--minutes 30] [--runs 50] [--sessions 3]

All in one process, the machine is scripted. Prints one JSON object: resident memory over time in MB, and how much an
hour of the second half added; the events of that time, in columns, are part of it and stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import psutil

from patron_core import verbs
from patron_core.rundir import record
from patron_core.store import Run, Store
from tests.bench.growth import launched, write_steps
from trainer.contract.merging import Here, Merging

WATCHED = 12  # runs that a session shows in turn


def train(found: list[Run], done: threading.Event) -> None:
    """Ten steps of each run in two seconds, merged as the trainer's writer does."""
    merging = {run.id: Merging(Here(Path(run.run_dir)), f"{run.id}-train-1") for run in found}
    for segment in count():
        for run in found:
            write_steps(run, segment, range(10 * segment + 1, 10 * segment + 11))
            merging[run.id].after(1)
        if done.wait(2.0):
            return


def watch(store: Store, found: list[Run], done: threading.Event, well: list[bool]) -> None:
    for look in count():
        run = found[look % min(WATCHED, len(found))]
        verbs.shared_view(store, run.id)
        verbs.curves(store, run.id, ["train/loss"])
        if look % 5 == 0:
            verbs.lab(store, "p")
        if done.wait(2.0):
            well.append(True)
            return


def soak(store: Store, *, minutes: float, num_runs: int, num_sessions: int) -> dict[str, object]:
    supervisor, machine = launched(store, num_runs)
    found = all_runs(store)
    for run in found:
        (Path(run.run_dir) / "events").mkdir(parents=True, exist_ok=True)
    done, well = threading.Event(), list[bool]()
    work = [threading.Thread(target=train, args=(found, done), daemon=True)]
    work += [threading.Thread(target=watch, args=(store, found, done, well), daemon=True) for _ in range(num_sessions)]
    for each in work:
        each.start()
    own, began, memory_mb, kept_mb = psutil.Process(), time.monotonic(), [], []
    end, sample_s = began + 60 * minutes, max(1.0, minutes * 60 / 60)
    while time.monotonic() < end:
        next_at = time.monotonic() + sample_s
        while time.monotonic() < next_at:
            machine.advance(1.0)
            supervisor.round()
            time.sleep(1.0)
        memory_mb.append(round(own.memory_info().rss / 2**20, 1))
        kept_mb.append(round(sum(each.bytes for each in list(record._records.values())) / 2**20, 2))
    done.set()
    for each in work:
        each.join(30.0)
    half = len(memory_mb) // 2
    hours = minutes / 60 / 2
    return {
        "minutes": minutes, "runs": num_runs, "sessions": num_sessions, "memory_mb": memory_mb,
        "added_mb_an_hour": round((memory_mb[-1] - memory_mb[half]) / hours, 1), "events_mb": kept_mb,
        "events_mb_an_hour": round((kept_mb[-1] - kept_mb[half]) / hours, 1),
        "sessions_that_ended_well": len(well),
    }  # fmt: skip


def all_runs(store: Store) -> list[Run]:
    return [verbs.find_run(store, line.id) for line in verbs.overview(store, project="p", limit=10_000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PATRON_HOME": home, "PATRON_LOCAL_USD_PER_HOUR": "0.1"}
        os.environ.pop("PATRON_DATABASE_URL", None)
        found = soak(Store.open(), minutes=asked.minutes, num_runs=asked.runs, num_sessions=asked.sessions)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
