"""Checkpoints: whole or absent, kept as asked, and never trusted without their manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.checkpoint.checkpoint import Checkpointer, CheckpointError, Snapshot, save_interval_s


def snapshot(step: int, val_bpb: float | None = None) -> Snapshot:
    files = {"model": {"w": torch.full((50,), float(step))}, "optimizer": {"m": torch.arange(5)}, "rng": {}}
    return Snapshot(step=step, files=files, state={"val_bpb_here": val_bpb, "loader": {"row": step}})


def steps(checkpointer: Checkpointer) -> list[str]:
    return sorted(path.name for path in checkpointer.folder.iterdir())


def never_warn(code: str, message: str) -> None:
    pytest.fail(f"{code}: {message}")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    report = Checkpointer(tmp_path, keep=2).save(snapshot(3, 1.5))
    found = Checkpointer(tmp_path, keep=2).newest_valid(never_warn)
    assert found is not None
    assert (found.step, found.path, found.state["loader"]) == (3, report.path, {"row": 3})
    assert torch.equal(found.load("model")["w"], torch.full((50,), 3.0))
    manifest = json.loads((found.path / "manifest.json").read_text())
    sizes = {name: (found.path / name).stat().st_size for name in manifest["files"]}
    assert sizes == {name: entry["bytes"] for name, entry in manifest["files"].items()}
    assert report.num_bytes == sum(sizes.values())


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step, val_bpb in [(1, 2.0), (2, 1.0), (3, 1.2), (4, None), (5, 1.1)]:
        checkpointer.save(snapshot(step, val_bpb))
    assert steps(checkpointer) == ["step-000002", "step-000004", "step-000005"]


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt").write_bytes(content)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "optimizer.pt", 10)


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1, "fil')


def lose_a_file(folder: Path) -> None:
    (folder / "rng.pt").unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, lose_the_manifest, tear_the_manifest, lose_a_file])
def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    checkpointer = Checkpointer(tmp_path, keep=3)
    checkpointer.save(snapshot(1))
    damage(checkpointer.save(snapshot(2)).path)
    warnings: list[str] = []
    found = checkpointer.newest_valid(lambda code, message: warnings.append(f"{code}: {message}"))
    assert found is not None
    assert found.step == 1
    assert len(warnings) == 1
    assert warnings[0].startswith("checkpoint_damaged: step-000002 is not used: ")
    checkpointer.save(snapshot(2))  # the same step again, whole this time
    assert steps(checkpointer) == ["step-000001", "step-000002"]
    again = checkpointer.newest_valid(never_warn)
    assert again is not None
    assert again.step == 2


def test_none_is_valid_when_all_are_damaged(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    flip_a_byte(checkpointer.save(snapshot(1)).path)
    assert checkpointer.newest_valid(lambda *_: None) is None


def test_a_half_written_one_is_swept_away_at_the_next_start(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / ".tmp-step-000009"
    half.mkdir(parents=True)
    (half / "model.pt").write_bytes(b"half")
    checkpointer = Checkpointer(tmp_path, keep=2)
    assert steps(checkpointer) == []


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from trainer.checkpoint.checkpoint import Checkpointer, CheckpointError, Snapshot
checkpointer = Checkpointer(Path(sys.argv[1]), keep=1)
def snapshot(step):
    return Snapshot(step=step, files={"model": {"w": torch.ones(500_000)}}, state={"val_bpb_here": None})
checkpointer.save(snapshot(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    checkpointer.save(snapshot(2))
except CheckpointError as error:
    print(error)
    print(checkpointer.newest_valid(print).step, [path.name for path in checkpointer.folder.iterdir()])
"""


def test_a_disk_that_takes_no_more_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    message, left = done.stdout.splitlines()
    assert message.startswith("checkpoint of step 2 failed ([Errno 27] File too large): it needs 2,000,000 bytes in ")
    assert "Free some space or lower checkpoint_keep. Still there: step-000001" in message
    assert left == "1 ['step-000001']"


def test_a_save_that_fails_says_when_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(tmp_path, keep=1)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(CheckpointError, match=r"No space left on device.*No older checkpoint exists"):
        checkpointer.save(snapshot(1))
    assert steps(checkpointer) == []


def test_dearer_saves_are_rarer_and_never_closer_than_fifteen_seconds() -> None:
    assert save_interval_s(stall_s=0.0, write_s=0.1) == save_interval_s(stall_s=0.01, write_s=0.1) == 15.0
    assert save_interval_s(stall_s=1.0, write_s=5.0) == 120.0
    assert save_interval_s(stall_s=4.0, write_s=5.0) == 240.0


def test_a_save_is_never_due_before_the_last_one_has_long_been_written() -> None:
    assert save_interval_s(stall_s=0.01, write_s=100.0) == 300.0
