"""Event segments: whole lines, numbered over restarts, closed soon, and never in the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

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


def test_a_segment_is_closed_while_the_writer_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()
    close_segment = EventWriter._close_segment

    def watched(self: EventWriter) -> None:
        was_open = self._file is not None
        close_segment(self)
        if was_open:
            closed.set()

    monkeypatch.setattr(EventWriter, "_close_segment", watched)
    writer = EventWriter(tmp_path, "a-1", segment_open_s=0.0)
    writer.emit("start")
    assert closed.wait(30)
    assert list(segments(tmp_path)) == ["a-1-000000.jsonl"]
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


def test_a_disk_that_refuses_costs_nothing_once_it_takes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = threading.Event()
    write = EventWriter._write

    def full_at_first(self: EventWriter, lines: list[str]) -> None:
        if lines and not refused.is_set():
            refused.set()
            raise OSError(28, "No space left on device")
        write(self, lines)

    monkeypatch.setattr(EventWriter, "_write", full_at_first)
    writer = EventWriter(tmp_path, "a-1")
    writer.emit("start")
    assert refused.wait(30)
    writer.emit("end")
    writer.close()
    assert [event["kind"] for event in segments(tmp_path)["a-1-000000.jsonl"]] == ["start", "end"]
    assert "No space left on device" in capsys.readouterr().err
