"""Play worlds and print what happened as JSON; exit code 1 where a promise was broken.

python -m tests.chaos --worlds 2000
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from .world import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--worlds", type=int, default=200, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="side by side (default %(default)s)")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # thousands of lines about what is meant to fail
    began = time.monotonic()
    seeds = range(args.seed, args.seed + args.worlds)
    total: Counter[str] = Counter()
    broken: list[str] = []
    with ProcessPoolExecutor(args.processes) as pool:
        for happened, broke in pool.map(play, [seeds[first :: args.processes] for first in range(args.processes)]):
            total += happened
            broken += broke
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({**dict(sorted(total.items())), "seconds": seconds, "broken": broken}, indent=2))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
