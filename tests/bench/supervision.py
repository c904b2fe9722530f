"""What supervision costs on a busy machine: memory and number of its processes, and how soon a launch has one.

python -m tests.bench.supervision [--load 30] [--launches 6]

A run that somebody watches is mirrored into MLflow, and then runs are launched while the supervisor of the one before
is on its way out. Nothing trains. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from patron_core import settings
from patron_core.lifecycle import post, supervisor
from patron_core.mirror.lag import lags
from patron_core.states import RunState
from patron_core.store import Store, mirrors, runs
from patron_core.store.records import Run
from tests.bench.tracking import write_events

POSTS = (post.SUPERVISOR, post.MIRROR)
GIVE_UP_S = 120.0


def at_posts() -> dict[str, list[int]]:
    """Resident bytes of every process at a post of this home."""
    found: dict[str, list[int]] = {each.name: [] for each in POSTS}
    for process in psutil.process_iter(["cmdline", "environ", "memory_info", "status"]):
        ours = (process.info["environ"] or {}).get("PATRON_HOME") == str(settings.home())
        for each in POSTS:
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if ours and alive and each.module in (process.info["cmdline"] or []):
                found[each.name].append(process.info["memory_info"].rss)
    return found


@contextmanager
def burning(number: int) -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def live_run(store: Store, name: str) -> Run:
    """One that needs a supervisor for ever: its executor is nobody's."""
    run = runs.create_run(
        store, project="bench", name=name, workload="trainer", spec={}, spec_hash="h", executor="nowhere",
        run_dir=str(settings.home() / name), actor="bench", key=None, now=time.time(),
    )  # fmt: skip
    with store.begin() as conn:
        return runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="bench", now=time.time())


def end(store: Store, run: Run) -> None:
    with store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.CANCELLED, actor="bench", now=time.time())


def watched(store: Store) -> dict[str, Any]:
    """One run until all of it is in MLflow and its supervision has gone, with somebody who looks all the time."""
    run = live_run(store, "watched")
    write_events(Path(run.run_dir), f"{run.id}-train-1", None, range(200))
    most: dict[str, int] = {}
    rss_mib: dict[str, float] = {}
    worst_lag_s, ended, begun = 0.0, False, time.monotonic()
    while (seen := at_posts()) and (not ended or any(seen.values())) and time.monotonic() - begun < GIVE_UP_S:
        supervisor.ensure_running(store)
        for name, sizes in seen.items():
            most[name] = max(most.get(name, 0), len(sizes))
            rss_mib[name] = max([rss_mib.get(name, 0.0), *(round(size / 2**20, 1) for size in sizes)])
        worst_lag_s = max([worst_lag_s, *(lag.seconds for lag in lags(store))])
        if not ended and mirrors.get(store, run.id) is not None:
            end(store, run)
            ended = True
        time.sleep(0.2)
    seconds = round(time.monotonic() - begun, 1)
    return {"most_at_once": most, "peak_rss_mib": rss_mib, "worst_lag_s": worst_lag_s, "mirrored_and_gone_s": seconds}


def launched_on_the_way_out(store: Store, number: int) -> dict[str, Any]:
    seen_after_s: list[float | None] = []
    log = settings.home() / "supervisor.log"
    for each in range(number):
        run = live_run(store, f"run-{each}")
        begun = time.monotonic()
        supervisor.ensure_running(store)
        while run.id not in log.read_text() and time.monotonic() - begun < GIVE_UP_S:
            time.sleep(0.05)
        seen_after_s.append(round(time.monotonic() - begun, 1) if run.id in log.read_text() else None)
        end(store, run)
        time.sleep(random.uniform(1.0, 2.0) * post.IDLE_ROUNDS)
    return {"launches": number, "without_supervisor": seen_after_s.count(None), "seen_after_s": seen_after_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, default=30, help="processes that do nothing but burn")
    parser.add_argument("--launches", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="patron-bench-", ignore_cleanup_errors=True) as home:
        os.environ["PATRON_HOME"] = home
        store = Store.open()
        with burning(args.load):
            found = {"load": args.load} | watched(store) | launched_on_the_way_out(store, args.launches)
        store.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
