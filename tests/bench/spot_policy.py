"""What the spot policy saves against on-demand and against greedy, and whether it is ever late: one JSON object.

    python tests/bench/spot_policy.py                          made-up traces: exponential, diurnal, bursty
    python tests/bench/spot_policy.py --traces FOLDER          and the public ones (a clone of skypilot-org/spot-traces)

As in Wu et al. (NSDI 2024): change-over 0.2 h, a decision each ten minutes, spot at a third of the price, 48 h of work;
`--hours` asks for shorter runs. Costs are shares of on-demand's from the start.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from spot_traces import bursty, diurnal, exponential, read_trace

from patron_core.market.simulate import Policy, simulate
from patron_core.market.spot_policy import Terms, choose_greedily, choose_machine

HOUR = 3600.0
FRACTIONS = (0.6, 0.7, 0.8, 0.9, 0.95)  # work over deadline: higher is tighter
Draw = Callable[[int], Sequence[bool]]  # steps -> a trace of that many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="a folder of public traces")
    parser.add_argument("--num", type=int, default=100, help="traces of each kind and deadline")
    parser.add_argument("--hours", type=float, default=48.0, help="of work")
    parser.add_argument("--step-s", type=float, default=600.0, help="of made-up traces, and between decisions")
    parser.add_argument("--loss-s", type=float, default=0.0, help="work between checkpoints; the paper loses none")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    rng = random.Random(args.seed)
    answer: dict[str, object] = {"num": args.num, "hours": args.hours, "loss_s": args.loss_s, "seed": args.seed}
    for make in (exponential, diurnal, bursty):

        def draw(num_steps: int, make=make) -> list[bool]:
            return make(rng, num_steps=num_steps, step_s=args.step_s)

        answer[make.__name__] = by_fraction(draw, args.step_s, args)
    if args.traces:
        for path in sorted(args.traces.glob("availability/1-node/*/*.json")):
            trace, gap_s = read_trace(path)

            def cut(num_steps: int, trace=trace) -> list[bool]:
                first = rng.randrange(max(1, len(trace) - num_steps))
                return trace[first : first + num_steps]

            answer[f"{path.parent.name}/{path.stem}"] = by_fraction(cut, gap_s, args)
    answer["wall_s"] = round(time.perf_counter() - start, 1)
    print(json.dumps(answer))


def by_fraction(draw: Draw, step_s: float, args: argparse.Namespace) -> dict[str, object]:
    found: dict[str, object] = {}
    late, totals = 0, {"ours": 0.0, "greedy": 0.0}
    up = steps = 0
    for fraction in FRACTIONS:
        terms = Terms(
            work_s=args.hours * HOUR,
            deadline_s=args.hours * HOUR / fraction,
            restart_s=0.2 * HOUR,
            decide_every_s=step_s,
            loss_s=args.loss_s,
            spot_price_share=1 / 3,
        )
        if not terms.feasible:
            continue
        traces = [draw(math.ceil(terms.deadline_s / step_s)) for _ in range(args.num)]
        up += sum(map(sum, traces))
        steps += sum(map(len, traces))
        shares = {}
        for name, policy in (("ours", choose_machine), ("greedy", choose_greedily)):
            cost, num_late = run_all(policy, terms, traces, step_s)
            shares[name] = round(cost, 3)
            totals[name] += cost / len(FRACTIONS)
            late += num_late
        found[f"{fraction:.2f}"] = shares
    return {
        "cost_over_on_demand": found,
        "saves_of_on_demand": round(1 - totals["ours"], 3),
        "saves_of_greedy": round(1 - totals["ours"] / totals["greedy"], 3),
        "spot_available": round(up / steps, 2),
        "late": late,
    }


def run_all(policy: Policy, terms: Terms, traces: Sequence[Sequence[bool]], step_s: float) -> tuple[float, int]:
    """(mean cost as a share of on-demand's, runs that were late)."""
    on_demand = (terms.work_s + terms.restart_s) / HOUR
    seen = [simulate(policy, terms, trace, step_s=step_s) for trace in traces]
    return sum(one.cost(terms) for one in seen) / len(seen) / on_demand, sum(one.late for one in seen)


if __name__ == "__main__":
    main()
