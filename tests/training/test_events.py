"""Event segments: whole lines, numbered over restarts, closed soon, and never in the way."""

from __future__ import annotations

import functools
import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from record import all_events

from patron_core.rundir.rundir import RunDir
from trainer.contract import events
from trainer.contract.events import EventWriter, free_attempt_name


def segments(run_dir: Path) -> dict[str, list[dict[str, object]]]:
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((run_dir / "events").iterdir())
    }


def test_events_carry_their_number_attempt_kind_and_values(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "manual-1")
    writer.emit("phase", name="data", seconds=1.5)
    writer.emit("metrics", step=7, metrics={"train/loss": 2.5, "train/mfu": float("nan")})
    writer.close()
    first, second = segments(tmp_path)["manual-1-000000.jsonl"]
    assert (first["seq"], first["attempt"], first["kind"], first["step"], first["seconds"]) == (
        1, "manual-1", "phase", None, 1.5,
    )  # fmt: skip
    assert (second["seq"], second["step"], second["metrics"]) == (2, 7, {"train/loss": 2.5, "train/mfu": None})


def test_a_restart_goes_on_counting_and_closes_what_a_kill_left_open(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    whole = '{"seq": 5, "time": 0, "attempt": "a-1", "kind": "metrics", "step": 1}\n'
    (folder / "a-1-000002.jsonl.part").write_text(whole + '{"seq": 6, "ti')
    (folder / "a-1-000003.jsonl.part").write_text('{"seq": 7')
    writer = EventWriter(tmp_path, "a-1")
    writer.emit("start")
    writer.close()
    found = segments(tmp_path)
    assert list(found) == ["a-1-000002.jsonl", "a-1-000003.jsonl"]
    assert [event["seq"] for events in found.values() for event in events] == [5, 6]


def test_attempts_are_numbered_apart(tmp_path: Path) -> None:
    assert free_attempt_name(tmp_path) == "manual-1"
    for attempt in ("manual-1", "r-train-1"):
        writer = EventWriter(tmp_path, attempt)
        writer.emit("start")
        writer.close()
    assert free_attempt_name(tmp_path) == "manual-2"
    assert [events[0]["seq"] for events in segments(tmp_path).values()] == [1, 1]


def test_a_segment_is_closed_while_the_writer_lives(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "a-1", segment_open_s=0.0)
    writer.emit("start")
    until(lambda: list(segments(tmp_path)) == ["a-1-000000.jsonl"])
    writer.close()


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "a-1", segment_open_s=0.01)
    threads = [threading.Thread(target=lambda: [writer.emit("metrics", step=i) for i in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    seqs = [event["seq"] for events in segments(tmp_path).values() for event in events]
    assert seqs == list(range(1, 801))


class Disk:
    """A disk between the writer and the real one: it takes so many bytes more, and may refuse other calls too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.free_bytes = 0
        self.refused: set[str] = set()
        self.num_refusals = 0
        for name in ("open", "write", "fsync", "ftruncate"):
            monkeypatch.setattr(os, name, functools.partial(self.call, name, getattr(os, name)))
        monkeypatch.setattr(events, "RETRY_S", 0.01)

    def call(self, name: str, real: Any, *arguments: Any, **named: Any) -> Any:
        if threading.current_thread().name != "events":
            return real(*arguments, **named)
        if name in self.refused:
            self.num_refusals += 1
            raise OSError(28, "No space left on device")
        if name == "write":
            if self.free_bytes == 0:
                self.num_refusals += 1
                raise OSError(28, "No space left on device")
            written = real(arguments[0], arguments[1][: self.free_bytes])
            self.free_bytes -= written
            return written
        return real(*arguments, **named)


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_disk_costs_no_event_and_the_gap_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is full in the midst of a line, and so is the disk of the log, to which the writer tells it."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    disk = Disk(monkeypatch)
    monkeypatch.setattr("sys.stderr", Full())
    writer = EventWriter(tmp_path, "a-1", segment_open_s=30.0)
    disk.free_bytes = 250
    for step in range(10):
        writer.emit("metrics", step=step)
    until(lambda: disk.num_refusals >= 5)
    whole = [event["step"] for found in segments(tmp_path).values() for event in found]
    assert 0 < len(whole) < 10  # and no torn line after them
    disk.free_bytes = 10**6
    until(lambda: "a-1-000001.jsonl.part" in segments(tmp_path) and not writer._pending)
    writer.emit("end")
    writer.close()
    found = [event for each in segments(tmp_path).values() for event in each]
    assert [event["step"] for event in found if event["kind"] == "metrics"] == list(range(10))
    (warning,) = (event for event in found if event["kind"] == "warning")
    late = 10 - len(whole)
    assert "No space left on device" in warning["message"]
    assert f"{late} were kept in memory and written late, 0 are lost" in warning["message"]
    assert [event["seq"] for event in found] == list(range(1, 13))


@pytest.mark.parametrize("refused", ["fsync", "open", "ftruncate"])
def test_whatever_the_disk_refuses_is_made_good_and_readers_see_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    disk = Disk(monkeypatch)
    disk.refused = {refused}
    disk.free_bytes = 100 if refused == "ftruncate" else 10**6
    writer = EventWriter(tmp_path, "a-1", segment_open_s=0.0)
    for step in range(5):
        writer.emit("metrics", step=step)
    until(lambda: disk.num_refusals >= 3)
    disk.refused, disk.free_bytes = set(), 10**6
    assert writer.close_segment(30)
    writer.close()
    EventWriter(tmp_path, "a-1").close()  # the next start closes what had to be left
    found = all_events(RunDir(tmp_path))
    assert [event.step for event in found if event.kind == "metrics"] == list(range(5))
    assert len({event.seq for event in found}) == len(found)


def test_a_disk_that_stays_full_does_not_keep_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "CLOSE_WITHIN_S", 0.1)
    disk = Disk(monkeypatch)
    writer = EventWriter(tmp_path, "a-1")
    writer.emit("start")
    until(lambda: disk.num_refusals)
    assert not writer.close_segment(0.05)
    writer.emit("end")
    writer.close()
    assert segments(tmp_path) == {}
    said = capsys.readouterr().err
    assert "1 are kept and tried again" in said
    assert "2 are lost" in said


def test_what_memory_cannot_keep_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_PENDING_LINES", 10)
    disk = Disk(monkeypatch)
    writer = EventWriter(tmp_path, "a-1")
    for step in range(25):
        writer.emit("metrics", step=step)
    until(lambda: disk.num_refusals)
    disk.free_bytes = 10**6
    writer.close()
    found = [event for each in segments(tmp_path).values() for event in each]
    kept = [event["step"] for event in found if event["kind"] == "metrics"]
    assert kept == list(range(25 - len(kept), 25))
    assert 10 <= len(kept) <= 20  # what memory keeps, and what was on its way to the disk
    assert f"{25 - len(kept)} are lost" in str(found[-1]["message"])


def test_a_torn_line_and_a_folder_named_like_a_segment_stop_no_start(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    whole = '{"seq": 5, "time": 0, "attempt": "a-1", "kind": "metrics", "step": 1}\n'
    (folder / "a-1-000002.jsonl").write_text(whole + '{"seq": 6, "ti\n\x00\x00\n[]')
    (folder / "a-1-000003.jsonl").mkdir()
    (folder / "a-1-000004.jsonl.part").mkdir()
    writer = EventWriter(tmp_path, "a-1")
    writer.emit("start")
    writer.close()
    (event,) = (json.loads(line) for line in (folder / "a-1-000005.jsonl").read_text().splitlines())
    assert event["seq"] == 6
