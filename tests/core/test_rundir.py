"""A run directory read while it is written, torn, or taken away, and the true history in its events."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from record import all_events, curve

from patron_core.errors import Conflict
from patron_core.rundir.places import Unreachable
from patron_core.rundir.rundir import Event, RunDir, lineage
from trainer.contract.layout import Segment

ATTEMPT = "rabc-train-1"


def _line(seq: int, kind: str = "metrics", step: int | None = None, attempt: str = ATTEMPT, **data: Any) -> str:
    return json.dumps({"seq": seq, "time": 1e9 + seq, "attempt": attempt, "kind": kind, "step": step, **data})


def _metrics(seq: int, step: int, loss: float, attempt: str = ATTEMPT) -> str:
    return _line(seq, "metrics", step, attempt, metrics={"train/loss": loss})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def _segment(run: RunDir, number: int, *lines: str, attempt: str = ATTEMPT, end: str = "\n") -> Path:
    path = run.path / "events" / f"{attempt}-{number:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end)
    return path


def _seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


def test_a_run_directory_that_is_not_there_is_empty_and_no_error(run: RunDir) -> None:
    assert not run.exists()
    assert (run.spec(), run.environment(), run.result()) == (None, None, None)
    assert run.look_for_checkpoint() == (None, [])
    assert all_events(run) == []
    assert run.log_tail(ATTEMPT, 10) == ""


def test_a_spec_is_frozen(run: RunDir) -> None:
    run.write_spec('{"depth":4}')
    run.write_spec('{"depth":4}')
    with pytest.raises(Conflict, match="different spec"):
        run.write_spec('{"depth":5}')
    assert run.spec() == {"depth": 4}
    assert [path.name for path in run.path.iterdir()] == ["spec.json"]


def test_a_spec_is_frozen_where_there_are_no_links(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("links are not supported")

    monkeypatch.setattr("os.link", no_links)
    test_a_spec_is_frozen(run)


@pytest.mark.parametrize("content", ["", '{"exit_code": 0', "[1]", "\udcff"])
def test_a_torn_result_is_no_result(run: RunDir, content: str) -> None:
    run.path.mkdir()
    (run.path / "result.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert run.result() is None
    (run.path / "result.json").write_text('{"exit_code": 0, "step": 7}')
    assert run.result() == {"exit_code": 0, "step": 7}


def test_events_are_read_once_each_and_only_from_closed_segments(run: RunDir) -> None:
    _segment(run, 0, _line(0, "start", resumed_step=None), _metrics(1, 1, 5.0))
    part = _segment(run, 1, _metrics(2, 2, 4.0))
    part.rename(part.with_suffix(".jsonl.part"))
    events, cursor = run.read_events()
    assert _seqs(events) == [0, 1]
    assert events[1] == Event(
        seq=1, time=1e9 + 1, attempt=ATTEMPT, kind="metrics", step=1, data={"metrics": {"train/loss": 5.0}}
    )
    before = json.loads(json.dumps(cursor))
    assert run.read_events(cursor) == ([], cursor)
    part.with_suffix(".jsonl.part").rename(part)
    events, after = run.read_events(before)
    assert _seqs(events) == [2]
    assert cursor == before
    assert run.read_events(after) == ([], after)
    assert _seqs(all_events(run)) == [0, 1, 2]


def test_attempts_are_ordered_by_number_and_not_by_letters(run: RunDir) -> None:
    for seq, attempt in enumerate(["manual-10", "rabc-train-2", "rabc-dryrun-1", "rabc-train-1", "rabc-train-11"]):
        _segment(run, 0, _line(seq, "start", attempt=attempt), attempt=attempt)
    order = [event.attempt for event in all_events(run)]
    assert order == ["rabc-dryrun-1", "rabc-train-1", "rabc-train-2", "manual-10", "rabc-train-11"]


def test_segments_are_ordered_by_number(run: RunDir) -> None:
    for number in (999_999, 2, 1_000_000, 10):
        _segment(run, number, _metrics(number, number, 1.0))
    assert _seqs(all_events(run)) == [2, 10, 999_999, 1_000_000]


@pytest.mark.parametrize(
    "garbage",
    [
        '{"seq": 9, "time"',
        "[]",
        "3",
        "{}, {}",
        "\x00\x00",
        '{"seq": "1", "time": 1, "attempt": "a", "kind": "metrics"}',
        '{"seq": 1, "time": 1, "attempt": "a", "kind": "metrics", "step": "x"}',
    ],
)
def test_a_line_that_is_no_event_is_counted_and_skipped(run: RunDir, garbage: str) -> None:
    _segment(run, 0, _metrics(0, 1, 5.0), garbage, "", _metrics(1, 2, 4.0), end="")
    events, cursor = run.read_events()
    assert _seqs(events) == [0, 1]
    assert cursor["garbage_lines"] == 1
    _segment(run, 1, garbage)
    assert run.read_events(cursor)[1]["garbage_lines"] == 2


def test_an_event_may_hold_what_is_no_number(run: RunDir) -> None:
    _segment(run, 0, _metrics(0, 1, float("nan")))
    assert curve(all_events(run), "train/loss") == []  # as of a null, which is what the trainer writes then
    assert [event.step for event in all_events(run)] == [1]


def test_what_was_written_again_is_read_once(run: RunDir) -> None:
    """A writer that does not know whether its disk kept a segment writes its lines into the next one, too."""
    _segment(run, 0, _metrics(1, 1, 5.0), _metrics(2, 2, 4.0), _metrics(2, 2, 4.0))
    events, cursor = run.read_events()
    assert _seqs(events) == [1, 2]
    _segment(run, 1, _metrics(2, 2, 4.0), _metrics(4, 4, 3.0), _metrics(3, 3, 3.5))
    _segment(run, 0, _metrics(1, 1, 5.0, "rabc-train-2"), attempt="rabc-train-2")
    assert _seqs(run.read_events(cursor)[0]) == [4, 3, 1]
    assert _seqs(all_events(run)) == [1, 2, 4, 3, 1]


def test_what_is_named_like_a_file_and_is_none_is_no_file(run: RunDir) -> None:
    """A folder, and a pipe: whoever opens that waits for a writer."""
    _segment(run, 0, _metrics(0, 1, 5.0))
    (run.path / "events" / f"{ATTEMPT}-000001.jsonl").mkdir()
    os.mkfifo(run.path / "events" / f"{ATTEMPT}-000002.jsonl")
    for name in ("spec.json", "result.json", "logs"):
        (run.path / name).mkdir()
    os.mkfifo(run.path / "logs" / f"{ATTEMPT}.log")
    _segment(run, 3, _metrics(3, 4, 2.0))
    events, cursor = run.read_events()
    assert (_seqs(events), cursor["missing_segments"]) == ([0, 3], 2)
    assert (run.spec(), run.result(), run.log_tail(ATTEMPT, 9)) == (None, None, "")


def test_what_cannot_be_read_is_not_taken_for_empty(run: RunDir) -> None:
    run.path.symlink_to(run.path)  # a loop: root, too, cannot read it
    for read in (lambda: all_events(run), run.result, run.newest_checkpoint):
        with pytest.raises(Unreachable, match="Too many levels of symbolic links") as caught:
            read()
        assert caught.value.next.startswith(f"ls -la {run.path}")


def test_a_vanished_segment_is_counted_and_does_not_stop_the_reader(run: RunDir) -> None:
    _segment(run, 0, _metrics(0, 1, 5.0))
    _, cursor = run.read_events()
    _segment(run, 3, _metrics(3, 4, 2.0))
    events, cursor = run.read_events(cursor)
    assert _seqs(events) == [3]
    assert cursor["missing_segments"] == 2


@pytest.mark.parametrize("missed", [0, 1])
def test_a_segment_that_the_first_listing_missed_is_not_lost(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    for number in range(3):
        _segment(run, number, _metrics(number, number, 1.0))
    listings: list[int] = []
    really = RunDir._list_segments

    def miss_one(self: RunDir, read: dict[str, int]) -> list[Segment]:
        listings.append(1)
        found = really(self, read)
        return [segment for segment in found if segment.last != missed] if len(listings) == 1 else found

    monkeypatch.setattr(RunDir, "_list_segments", miss_one)
    events, cursor = run.read_events()
    assert _seqs(events) == [0, 1, 2]
    assert cursor["missing_segments"] == 0


def test_a_folder_that_goes_away_and_comes_back_loses_nothing(run: RunDir) -> None:
    _segment(run, 0, _metrics(0, 1, 5.0))
    _, cursor = run.read_events()
    _segment(run, 1, _metrics(1, 2, 4.0))
    run.path.rename(run.path.with_name("away"))
    assert run.read_events(cursor) == ([], cursor)
    run.path.with_name("away").rename(run.path)
    assert _seqs(run.read_events(cursor)[0]) == [1]


def test_a_folder_that_goes_away_under_the_reader_loses_nothing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes after the listing, and is back before the second segment's turn."""
    for number in range(2):
        _segment(run, number, _metrics(number, number, 5.0))
    away = run.path.with_name("away")
    list_segments, is_dir = RunDir._new_segments, Path.is_dir

    def list_then_unmount(self: RunDir, read: dict[str, int]) -> list[Segment]:
        found = list_segments(self, read)
        self.path.rename(away)
        return found

    def look_then_mount(self: Path) -> bool:
        seen = is_dir(self)
        if is_dir(away):
            away.rename(run.path)
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "_new_segments", list_then_unmount)
        patch.setattr(Path, "is_dir", look_then_mount)
        events, cursor = run.read_events()
    assert events == []
    assert _seqs(run.read_events(cursor)[0]) == [0, 1]


