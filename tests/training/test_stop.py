"""Requests to stop: who is heard, what is reported, and what happens to a process that does not stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from training import PATIENCE_S, ROOT, Trainer, events, result, wait_for

from trainer.contract import control
from trainer.contract.remote import Remote
from trainer.preemption.deadline import keep_deadline, moved_deadline
from trainer.preemption.stop import StopRequest, StopWatch


class Reports:
    """What was reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.came = threading.Event()

    def __call__(self, request: StopRequest) -> None:
        self.sources.append(request.source)
        self.came.set()


def test_a_signal_is_seen_at_once_and_reported_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    reports = Reports()
    with StopWatch().watching() as stop:
        stop.report_to(reports)
        assert stop.requested() is None
        os.kill(os.getpid(), signal.SIGTERM)
        request = stop.requested()
        assert request is not None
        assert (request.source, request.reason) == ("SIGTERM", "notice")
        os.kill(os.getpid(), signal.SIGINT)  # the first one wins
        assert stop.requested() == request
    assert reports.sources == ["SIGTERM"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_only_a_second_interrupt_interrupts() -> None:
    with StopWatch().watching() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested() == StopRequest(source="SIGINT")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_request_from_before_there_was_somebody_to_tell_is_told() -> None:
    reports = Reports()
    with StopWatch().watching() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop.report_to(reports)
        assert reports.came.wait(PATIENCE_S)


def test_a_file_that_appears_is_noticed_without_anybody_asking(tmp_path: Path) -> None:
    reports = Reports()
    with StopWatch().watching() as stop:
        stop.report_to(reports)
        stop.look_for_file(tmp_path / "notice")
        assert stop.requested() is None
        (tmp_path / "notice").touch()
        assert reports.came.wait(PATIENCE_S)
        assert stop.requested() == StopRequest(source="file")


def test_a_deadline_is_noticed_without_anybody_asking() -> None:
    reports = Reports()
    with StopWatch().watching() as stop:
        stop.report_to(reports)
        stop.set_deadline(time.monotonic() + 0.05)
        assert reports.came.wait(PATIENCE_S)
        request = stop.requested()
        assert request is not None
        assert request.reason == "deadline"


def test_a_deadline_that_was_moved_is_kept_later(tmp_path: Path) -> None:
    """control.json is read when the first deadline has come; the spec's own deadline stays."""
    (tmp_path / "control.json").write_bytes(control.content("a", 900.0))
    with StopWatch().watching() as stop:
        keep_deadline(stop, None, str(tmp_path), "a", 1.0, time.time() - 2)
        assert stop.requested() is None
    for spec_deadline_s, attempt in ((1.5, "a"), (None, "another"), (None, None)):
        with StopWatch().watching() as stop:
            keep_deadline(stop, spec_deadline_s, str(tmp_path), attempt, 1.0, time.time() - 2)
            assert stop.requested() == StopRequest(source="deadline")


def test_a_moved_deadline_is_read_from_a_bucket(bucket: str) -> None:
    Remote(f"{bucket}/r1").put("control.json", control.content("a", 900.0))
    assert moved_deadline(f"{bucket}/r1", "a", 1.0) == 900.0
    assert moved_deadline(f"{bucket}/r2", "a", 1.0) == 1.0


def test_a_deadline_that_is_over_is_seen_at_once() -> None:
    with StopWatch().watching() as stop:
        stop.set_deadline(time.monotonic() - 1)
        assert stop.requested() == StopRequest(source="deadline")


def test_only_who_is_late_is_ended() -> None:
    late = Reports()
    with StopWatch(stop_within_s=0.01, may_end_process=True).watching() as stop:
        stop.when_late(late)
        stop.notify(StopRequest(source="a cloud"))
        assert late.came.wait(PATIENCE_S)
    assert late.sources == ["a cloud"]
    in_time = Reports()
    with StopWatch(stop_within_s=60, may_end_process=True).watching() as stop:
        stop.when_late(in_time)
        stop.notify(StopRequest(source="a cloud"))
    assert in_time.sources == []
    with StopWatch(stop_within_s=0.01).watching() as stop:
        stop.when_late(in_time)
        stop.notify(StopRequest(source="a cloud"))
        assert not in_time.came.wait(0.05)


def test_what_another_process_heard_is_asked_for_whenever_somebody_asks() -> None:
    said: list[str] = []
    reports = Reports()
    with StopWatch().watching() as stop:
        stop.report_to(reports)
        stop.hear(lambda: said[0] if said else None)
        assert stop.requested() is None
        said.append("SIGTERM of rank 1")
        assert stop.requested() == StopRequest(source="SIGTERM of rank 1")
    assert reports.sources == ["SIGTERM of rank 1"]


STUCK = """
import sys, time
import trainer.train

def stick(what):
    def stuck(*_, **__):
        print(what, flush=True)
        time.sleep(600)
    return stuck

where = sys.argv.pop(1)
if where == "import":
    class Finder:
        def find_spec(self, name, path, target=None):
            if name == "torch":
                stick(where)()
    sys.meta_path.insert(0, Finder())
else:
    import trainer.checkpoint.checkpoint, trainer.loop, trainer.session
    if where == "data":
        trainer.session.begin = stick(where)
    if where == "compile":
        trainer.loop.TrainingLoop.compile = stick(where)
    if where == "step":
        real_step = trainer.loop.TrainingLoop._step
        def step(self):
            stick(where)() if self.position.step == 3 else real_step(self)
        trainer.loop.TrainingLoop._step = step
    if where == "eval":
        trainer.loop.evaluate = stick(where)
    if where == "save":
        real_save = trainer.checkpoint.checkpoint.torch.save
        saved = []
        def save(*args, **kwargs):
            saved.append(None)
            stick(where)() if len(saved) > 3 else real_save(*args, **kwargs)
        trainer.checkpoint.checkpoint.torch.save = save
sys.exit(trainer.train.main(owns_process=True))
"""


@pytest.mark.parametrize(
    ("where", "last"),
    [("import", None), ("data", None), ("compile", None), ("step", 2), ("eval", None), ("save", 2)],
)
def test_a_process_that_cannot_stop_is_ended_with_its_last_checkpoint(
    trainer: Trainer, tmp_path: Path, where: str, last: int | None
) -> None:
    run_dir = tmp_path / "run"
    options = trainer.command(run_dir, trainer.spec(checkpoint_every_steps=2))[3:]
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, where, *options],
        cwd=ROOT,
        env=trainer.environ(PATRON_STOP_WITHIN_S="2.5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{where}\n"
    if last is not None:
        wait_for(lambda: (run_dir / f"checkpoints/step-00000{last}/manifest.json").exists(), process)
    process.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    assert process.wait(PATIENCE_S) == 75
    assert time.monotonic() - asked_at < 20  # 2.5 were asked for, on a machine that may be busy
    process.stdout.close()
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"]) == (75, "notice")
    assert last_word["message"].startswith(
        "stopped by SIGTERM in the midst of something that would have taken too long"
    )
    assert ("no checkpoint yet" if last is None else f"the last checkpoint, step-00000{last}") in last_word["message"]
    assert [event["source"] for event in events(run_dir, "notice")] == ["SIGTERM"]
    assert events(run_dir)[-1]["kind"] == "end"
    assert events(run_dir)[-1]["exit_code"] == 75
    assert not list((run_dir / "events").glob("*.part"))
    assert trainer.train_here(run_dir, trainer.spec(checkpoint_every_steps=2)) == 0
    assert result(run_dir)["resumed_step"] == last
