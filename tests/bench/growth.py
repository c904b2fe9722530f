"""What grows, and how fast: lines of work over sizes, with the exponent of each (1: in proportion; 0: flat).

python -m tests.bench.growth [--only record round] [--large]

Prints one JSON object: line -> what is counted, sizes, costs, exponent, and the goal with the size that it is for.
A line runs in a process of its own, so that memory is its own, too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from patron_core import verbs
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.scaling import refit
from patron_core.scaling.law import Observation
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, books, ledger, runs
from patron_core.store.schema import entries, transfers
from trainer.contract.merging import Here, Merging

KEYS = ("loss", "lr", "grad_norm", "step_s", "tokens_per_s", "mfu", "memory_bytes", "epoch")
STEPS_A_SEGMENT = 50
LOOKS = 10


@dataclass(frozen=True, kw_only=True)
class Line:
    what: str
    goal: str
    sizes: Sequence[int]
    large: Sequence[int] = ()
    costs: Callable[[Store, int], dict[str, float]] = field(repr=False)


def a_run(store: Store, folder: Path, name: str = "run") -> Run:
    spec = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}
    return runs.create_run(
        store, project="p", name=name, workload="trainer", spec=spec, spec_hash="f" * 64, executor="local",
        run_dir=str(folder / name), actor="bench", key=name, now=time.time(),
    )  # fmt: skip


def write_steps(run: Run, segment: int, steps: range) -> None:
    head, attempt = {"time": 1e9}, f"{run.id}-train-1"
    lines = [
        head | {"seq": step, "attempt": attempt, "kind": "metrics", "step": step}
        | {"metrics": {f"train/{key}": step * 0.37 for key in KEYS}}
        for step in steps
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (Path(run.run_dir) / "events" / f"{attempt}-{segment:06d}.jsonl").write_text(text)


def recorded(store: Store, num_steps: int) -> Run:
    run = a_run(store, Path(os.environ["PATRON_HOME"]) / "runs")
    (Path(run.run_dir) / "events").mkdir(parents=True)
    merging = Merging(Here(Path(run.run_dir)), f"{run.id}-train-1")  # as the trainer's writer does
    for segment, first in enumerate(range(1, num_steps + 1, STEPS_A_SEGMENT)):
        write_steps(run, segment, range(first, first + STEPS_A_SEGMENT))
        merging.after(1)
    return run


def cpu_ms(work: Callable[[], Any], times: int = LOOKS) -> float:
    """The median of several, of all threads."""
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(1000 * (time.process_time() - began))
    return round(sorted(found)[times // 2], 3)


def record(store: Store, num_steps: int) -> dict[str, float]:
    run = recorded(store, num_steps)
    verbs.curves(store, a_run(store, Path(os.environ["PATRON_HOME"]) / "runs", "empty").id)  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = cpu_ms(lambda: verbs.view(store, run.id), 1)
    mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    new = iter(range(num_steps + 1, num_steps + 1000))

    def next_event() -> None:
        step = next(new)
        write_steps(run, num_steps // STEPS_A_SEGMENT + step - num_steps - 1, range(step, step + 1))
        verbs.view(store, run.id)

    return {
        "first look, ms": first,
        "memory, MB": round(mb, 1),
        "look at a new event, ms": cpu_ms(next_event),
        "its curve, ms": cpu_ms(lambda: verbs.curves(store, run.id, ["train/loss"])),
    }


def sessions(store: Store, number: int) -> dict[str, float]:
    """Each looks every two seconds; for half a minute of that, all in turn."""
    run, looks = recorded(store, 20_000), 15
    verbs.shared_view(store, run.id)
    began = time.process_time()
    for look in range(looks):
        write_steps(run, 1000 + look, range(20_001 + look, 20_002 + look))
        at = time.monotonic()
        for _ in range(number):
            verbs.shared_view(store, run.id)
        time.sleep(max(0.0, 2.0 - (time.monotonic() - at)))
    return {"cores for all sessions": round((time.process_time() - began) / (2.0 * looks), 4)}


def books_of(store: Store, num_transfers: int) -> dict[str, float]:
    """One run that was charged that often, all checked but the last few."""
    run = a_run(store, Path("/nowhere"))
    with store.begin() as conn:
        ledger.deposit(conn, project="p", usd_micros=10**9, key="deposit", actor="bench", now=1.0)
        ledger.hold(conn, run, 10**8, key="hold", actor="bench", now=1.0)
        attempt = attempts.create(conn, run, kind="train", usd_micros_per_hour=1, price={}, now=1.0)
        shared = {
            "project": "p", "kind": "charge", "usd_micros": 1, "asked_usd_micros": 1, "source": f"hold:{run.id}",
            "target": f"spent:{run.id}", "run_id": run.id, "attempt_id": attempt.id, "memo": "", "actor": "meter",
        }  # fmt: skip
        numbers = range(10, num_transfers + 10)
        conn.execute(sa.insert(transfers), [{**shared, "id": n, "key": f"c{n}", "time": float(n)} for n in numbers])
        for book, usd_micros in (("hold", -1), ("spent", 1)):
            line = {"project": "p", "book": book, "account": f"{book}:{run.id}", "usd_micros": usd_micros}
            conn.execute(sa.insert(entries), [{**line, "transfer_id": n} for n in numbers])
    while books.check_on(store):
        pass
    return {"verbs.lab, ms": cpu_ms(lambda: verbs.lab(store, "p"))}


def launched(store: Store, num_runs: int) -> tuple[Supervisor, FakeExecutor]:
    """Live local runs on a scripted machine, and who supervises them."""
    machine = FakeExecutor(name="local")
    machine.default_script = Script(run_s=1e9)
    folder = Path(os.environ["PATRON_HOME"]) / "runs"
    with store.begin() as conn:
        ledger.deposit(conn, project="p", usd_micros=10**11, key="deposit", actor="bench", now=1.0)
    made = [a_run(store, folder, f"run-{number}") for number in range(num_runs)]
    with store.begin() as conn:
        for run in made:
            ledger.hold(conn, run, 10**7, key=f"hold:{run.id}", actor="bench", now=1.0)
            for state in ("dryrun", "awaiting_funding", "funded", "launching"):
                run = runs.transition(conn, run.id, old=run.state, new=RunState(state), actor="bench", now=1.0)
            attempts.create(conn, run, kind="train", usd_micros_per_hour=3_600_000, price={}, now=1.0)
    supervisor = Supervisor(store=store, executor_named=lambda name: machine)
    for _ in range(2):
        supervisor.round()
    return supervisor, machine


def round_of(store: Store, num_runs: int) -> dict[str, float]:
    """Nothing happens but that time goes on."""
    (supervisor, _), now = launched(store, num_runs), time.time()
    seen: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *about: seen.append(about[2]))
    supervisor.round(now=now)
    statements = sum(not text.startswith(("PRAGMA", "BEGIN")) for text in seen)
    return {"idle round, CPU s": cpu_ms(lambda: supervisor.round(now=now), 3) / 1000, "statements": statements}


def fit(_store: Store, num_runs: int) -> dict[str, float]:
    dice = random.Random(1)
    seen = [
        Observation(num_params=10 ** dice.uniform(5, 8), num_tokens=10 ** dice.uniform(6, 9), label=str(number),
                    val_bpb=dice.uniform(0.9, 1.6))
        for number in range(num_runs)
    ]  # fmt: skip
    return {"refit, CPU s": cpu_ms(lambda: refit("climbmix", seen), 3) / 1000}


LINES = {
    "record": Line(
        what="a run's record by its steps, 50 in a segment",
        goal="a million steps: < 200 MB, a new event < 5 ms, its curve < 50 ms",
        sizes=(1000, 10_000, 100_000), large=(1_000_000,), costs=record,
    ),
    "sessions": Line(
        what="pages that watch one run of 20,000 steps", goal="< .1 core a session", sizes=(1, 4, 16), costs=sessions
    ),
    "books": Line(
        what="the lab by transfers in its ledger", goal="< 20 ms at a million",
        sizes=(1000, 10_000, 100_000), large=(1_000_000,), costs=books_of,
    ),
    "round": Line(
        what="the supervisor's round by live runs", goal="1,000 runs: <= .2 CPU s idle", sizes=(10, 100, 1000),
        costs=round_of,
    ),
    "fit": Line(what="the loss law by finished runs", goal="1,000 runs: < .1 s", sizes=(10, 100, 1000), costs=fit),
}  # fmt: skip


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float | None:
    """Of size, by least squares over logarithms; None where something cost nothing that can be measured."""
    if min(costs) <= 0 or len(costs) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return round(slope / sum((a - mean_x) ** 2 for a in x), 2)


def measured(name: str, size: int) -> dict[str, float]:
    """In a process and a home of its own."""
    memory = Path("/dev/shm")  # CPU is measured, and a disk only makes it last
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as home:
        environment = os.environ | {"PATRON_HOME": home, "PATRON_LOCAL_USD_PER_HOUR": "0.1"}
        command = [sys.executable, "-m", "tests.bench.growth", "--one", name, str(size)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(LINES), default=sorted(LINES))
    parser.add_argument("--large", action="store_true", help="up to a million; takes minutes")
    parser.add_argument("--one", nargs=2, metavar=("LINE", "SIZE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(LINES[asked.one[0]].costs(Store.open(), int(asked.one[1]))))
        return
    table: dict[str, Any] = {}
    for name in asked.only:
        line = LINES[name]
        sizes = [*line.sizes, *(line.large if asked.large else ())]
        costs = [measured(name, size) for size in sizes]
        by_unit = {unit: [cost[unit] for cost in costs] for unit in costs[0]}
        table[name] = {key: value for key, value in asdict(line).items() if key in ("what", "goal")} | {
            "sizes": sizes,
            "costs": by_unit,
            "exponents": {unit: exponent(sizes, found) for unit, found in by_unit.items()},
        }
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
