"""What a run needs beside its device, held against what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import Trainer

from trainer.contract.exits import EXIT_DONE
from trainer.contract.recipe import make_recipe
from trainer.contract.spec import TrainSpec
from trainer.contract.storage import checkpoint_bytes, disk_bytes, save_host_bytes, upload_s


def test_a_checkpoint_is_as_large_as_was_said(trainer: Trainer, tmp_path: Path) -> None:
    values = trainer.spec(num_steps=2, depth=2)
    assert trainer.train_here(tmp_path / "run", values) == EXIT_DONE
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    written = sum(path.stat().st_size for path in newest.iterdir())
    assert checkpoint_bytes(TrainSpec.from_dict(values).recipe(), 4) == pytest.approx(written, rel=0.03)


def test_what_a_large_run_needs() -> None:
    """Depth 24: checkpoints of 10 GB, which take up to 20 GB of pinned memory; more than 73 GB of disk."""
    recipe = make_recipe(24)
    assert checkpoint_bytes(recipe, 2) == pytest.approx(10e9, rel=0.02)
    assert save_host_bytes(recipe, item_bytes=2, on_cuda=True) == pytest.approx(20e9, rel=0.02)
    assert upload_s(recipe, item_bytes=2, bytes_per_s=100e6) == pytest.approx(100, rel=0.02)
    assert 73e9 < disk_bytes(recipe, item_bytes=2, checkpoint_keep=2, eval_tokens=80 * 524288) < 100e9
    with pytest.raises(ValueError, match="bytes_per_s"):
        upload_s(recipe, item_bytes=2, bytes_per_s=0)
