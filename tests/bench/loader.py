"""How fast the loader gives batches, and how well rows are packed. Prints one JSON object.

    python tests/bench/loader.py [--data stdlib] [--vocab-size 4096] [--sequence-len 512] [--cache FOLDER]

Prepares the data first where the cache has none, and times that too. A small model on one large GPU takes less than
a million tokens/s, and the loader should give twenty times what training takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

from trainer.contract.spec import TrainSpec
from trainer.data import PreparedData, prepare
from trainer.data.loader import TrainLoader
from trainer.data.making import Wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--cache", type=Path, default=Path(os.environ.get("PATRON_CACHE", "~/.cache/patron")).expanduser()
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = TrainSpec.from_dict(
        {
            "depth": 1,
            "data": args.data,
            "vocab_size": args.vocab_size,
            "sequence_len": args.sequence_len,
            "batch_tokens": args.sequence_len,
            "num_steps": 1,
        }
    )
    phases: dict[str, float] = {}
    data = prepare(
        spec,
        args.cache,
        wanted=Wanted(),
        progress=lambda message, _: print(message, file=sys.stderr),
        on_phase=phases.__setitem__,
    )
    print(json.dumps(prepared_figures(data, args, phases) | loader_figures(data, args), indent=1))


def prepared_figures(data: PreparedData, args: argparse.Namespace, phases: dict[str, float]) -> dict[str, float]:
    stored = sum(shard.num_tokens for shard in data.train.known)
    in_rows = data.num_train_tokens // args.sequence_len * (args.sequence_len + 1)
    return {
        "tokenizer_s": round(phases["tokenizer"], 2),
        "data_s": round(phases["data"], 2),
        "train_tokens": stored,
        "bytes_per_token": sum(int(data.token_bytes[s.tokens()].sum()) for s in data.train.known) / stored,
        "thrown_away_fraction": 1 - in_rows / stored,
    }


def loader_figures(data: PreparedData, args: argparse.Namespace) -> dict[str, float]:
    """Whole passes, planning included, until the time is up."""
    tokens = rows = rows_from_bos = 0
    seed = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < args.seconds or not tokens:
        loader = TrainLoader(data, batch_size=args.batch_size, sequence_len=args.sequence_len, seed=seed)
        for _ in range(data.num_train_tokens // args.sequence_len // args.batch_size):
            x_BT, _ = loader.next()
            tokens += x_BT.numel()
            rows += len(x_BT)
            rows_from_bos += int((x_BT[:, 0] == data.bos_id).sum())
        seed += 1
    return {"loader_tokens_per_s": round(tokens / elapsed), "rows_from_bos_fraction": rows_from_bos / rows}


if __name__ == "__main__":
    main()
