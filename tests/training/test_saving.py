"""Saves in the background: what is written is what was copied, one write at a time, failures are heard of."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from trainer.checkpoint.checkpoint import Checkpointer, CheckpointError, SaveReport, Snapshot
from trainer.checkpoint.saving import FIRST_SAVE_AFTER_S, BackgroundSaver, HostCopies, SaveSchedule


def snapshot(step: int, weights: torch.Tensor) -> Snapshot:
    return Snapshot(step=step, files={"model": {"w": weights}, "rng": {}}, state={"val_bpb_here": None})


def loaded(checkpointer: Checkpointer) -> tuple[int, torch.Tensor]:
    found = checkpointer.newest_valid(lambda code, message: pytest.fail(f"{code}: {message}"))
    assert found is not None
    return found.step, found.load("model")["w"]


class Held:
    """A disk that takes nothing until it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.reached, self.go = threading.Event(), threading.Event()
        real_save = torch.save

        def save(*args: object, **kwargs: object) -> None:
            self.reached.set()
            assert self.go.wait(60)
            real_save(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(torch, "save", save)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def test_training_goes_on_while_the_copy_is_written(tmp_path: Path, held: Held) -> None:
    checkpointer, weights = Checkpointer(tmp_path, keep=2), torch.full((50,), 1.0)
    reports: list[tuple[int, SaveReport]] = []
    saver = BackgroundSaver(checkpointer, on_saved=lambda step, report: reports.append((step, report)))
    saver.start(snapshot(1, weights))
    assert held.reached.wait(60)
    weights.fill_(2.0)  # the next step
    assert saver.is_writing
    assert (saver.saved_step, reports) == (None, [])
    held.go.set()
    assert saver.wait() is None
    step, found = loaded(checkpointer)
    assert step == saver.saved_step == 1
    assert torch.equal(found, torch.full((50,), 1.0))
    ((reported, report),) = reports
    assert reported == 1
    assert report == saver.last
    assert 0 < report.stall_s < report.seconds
    assert not report.waited_for


def test_waiting_can_be_given_up(tmp_path: Path, held: Held) -> None:
    saver = BackgroundSaver(Checkpointer(tmp_path, keep=2))
    saver.start(snapshot(1, torch.ones(5)))
    saver.wait(0.01)
    assert saver.is_writing
    held.go.set()
    saver.wait()
    assert not saver.is_writing


def test_a_second_save_comes_after_the_first(tmp_path: Path, held: Held) -> None:
    checkpointer = Checkpointer(tmp_path, keep=3)
    saver = BackgroundSaver(checkpointer)
    saver.start(snapshot(1, torch.ones(5)))
    assert held.reached.wait(60)
    held.go.set()
    saver.save(snapshot(2, torch.full((5,), 2.0)))
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["step-000001", "step-000002"]
    assert saver.last is not None
    assert saver.last.waited_for


def test_a_failure_in_the_background_is_reported_and_a_waited_one_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    failures: list[str] = []
    saver = BackgroundSaver(checkpointer, on_failed=lambda step, error: failures.append(f"{step}: {error}"))
    saver.save(snapshot(1, torch.ones(5)))

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        saver.start(snapshot(2, torch.ones(5)))
        saver.wait()
        assert len(failures) == 1
        assert failures[0].startswith("2: checkpoint of step 2 failed ([Errno 28] No space left on device)")
        with pytest.raises(CheckpointError, match="Still there: step-000001"):
            saver.save(snapshot(3, torch.ones(5)))
        assert len(failures) == 1
    assert saver.saved_step == 1
    saver.save(snapshot(4, torch.ones(5)))
    assert loaded(checkpointer)[0] == 4


def test_an_error_that_nobody_foresaw_is_a_failed_save_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    failures: list[str] = []

    def unforeseen(*_: object) -> None:
        raise KeyError("w")

    monkeypatch.setattr(torch, "save", unforeseen)
    saver = BackgroundSaver(checkpointer, on_failed=lambda _step, error: failures.append(str(error)))
    saver.start(snapshot(1, torch.ones(5)))
    saver.wait()
    assert failures == ["KeyError: 'w'"]


def test_memory_that_does_not_suffice_for_a_copy_fails_the_save_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    failures: list[str] = []
    saver = BackgroundSaver(Checkpointer(tmp_path, keep=2), on_failed=lambda _step, error: failures.append(str(error)))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", no_memory)
        saver.start(snapshot(1, torch.ones(5)))
        assert failures == ["RuntimeError: DefaultCPUAllocator: can't allocate memory"]
        with pytest.raises(CheckpointError, match="can't allocate"):
            saver.save(snapshot(1, torch.ones(5)))
    saver.save(snapshot(1, torch.ones(5)))
    assert saver.saved_step == 1


def test_buffers_are_used_again_unless_the_shape_changes() -> None:
    copies = HostCopies()

    def pointer(tensor: torch.Tensor) -> int:
        return copies.take({"model": {"w": tensor}})["model"]["w"].data_ptr()

    first = pointer(torch.ones(1000))
    assert pointer(torch.zeros(1000)) == first
    taken = copies.take({"model": {"w": torch.arange(7)}})["model"]["w"]
    assert torch.equal(taken, torch.arange(7))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_copy_is_pinned_and_done_before_the_optimizer_may_go_on() -> None:
    copies, source = HostCopies(), torch.ones(50_000_000, device="cuda")
    for value in (1.0, 2.0):
        source.fill_(value)
        taken = copies.take({"model": {"w": source}})["model"]["w"]
        copies.wait()
        source.fill_(-1.0)
        assert taken.is_pinned()
        assert bool((taken == value).all())


def report(stall_s: float, seconds: float) -> SaveReport:
    return SaveReport(path=Path("step-000001"), seconds=seconds, stall_s=stall_s, num_bytes=1, waited_for=False)


def test_steps_that_were_asked_for_are_saved_exactly() -> None:
    schedule = SaveSchedule(every_steps=3, every_s=None, now=0.0)
    assert [step for step in range(10) if schedule.is_due(step, None, 0.0)] == [3, 6, 9]
    assert not schedule.is_due(6, 6, 0.0)  # saved already, by a stop that was resumed
    assert schedule.is_exact
    assert not SaveSchedule(every_steps=None, every_s=20.0, now=0.0).is_exact


def test_a_save_comes_every_so_many_seconds_but_not_before_the_first_step() -> None:
    schedule = SaveSchedule(every_steps=None, every_s=20.0, now=100.0)
    assert not schedule.is_due(0, None, 500.0)
    assert not schedule.is_due(1, None, 119.0)
    assert schedule.is_due(1, None, 120.0)
    schedule.start(125.0)
    schedule.learn(report(stall_s=1.0, seconds=50.0))  # as asked, whatever it costs
    assert [schedule.is_due(2, 1, now) for now in (144.0, 145.0)] == [False, True]
    assert not SaveSchedule(every_steps=None, every_s=0.0, now=0.0).is_due(1, None, 1e9)


def test_the_cost_of_a_save_says_when_the_next_one_is_due() -> None:
    schedule = SaveSchedule(every_steps=None, every_s=None, now=0.0)
    assert [schedule.is_due(1, None, now) for now in (FIRST_SAVE_AFTER_S - 1, FIRST_SAVE_AFTER_S)] == [False, True]
    schedule.start(60.0)
    schedule.learn(report(stall_s=1.0, seconds=5.0))
    assert [schedule.is_due(2, 1, now) for now in (179.0, 180.0)] == [False, True]  # sqrt(2 x 1 s x 7200 s)
    schedule.start(180.0)
    schedule.learn(report(stall_s=0.1, seconds=50.0))
    assert [schedule.is_due(3, 2, now) for now in (329.0, 330.0)] == [False, True]  # writes leave pauses
