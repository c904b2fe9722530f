"""nanochat's validation stream: each row begins with BOS; token for token what upstream's loader gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_data_packing import numbered_data, write_shard
from training import Trainer

from trainer.contract.spec import TrainSpec
from trainer.data.bestfit import best_fit_rows, documents_again_and_again
from trainer.data.feed import Made
from trainer.data.loader import bos_val_batches
from trainer.data.prepare import prepare

CHECKOUT = Path(os.environ.get("PATRON_NANOCHAT", ""))  # a checkout of karpathy/nanochat
BOS = 0


def documents(*lengths: int) -> list[np.ndarray]:
    """BOS, then numbers that no other document has."""
    made, first = [], 1
    for length in lengths:
        made.append(np.array([BOS, *range(first, first + length - 1)]))
        first += length - 1
    return made


def test_a_row_takes_the_longest_that_fits_and_crops_the_shortest() -> None:
    rows = best_fit_rows([documents(5, 4, 9, 3, 3, 3, 3)], capacity=8, buffered=1)
    # 5 and the first of the threes; 4, a three and a token of the next; a three, and of the 9 what fits
    assert [row.tolist() for row in rows] == [
        [0, 1, 2, 3, 4, 0, 16, 17],
        [0, 5, 6, 7, 0, 18, 19, 0],
        [0, 22, 23, 0, 8, 9, 10, 11],
    ]


def test_every_row_begins_with_bos_and_the_stream_begins_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shards = [write_shard(tmp_path, n, documents(*rng.integers(2, 90, 400))) for n in range(2)]
    rows = list(islice(best_fit_rows(documents_again_and_again(Made(shards)), 33, buffered=50), 3000))
    assert all(row[0] == BOS for row in rows)
    total = sum(shard.num_tokens for shard in shards)
    assert total < 3000 * 33  # it went round
    assert len({tuple(row) for row in rows}) > 0.3 * total / 33


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_stream(tmp_path: Path, world_size: int) -> None:
    data = numbered_data(tmp_path, [[7, 12, 9, 30, 5] * 300])
    alone = [x for x, _ in bos_val_batches(data, 4, 16, 40 * 16)]
    shared = [
        [x for x, _ in bos_val_batches(data, 4, 16, 40 * 16, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    assert len(alone) == 10
    for number, batch in enumerate(alone):
        assert (shared[number % world_size][number // world_size] == batch).all()


def test_a_run_reports_both(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRON_CACHE", str(trainer.folder / "cache"))
    code = trainer.train_here(tmp_path / "run", trainer.spec(num_steps=4, bos_eval_tokens=2048))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert code == 0
    assert result["val_bpb_bos"] != result["val_bpb"]
    assert result["val_bpb_bos"] == pytest.approx(result["val_bpb"], rel=0.05)
    events = [json.loads(line) for f in (tmp_path / "run" / "events").glob("*") for line in f.read_text().splitlines()]
    (metrics,) = (e["metrics"] for e in events if "val/bpb_bos" in e.get("metrics", {}))
    assert metrics["val/bpb_bos"] == result["val_bpb_bos"]


_UPSTREAM = """
import sys, json
import numpy as np
sys.path.insert(0, sys.argv[1])
from nanochat.dataloader import tokenizing_distributed_data_loader_bos_bestfit as loader
from tokenizers import Tokenizer
class Ours:
    def __init__(self, path):
        self.inner = Tokenizer.from_file(path)
    def get_bos_token_id(self):
        return int(sys.argv[4])
    def encode(self, texts, prepend, num_threads):
        return [[prepend, *e.ids] for e in self.inner.encode_batch(texts, add_special_tokens=False)]
batches = loader(Ours(sys.argv[2]), 4, 64, "val", device="cpu")
rows = [np.concatenate([x.numpy(), y.numpy()[:, -1:]], axis=1) for (x, y), _ in zip(batches, range(1500))]
np.save(sys.argv[3], np.concatenate([row.copy() for row in rows]))
"""


@pytest.mark.skipif(not (CHECKOUT / "nanochat/dataloader.py").is_file(), reason="PATRON_NANOCHAT is no checkout of it")
def test_it_is_upstreams_stream_token_for_token(tmp_path: Path) -> None:
    """On the same parquet, of which the last file is held out in both; 6000 rows, more than once round."""
    pytest.importorskip("pyarrow")
    rng, words = np.random.default_rng(1), ["the", "cat", "sat", "mat", "ran", "big", "and", "house", "sky"]
    folder = tmp_path / "base_data_climbmix"
    folder.mkdir()
    for number, count in enumerate((1500, 2048 + 300)):
        texts = [" ".join(rng.choice(words, rng.integers(3, 150))) for _ in range(count)]
        pl.DataFrame({"text": texts}).write_parquet(folder / f"shard_{number:05d}.parquet", row_group_size=1024)
    spec = TrainSpec.from_dict(
        {
            "depth": 1,
            "sequence_len": 64,
            "vocab_size": 512,
            "num_steps": 2,
            "batch_tokens": 256,
            "data": f"path:{folder}",
        }
    )
    data = prepare(spec, tmp_path / "cache")
    held_out = pl.read_parquet(folder / "shard_00001.parquet")["text"].to_list()
    encoded = list(data.tokenizer().encode_documents(held_out, np.dtype("<u2")))
    ours = list(islice(best_fit_rows(documents_again_and_again(Made([write_shard(tmp_path, 7, encoded)])), 65), 6000))
    arguments = (CHECKOUT, data.tokenizer_path, tmp_path / "rows.npy", data.bos_id)
    done = subprocess.run(
        [sys.executable, "-c", _UPSTREAM, *map(str, arguments)],
        env=os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (np.load(tmp_path / "rows.npy") == np.stack(ours)).all()
