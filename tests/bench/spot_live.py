"""The live deadline policy on public traces: launch, supervisor and ledger, on a machine of two prices; JSON.

    python tests/bench/spot_live.py FOLDER       a clone of skypilot-org/spot-traces, or its availability/1-node

Of each trace `--num` stretches for each of the deadlines. Costs are shares of on demand's from the start; spot costs
a third.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from market_machine import HOUR, ON_DEMAND_HOURLY, play, quotes
from spot_traces import read_trace

from patron_core import verbs
from patron_core.machines.target import Target
from patron_core.states import EndReason
from patron_core.store import Store, ledger

START_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--hours", type=float, default=8.0, help="of work")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.6, 0.8], help="work over deadline")
    parser.add_argument("--num", type=int, default=1, help="stretches of each trace and deadline")
    parser.add_argument("--tick-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began, rng, table = time.perf_counter(), random.Random(args.seed), []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        patches = (
            mock.patch.dict(os.environ, {"PATRON_HOME": home}),
            mock.patch.object(Target, "quote", lambda self, **_: quotes()[not self.spot]),
            mock.patch.object(verbs.free_checks, "before_launch"),
        )
        for patch in patches:
            patch.start()
        store, number = Store.open(f"sqlite:///{home}/patron.db"), 0
        for path in sorted(args.traces.rglob("1-node/*/*.json")):
            if "availability" not in path.parts:
                continue
            trace, gap_s = read_trace(path)
            seen = []
            for fraction in args.fractions:
                finish_s = args.hours * HOUR / fraction
                for _ in range(args.num):
                    number += 1
                    first = rng.randrange(max(1, len(trace) - int(finish_s / gap_s)))
                    cut = trace[first : first + int(finish_s / gap_s) + 1]
                    seen.append(one(store, number, cut, gap_s, finish_s, args))
            table.append(row(path, seen))
            print(json.dumps(table[-1]), file=sys.stderr, flush=True)
        wall_s = round(time.perf_counter() - began, 1)
        print(json.dumps({"hours": args.hours, "fractions": args.fractions, "traces": table, "wall_s": wall_s}))


def one(store: Store, number: int, cut: list[bool], gap_s: float, finish_s: float, args: argparse.Namespace) -> dict:
    work_s = args.hours * HOUR
    played = play(
        store, number, cut, work_s=work_s, finish_s=finish_s, start_s=START_S, every_s=600.0, tick_s=args.tick_s,
        trace_step_s=gap_s,
    )  # fmt: skip
    money = ledger.run_money(store, played.run.id)
    on_demand = ON_DEMAND_HOURLY * (work_s + START_S) / HOUR
    return {
        "there": sum(cut) / len(cut),
        "cost": money.charged_usd_micros / on_demand,
        "late": played.is_late,
        "over_hold": money.charged_usd_micros > money.funded_usd_micros,
        "reclaims": played.machine.reclaims,
        "switches": sum(a.reason is EndReason.SWITCHED for a in played.made),
    }


def row(path: Path, seen: list[dict]) -> dict:
    return {
        "trace": f"{path.parent.name}/{path.stem}",
        "there": round(sum(s["there"] for s in seen) / len(seen), 2),
        "cost_over_on_demand": [round(s["cost"], 2) for s in seen],
        "reclaims": sum(s["reclaims"] for s in seen),
        "switches": sum(s["switches"] for s in seen),
        "late": sum(s["late"] for s in seen),
        "over_hold": sum(s["over_hold"] for s in seen),
    }


if __name__ == "__main__":
    main()
