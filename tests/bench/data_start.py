"""Seconds and documents from a process's start to data that training can begin with, for horizons of growing length.

    python -m tests.bench.data_start [--vocab-size 8192] [--horizons 100 1000] [--data stdlib]        JSON on stdout

Three starts of each horizon: with an empty cache, with the tokenizer at hand, and with all at hand. A process of its
own each time, as a trainer's is, without torch. `documents` are those that were tokenised when training could begin.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--horizons", type=int, nargs="+", default=[100, 1000], help="steps of 4096 tokens")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--child", metavar="CACHE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(begin(args, Path(args.child))))
        return
    rows = []
    for steps in args.horizons:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "tokenizer", "all"):
                if state == "tokenizer":
                    subprocess.run(["rm", "-rf", f"{cache}/tokens"], check=True)
                rows.append({"num_steps": steps, "cache": state, **start(args, steps, cache)})
                if state == "tokenizer":
                    start(args, steps, cache, until_all=True)
    print(json.dumps({"goal_s": GOAL_S, "starts": rows}, indent=1))


def start(args: argparse.Namespace, steps: int, cache: str, *, until_all: bool = False) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.data_start", "--child", cache, "--data", args.data]
    command += ["--vocab-size", str(args.vocab_size), "--horizons", str(steps), *(["0"] if until_all else [])]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {"wall_s": round(time.perf_counter() - began, 2), **found}


def begin(args: argparse.Namespace, cache: Path) -> dict[str, float]:
    from trainer.contract.spec import TrainSpec
    from trainer.data.ahead import Order
    from trainer.data.making import Wanted
    from trainer.data.prepare import horizon_rows, prepare_beside

    given = {"depth": 1, "sequence_len": 512, "vocab_size": args.vocab_size, "batch_tokens": 4096, "data": args.data}
    spec = TrainSpec.from_dict(given | {"num_steps": args.horizons[0]})
    wanted = Wanted(end_row=horizon_rows(spec), val_rows=8)
    data, ahead = prepare_beside(Order(spec=spec, cache=cache), wanted)
    documents = sum(shard.num_documents for shard in (*data.train.known, *data.val.known))
    ahead.close(600.0 if args.horizons[-1] == 0 else 0.0)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"documents": documents, "cpu_s": round(sum(each.ru_utime + each.ru_stime for each in used), 2)}


if __name__ == "__main__":
    main()
