"""CORE of a checkpoint: 22 tasks that nanochat reports (.2565 is GPT-2), from task files in a folder.

    python -m trainer.core RUN_DIR --bundle FOLDER                 all of it; prints each task as it is done
    python -m trainer.core RUN_DIR --bundle FOLDER --price         tokens and seconds that it takes; computes nothing
    python -m trainer.core RUN_DIR --bundle FOLDER --max-per-task 100

The folder is nanochat's eval_bundle, unzipped. What is done so far is in RUN_DIR/core/; interrupted (Ctrl-C, SIGTERM:
exit code 75) it goes on there when it is started again. Exit codes: 0 done; 75 go on later; 1 nothing to measure.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.contract.exits import EXIT_DONE, EXIT_ERROR, EXIT_RESUME
from trainer.contract.files import read_json, write_json
from trainer.contract.layout import CORE, EVENTS, SPEC
from trainer.contract.spec import TrainSpec
from trainer.contract.words import printable
from trainer.runtime.console import say

SAVE_EVERY_S = 20.0


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    from trainer.contract.core_tasks import BundleError
    from trainer.sampling.loading import LoadError

    try:
        return _price(args) if args.price else _measure(args)
    except (LoadError, BundleError) as error:
        if args.json:
            print(json.dumps({"error": {"code": error.code, "message": error.problem, "next": error.next}}))
        say(f"core: {error}")
        return EXIT_ERROR


def _measure(args: argparse.Namespace) -> int:
    import torch

    from trainer.contract.core_tasks import fingerprint, read_bundle
    from trainer.sampling.core_scores import is_right
    from trainer.sampling.loading import load_talker

    tasks = read_bundle(args.bundle, args.max_per_task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    talker = load_talker(args.run_dir, which=args.step, device=device, warn=lambda text: say(f"warning: {text}"))
    path = args.run_dir / CORE / f"step-{talker.checkpoint.step:06d}.json"
    asked = {"step": talker.checkpoint.step, "max_per_task": args.max_per_task, "bundle": fingerprint(tasks)}
    found = read_json(path) or {}
    if {key: found.get(key) for key in asked} != asked:
        found = asked | {"tasks": {}}
    stopped: list[int] = []
    before = {number: signal.signal(number, _note(stopped)) for number in (signal.SIGINT, signal.SIGTERM)}
    path.parent.mkdir(exist_ok=True)
    saved_at = time.monotonic()
    try:
        for task in tasks:
            row = found["tasks"].setdefault(task.label, {"done": 0, "right": 0})
            while row["done"] < len(task.items):
                if stopped or time.monotonic() - saved_at > SAVE_EVERY_S:
                    write_json(path, found)
                    saved_at = time.monotonic()
                if stopped:
                    say(f"interrupted in {task.label} after {row['done']} of {len(task.items)}; start again to go on")
                    return EXIT_RESUME
                row["right"] += is_right(talker.model, talker.tokenizer, task, row["done"])
                row["done"] += 1
            accuracy = row["right"] / row["done"]
            row |= {"accuracy": accuracy, "centred": task.centred(accuracy)}
            say(f"{task.label}: {accuracy:.4f}, centred {row['centred']:+.4f}, of {row['done']}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    found["core"] = sum(row["centred"] for row in found["tasks"].values()) / len(tasks)
    write_json(path, found)
    print(printable(json.dumps(found) if args.json else f"CORE {found['core']:.4f}"))
    return EXIT_DONE


def _price(args: argparse.Namespace) -> int:
    """By the tokens of a tenth of the items, and by how fast this run's own evaluations were."""
    from trainer.contract.core_tasks import count_tokens, read_bundle
    from trainer.sampling.loading import find_tokenizer

    tasks, tokenizer = read_bundle(args.bundle, args.max_per_task), find_tokenizer(args.run_dir)
    context = TrainSpec.from_dict(read_json(args.run_dir / SPEC) or {}).sequence_len
    tokens = count_tokens(tasks, lambda text: len(tokenizer.encode(text)), context)
    speed = _eval_tokens_per_s(args.run_dir)
    found = {"tokens": round(tokens), "tokens_per_s": speed, "seconds": tokens / speed if speed else None}
    took = f"about {found['seconds']:.0f} s at this run's own evaluations" if speed else "this run was never evaluated"
    print(printable(json.dumps(found) if args.json else f"{found['tokens']:,} tokens: {took}"))
    return EXIT_DONE


def _eval_tokens_per_s(run_dir: Path) -> float | None:
    """The newest evaluation's."""
    for path in sorted((run_dir / EVENTS).glob("*.jsonl"), reverse=True):
        for line in reversed(path.read_text(encoding="utf-8").splitlines()):
            event: dict[str, Any] = json.loads(line) if '"eval"' in line else {}
            if event.get("kind") == "eval" and event.get("seconds"):
                return float(event["tokens"]) / float(event["seconds"])
    return None


def _note(stopped: list[int]) -> Any:
    def note(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    return note


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.core", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="task files: nanochat's bundle")
    parser.add_argument("--step", type=int, metavar="N", help="another checkpoint than the newest whole one")
    parser.add_argument("--max-per-task", type=int, metavar="N", help="so many items of each task, not all")
    parser.add_argument("--price", action="store_true", help="say what it takes, and compute nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.max_per_task is not None and args.max_per_task < 1:
        parser.error(f"--max-per-task {args.max_per_task}: allowed 1 or more")
    return args


if __name__ == "__main__":
    sys.exit(main())
