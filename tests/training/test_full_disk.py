"""A real training on a real disk that is full for a while: every step is in the record, once, and the gap is said."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from record import all_events, curve
from training import PATIENCE_S, Trainer, result, wait_for

from patron_core.rundir.rundir import RunDir
from trainer.contract.exits import EXIT_RESUME

STEPS = 260


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 MB. Only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode != 0:
        pytest.skip(f"a small disk needs root and mount: {done.stderr.strip() if done else 'not root'}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves not one byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return ballast


@pytest.mark.timeout(240)
def test_a_disk_that_is_full_for_a_while_costs_no_step_of_the_record(trainer: Trainer, small_disk: Path) -> None:
    run_dir = small_disk / "run"
    spec = trainer.spec(depth=3, num_steps=STEPS, eval_every_steps=0, checkpoint_every_steps=100_000)
    process = trainer.start(run_dir, spec)
    said: list[str] = []
    assert process.stderr is not None
    reading = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    reading.start()
    try:
        wait_for(lambda: any(event.kind == "metrics" for event in all_events(RunDir(run_dir))), process)
        ballast = fill(small_disk)
        wait_for(lambda: any("events: No space left on device" in line for line in said), process)
        before_s = sum(psutil.Process(process.pid).cpu_times()[:2])
        wait_for(lambda: sum(psutil.Process(process.pid).cpu_times()[:2]) > before_s + 0.5, process)
        ballast.unlink()
        wait_for(lambda: any(event.kind == "warning" for event in all_events(RunDir(run_dir))), process)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        reading.join(PATIENCE_S)
        process.stderr.close()
    assert process.returncode == EXIT_RESUME, "".join(said)
    events, cursor = RunDir(run_dir).read_events()
    assert [step for step, _ in curve(events, "train/loss")] == list(range(1, result(run_dir)["step"] + 1))
    assert (cursor["garbage_lines"], cursor["missing_segments"]) == (0, 0)
    assert any("the disk took no events for" in str(event.data.get("message")) for event in events)
    assert events[-1].kind == "end"
