"""A run directory in a bucket, read by the core: the same answers as for a folder, over a real S3 server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from record import all_events
from s3 import S3Server

from patron_core.errors import Conflict, Unavailable
from patron_core.executors.records import Records
from patron_core.rundir import places
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from trainer.contract.remote import Remote


@pytest.fixture
def place(bucket: str) -> str:
    return f"{bucket}/runs/r1"


@pytest.fixture
def run(place: str) -> RunDir:
    return RunDir(place)


@pytest.fixture
def remote(place: str) -> Remote:
    return Remote(place)


def _segment(remote: Remote, attempt: str, number: int, *steps: int) -> None:
    lines = [
        {"seq": step, "time": float(step), "attempt": attempt, "kind": "metrics", "step": step, "metrics": {"x": 1.0}}
        for step in steps
    ]
    remote.put(f"events/{attempt}-{number:06d}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def test_a_run_that_has_not_begun_is_empty(run: RunDir) -> None:
    assert not run.exists()
    assert (run.spec(), run.environment(), run.result()) == (None, None, None)
    assert (run.look_for_checkpoint(), all_events(run)) == ((None, []), [])
    assert run.log_tail("a-train-1", 5) == ""


def test_a_spec_is_frozen(run: RunDir) -> None:
    run.write_spec('{"depth":4}')
    run.write_spec('{"depth":4}')
    assert run.exists()
    with pytest.raises(Conflict, match="different spec"):
        run.write_spec('{"depth":5}')
    assert run.spec() == {"depth": 4}


def test_only_new_segments_are_fetched(run: RunDir, remote: Remote, s3_server: S3Server) -> None:
    _segment(remote, "a-train-1", 0, 1, 2)
    _segment(remote, "a-train-1", 1, 3)
    events, cursor = run.read_events()
    assert [event.step for event in events] == [1, 2, 3]
    _segment(remote, "a-train-1", 2, 4)
    _segment(remote, "a-train-2", 0, 5)
    s3_server.requests.clear()
    events, _ = run.read_events(cursor)
    assert [event.step for event in events] == [4, 5]
    assert sum("events/a-train" in path for _, path in s3_server.requests) == 2
    assert [step for step, _ in record_of(run).curve("x")] == [1, 2, 3, 4, 5]
    s3_server.requests.clear()
    assert [step for step, _ in record_of(run).curve("x")] == [1, 2, 3, 4, 5]
    assert not any("events/a-train" in path for _, path in s3_server.requests)


def test_a_long_listing_is_skipped_where_it_was_read(
    run: RunDir, remote: Remote, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pages of two names; a new attempt that comes earlier in the alphabet is found all the same."""
    monkeypatch.setattr("trainer.contract.remote.PAGE_OBJECTS", 2)
    for number in range(9):
        _segment(remote, "a-train-2", number, number)
    _, cursor = run.read_events()
    _segment(remote, "a-train-2", 9, 9)
    _segment(remote, "a-train-10", 0, 10)
    _segment(remote, "a-train-3", 0, 11)
    seen: list[str] = []
    pages = Remote.pages

    def counted(self: Remote, folder: str, after: str | None = None):  # type: ignore[no-untyped-def]
        for page in pages(self, folder, after):
            seen.extend(name for name, _ in page)
            yield page

    monkeypatch.setattr(Remote, "pages", counted)
    events, _ = run.read_events(cursor)
    assert [event.step for event in events] == [9, 11, 10]
    assert "events/a-train-2-000005.jsonl" not in seen


def test_a_checkpoint_is_durable_when_its_manifest_is_there(run: RunDir, remote: Remote) -> None:
    manifest = json.dumps({"step": 100, "files": {"model.pt": {"bytes": 5}}}).encode()
    remote.put("checkpoints/step-000100/model.pt", b"12345")
    remote.put("checkpoints/step-000100/manifest.json", manifest)
    remote.put("checkpoints/step-000200/model.pt", b"12345")
    remote.put("checkpoints/step-000300/model.pt", b"123")
    remote.put("checkpoints/step-000300/manifest.json", manifest)
    newest, damaged = run.look_for_checkpoint()
    assert damaged == [300]
    assert newest is not None
    assert (newest.step, newest.bytes) == (100, 5 + len(manifest))


def test_the_tail_of_a_log_is_fetched_and_not_all_of_it(run: RunDir, remote: Remote) -> None:
    remote.put("logs/a-train-1.log", "".join(f"line {number}\n" for number in range(10_000)).encode())
    assert run.log_tail("a-train-1", 2) == "line 9998\nline 9999"


def test_unreachable_is_not_empty(run: RunDir, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ANSWER_WITHIN_S", 1.0)
    s3_server.stop()
    try:
        for ask in (
            run.result,
            run.exists,
            run.newest_checkpoint,
            lambda: all_events(run),
            lambda: run.log_tail("a", 1),
        ):
            with pytest.raises(Unavailable, match="s3://") as caught:
                ask()
            assert "check the network" in caught.value.next
            assert isinstance(caught.value, OSError)
    finally:
        s3_server.start()
    assert run.result() is None


@pytest.mark.parametrize("in_bucket", [True, False])
def test_records_are_kept_in_both_kinds_of_places(
    in_bucket: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = f"{request.getfixturevalue('bucket')}/run" if in_bucket else str(tmp_path / "run")
    records = Records(where, "a-train-1")
    assert (records.starts(), records.stop()) == ([], None)
    records.write_start(1, {"number": 1})
    records.write_start(1, {"number": 1, "ended": True})
    records.write_start(2, {"number": 2})
    records.write_stop({"kill_after_s": 5.0})
    assert [(start["number"], start["ended"]) for start in records.starts()] == [(1, True), (2, False)]
    assert records.stop() == {"kill_after_s": 5.0, "at": None}


def test_segments_are_asked_for_side_by_side_and_come_in_order(bucket: str, s3_server: S3Server) -> None:
    """A day's run has thousands of them: one after the other, each view of it would wait for minutes."""
    remote = Remote(f"{bucket}/run")
    for number in range(30):
        event = {"seq": number + 1, "time": 1.0, "attempt": "a-train-1", "kind": "sample"}
        remote.put(f"events/a-train-1-{number:06d}.jsonl", json.dumps(event).encode() + b"\n")
    s3_server.requests.clear()
    s3_server.hold(lambda method, path: method == "GET" and path.endswith(".jsonl"))
    found: list[int] = []

    def read() -> None:
        found.extend(event.seq for event in RunDir(f"{bucket}/run").read_events()[0])

    reading = threading.Thread(target=read)
    reading.start()
    end = time.monotonic() + 30
    while sum(path.endswith(".jsonl") for _, path in s3_server.requests) < 8:  # none of them is answered yet
        assert time.monotonic() < end, "one after the other"
        time.sleep(0.01)
    s3_server.let_all_pass()
    reading.join(30)
    assert found == list(range(1, 31))