def _checkpoint(run: RunDir, step: int, files: dict[str, bytes], stated: dict[str, int] | None) -> Path:
    folder = run.path / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if stated is not None:
        manifest = {"step": step, "files": {name: {"bytes": size} for name, size in stated.items()}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_only_a_manifest_makes_a_checkpoint(run: RunDir) -> None:
    good = _checkpoint(run, 100, {"model.pt": b"12345"}, {"model.pt": 5})
    _checkpoint(run, 200, {"model.pt": b"12345"}, None)
    _checkpoint(run, 300, {"model.pt": b"123"}, {"model.pt": 5})
    _checkpoint(run, 400, {"model.pt": b"12345"}, {"model.pt": 5, "optim.pt": 9})
    _checkpoint(run, 500, {}, {})
    (_checkpoint(run, 600, {"model.pt": b"1"}, None) / "manifest.json").write_text('{"files": {"mod')
    (run.path / "checkpoints" / "step-000700.tmp").mkdir()
    (run.path / "checkpoints" / "notes.txt").touch()
    newest, damaged = run.look_for_checkpoint()
    assert damaged == [600, 500, 400, 300]  # 200 is on its way
    assert newest is not None
    assert newest == run.newest_checkpoint()
    assert (newest.step, newest.path) == (100, str(good))
    assert newest.bytes == 5 + (good / "manifest.json").stat().st_size


def _events(*lines: str) -> list[Event]:
    items = [json.loads(line) for line in lines]
    return [
        Event(
            **{key: item.pop(key) for key in ("seq", "time", "attempt", "kind", "step")},
            data=item,
        )
        for item in items
    ]


def test_a_resume_undoes_what_came_after_its_checkpoint() -> None:
    events = _events(
        _line(0, "start", resumed_step=None),
        _metrics(1, 1, 5.0),
        _metrics(2, 2, 4.0),
        _line(3, "checkpoint", 2),
        _metrics(4, 3, 3.0),
        _line(5, "eval", 3, val_bpb=1.5),
        _line(6, "checkpoint", 3),
        _line(7, "notice", 3, source="SIGTERM"),
        _line(8, "start", attempt="rabc-train-2", resumed_step=2),
        _metrics(9, 3, 3.5),
        _line(10, "eval", 3, val_bpb=1.4),
    )
    true = lineage(events)
    assert _seqs(true) == [0, 1, 2, 3, 7, 8, 9, 10]
    assert curve(true, "train/loss") == [(1, 5.0), (2, 4.0), (3, 3.5)]
    assert curve(true, "val_bpb") == [(3, 1.4)]
    assert curve(true, "no/such") == []


def test_a_start_from_scratch_undoes_everything_but_the_marks() -> None:
    events = _events(
        _line(0, "start", resumed_step=None),
        _metrics(1, 0, 9.0),
        _metrics(2, 1, 5.0),
        _line(3, "start", resumed_step=None),
        _metrics(4, 1, 6.0),
    )
    assert _seqs(lineage(events)) == [0, 3, 4]


def test_a_later_resume_from_further_back_undoes_the_earlier_resume_too() -> None:
    events = _events(
        *[_metrics(step, step, 1.0) for step in range(1, 5)],
        _line(10, "start", resumed_step=3),
        _metrics(11, 4, 2.0),
        _metrics(12, 5, 2.0),
        _line(13, "start", resumed_step=1),
        _metrics(14, 2, 3.0),
        _line(15, "start", resumed_step=2),
    )
    assert curve(lineage(events), "train/loss") == [(1, 1.0), (2, 3.0)]


def test_lineage_is_the_same_whether_read_forwards_or_at_once() -> None:
    """The plain forward reading of the rule, as a check of the one pass backwards."""
    events = []
    for seq in range(300):
        step = (seq * 37) % 50
        start = seq % 29 == 0
        line = _line(seq, "start", resumed_step=None if seq % 58 == 0 else step) if start else _metrics(seq, step, 1.0)
        events += _events(line)
    kept: list[Event] = []
    for event in events:
        if event.kind == "start":
            resumed_step = event.data["resumed_step"]
            limit = -1 if resumed_step is None else resumed_step
            kept = [k for k in kept if k.kind == "start" or (k.step or 0) <= limit]
        kept.append(event)
    assert lineage(events) == kept


def test_a_log_that_a_workload_made_a_link_of_is_not_followed_out(run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("of this machine\n")
    log = run.path / "logs" / f"{ATTEMPT}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    for target in (outside, log):
        log.unlink(missing_ok=True)
        log.symlink_to(target)
        assert run.log_tail(ATTEMPT, 9) == ""


def test_the_tail_of_a_long_log_is_its_last_lines(run: RunDir) -> None:
    log = run.path / "logs" / f"{ATTEMPT}.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n} é\n" for n in range(20_000)), encoding="utf-8")
    assert run.log_tail(ATTEMPT, 2) == "line 19998 é\nline 19999 é"
    assert len(run.log_tail(ATTEMPT, 19_000).splitlines()) == 19_000
    assert len(run.log_tail(ATTEMPT, 10**6).splitlines()) == 20_000
    log.write_bytes(b"ok\n\xff\xfe half")
    assert run.log_tail(ATTEMPT, 1).endswith(" half")
