"""Killed at fifty random moments, the run is the same run: every loss and the final tensors, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from forking import Forkery
from training import PATIENCE_S, Trainer, events, losses, result

from trainer.contract.layout import newest_checkpoint_name

NUM_KILLS = 50
SEED = 20
STEPS = 40
SHORTEST_S = 0.02  # a forked process has its signal handlers by then


@pytest.fixture(scope="module")
def forkery(trainer: Trainer) -> Iterator[Forkery]:
    made = Forkery(trainer.environ(), trainer.folder / "forked.log")
    yield made
    made.close()


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    runs: int = 0
    hit_while_saving: int = 0


def spec_changes() -> dict[str, int]:
    return {"num_steps": STEPS, "checkpoint_every_steps": 3, "eval_every_steps": 10, "eval_tokens": 4096}


def test_fifty_kills_change_nothing(trainer: Trainer, forkery: Forkery, tmp_path: Path) -> None:
    rng, tally = random.Random(SEED), Tally()
    for whole in (tmp_path / "prepares-data", tmp_path / "uninterrupted"):
        began = time.monotonic()
        forkery.start(arguments(trainer, whole))
        assert forkery.wait() == 0
        whole_s = time.monotonic() - began
    while tally.kills.total() < NUM_KILLS:
        run_dir = tmp_path / f"run-{tally.runs}"
        run_until_done(trainer, forkery, run_dir, rng, whole_s, tally)
        compare(run_dir, whole, tally)
        tally.runs += 1
    print(f"{tally}; uninterrupted {whole_s:.2f} s")
    assert tally.kills["SIGKILL"] >= 20
    assert tally.kills["SIGTERM"] >= 5
    assert tally.hit_while_saving >= 3
    assert tally.compared >= 4 * STEPS


def arguments(trainer: Trainer, run_dir: Path) -> list[str]:
    command = trainer.command(run_dir, trainer.spec(**spec_changes()), "--attempt", "r-train-1")
    return command[command.index("trainer.train") + 1 :]


def run_until_done(
    trainer: Trainer, forkery: Forkery, run_dir: Path, rng: random.Random, whole_s: float, tally: Tally
) -> None:
    """Start, kill at a random moment, start again, until a process comes through."""
    for _ in range(NUM_KILLS + 1):
        newest = newest_checkpoint_name(run_dir)
        signal_number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        in_a_save, delay_s = rng.random() < 0.3, rng.uniform(SHORTEST_S, whole_s)
        if tally.kills.total() >= NUM_KILLS:
            delay_s = PATIENCE_S
        started_at = time.time()
        pid = forkery.start(arguments(trainer, run_dir))
        if in_a_save and delay_s < PATIENCE_S:
            signal_number = signal.SIGKILL
            wait_for_a_write(run_dir, pid)
        else:
            wait_for_end(pid, delay_s)
        kill(pid, signal_number)
        code = forkery.wait()
        check_resumed(run_dir, started_at, newest)
        if code == 0:
            return
        assert code in ({-9} if signal_number == signal.SIGKILL else {75}), code
        tally.kills[signal_number.name] += 1
        tally.hit_while_saving += any((run_dir / "checkpoints").glob(".tmp-*"))
        if code == 75:
            check_told_which(run_dir)
    raise AssertionError(f"{run_dir} never came to its end")


def wait_for_a_write(run_dir: Path, pid: int) -> None:
    """Until a checkpoint is being written, or the process has ended."""
    while is_alive(pid) and not any((run_dir / "checkpoints").glob(".tmp-*/*")):
        time.sleep(0.0005)


def wait_for_end(pid: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int, number: signal.Signals) -> None:
    if is_alive(pid):
        os.kill(pid, number)


def check_resumed(run_dir: Path, started_at: float, newest: str | None) -> None:
    """The process went on from the newest checkpoint that was there, if it lived long enough to say so."""
    for start in [event for event in events(run_dir, "start") if event["time"] >= started_at]:
        assert start["resumed_step"] == (int(newest.removeprefix("step-")) if newest else None)


def check_told_which(run_dir: Path) -> None:
    """The last word names what there is to resume from."""
    message, newest = result(run_dir)["message"], newest_checkpoint_name(run_dir)
    if "with a checkpoint of it" in message:
        assert newest == f"step-{result(run_dir)['step']:06d}"
    else:
        assert (newest or "no checkpoint yet") in message


def compare(run_dir: Path, whole: Path, tally: Tally) -> None:
    found, expected = losses(run_dir), losses(whole)
    for step, loss in found.items():
        assert loss == expected[step], f"step {step}: {loss}, uninterrupted {expected[step]}"
    tally.compared += len(events(run_dir, "metrics"))
    numbers = [event["seq"] for event in events(run_dir)]
    assert len(numbers) == len(set(numbers))
    evals = {event["step"]: event["val_bpb"] for event in events(whole, "eval")}
    for event in events(run_dir, "eval"):
        assert event["val_bpb"] == evals[event["step"]]
    for name in ("model", "optimizer"):
        ours, theirs = (torch.load(d / f"checkpoints/step-{STEPS:06d}/{name}.pt") for d in (run_dir, whole))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"
