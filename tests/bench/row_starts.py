"""Which rows train better: ours, none cropped, or nanochat's, each of which begins with BOS and is cropped to fit?

python -m tests.bench.row_starts --seeds 6 --steps 250          prints one JSON line a run, then the comparison

Pairs of seeds, the same number of steps, rows and tokens; both are measured on both validation streams. The documents
are the standard library's methods, so that one is to a row about what a page of the web is to 2048 tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from patron_core.scaling.seeds import compare_groups
from tests.bench.sides import training_loop
from tests.corpus import some_texts
from trainer.contract.spec import TrainSpec
from trainer.data import PreparedData, prepare
from trainer.data.bestfit import best_fit_rows, documents_again_and_again
from trainer.data.feed import Made
from trainer.data.shards import TokenShard

CORPUS_BYTES = 12_000_000
CAPACITY = 129


def corpus(folder: Path) -> Path:
    packages = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(packages.glob("*.py")) + sorted(packages.glob("*/*.py"))
    pieces = [piece for text in some_texts(files, CORPUS_BYTES) for piece in text.split("\n\n") if len(piece) > 40]
    random.Random(1).shuffle(pieces)
    path = folder / "corpus.parquet"
    pl.DataFrame({"text": pieces}).write_parquet(path)
    return path


def bos_data(data: PreparedData, folder: Path, rows: int) -> PreparedData:
    """The same, of nanochat's rows: each is a document of exactly a row, so that no other row can be cut of them."""
    made = np.stack(list(islice(best_fit_rows(_once(data), CAPACITY), rows)))
    tokens, offsets = folder / "bos.tokens", folder / "bos.offsets"
    made.astype("<u4").tofile(tokens)
    (np.arange(len(made) + 1) * CAPACITY).astype("<i8").tofile(offsets)
    shard = TokenShard(
        tokens_path=tokens, offsets_path=offsets, dtype="<u4", num_tokens=made.size, num_documents=len(made),
        tokens_sha256="", offsets_sha256="",
    )  # fmt: skip
    assert len(made) == rows, f"{len(made)} rows, {rows} wanted: take fewer steps"
    return replace(data, train=Made([shard]), num_train_tokens=made.size)


def _once(data: PreparedData) -> Iterator[list[np.ndarray]]:
    left = sum(shard.num_documents for shard in data.train.known)
    for batch in documents_again_and_again(data.train):
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--eval-tokens", type=int, default=32768)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="row-starts-"))
    asked = {
        "depth": 1, "sequence_len": CAPACITY - 1, "vocab_size": 1024, "batch_tokens": 1024, "device_batch_size": 8,
        "num_steps": args.steps, "eval_every_steps": 0, "eval_tokens": args.eval_tokens, "device": "cpu",
        "checkpoint_every_s": 0, "data": f"path:{corpus(folder)}",
    }  # fmt: skip
    spec = TrainSpec.from_dict(asked)
    data = prepare(spec, folder / "cache")
    arms = {"none cropped": data, "begin with BOS": bos_data(data, folder, args.steps * 8)}
    found: dict[str, dict[str, list[float]]] = {"packed": {}, "bos": {}}
    for seed in range(args.seeds):
        for name, of in arms.items():
            run = folder / f"{name.replace(' ', '-')}-{seed}"
            run.mkdir()
            loop = training_loop(replace(spec, seed=seed), of, run)
            loop.run(args.steps)
            bits = {"packed": loop.position.val_bpb or 0.0, "bos": loop.evaluate(args.eval_tokens, bos=True).val_bpb}
            print(json.dumps({"rows": name, "seed": seed} | bits), flush=True)
            for stream, value in bits.items():
                found[stream].setdefault(name, []).append(value)
    print(json.dumps({stream: compare_groups(values).to_dict() for stream, values in found.items()}))


if __name__ == "__main__":
    main()
