"""Segments that are merged as they age: at every moment of it a reader finds each event once, however it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from record import all_events
from s3 import S3Server

from patron_core.rundir import rundir
from patron_core.rundir.places import Bucket as Place
from patron_core.rundir.places import Folder
from patron_core.rundir.record import Record
from patron_core.rundir.rundir import Cursor, RunDir
from trainer.checkpoint.restore import Restored, Segments, restore
from trainer.checkpoint.uploads import Records
from trainer.contract import merging
from trainer.contract.events import EventWriter, attempt_lines
from trainer.contract.layout import EVENTS, segment_name, segment_of
from trainer.contract.merging import Here, merge
from trainer.contract.remote import Remote

OLD, NEW = "r-train-1", "r-train-2"


class Killed(BaseException):
    """Nothing of the process goes on after it."""


class Dying:
    """A place whose user dies at one of the things that it does there, before it or when it is just done."""

    def __init__(self, place: merging.Place, at: int, *, done: bool):
        self._place, self._left, self._done = place, at, done

    def sizes(self, folder: str) -> dict[str, int]:
        return self._place.sizes(folder)

    def get(self, name: str) -> bytes | None:
        return self._place.get(name)

    def create(self, name: str, content: bytes) -> bool:
        return self._dies(lambda: self._place.create(name, content))

    def delete(self, names: Sequence[str]) -> None:
        self._dies(lambda: self._place.delete(names))

    def _dies(self, work):  # type: ignore[no-untyped-def]
        if self._left == 0 and not self._done:
            raise Killed
        found = work() if self._left >= 0 else None  # what other threads would have done is not done either
        self._left -= 1
        if self._left < 0:
            raise Killed
        return found


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SEGMENTS": 4, "NEWEST": 3, "FEW": 2, "AT_ONCE": 1}.items():
        monkeypatch.setattr(merging, name, value)


@pytest.fixture(params=["folder", "bucket"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('bucket')}/run" if request.param == "bucket" else str(tmp_path)


def place_of(where: str) -> merging.Place:
    if "://" in where:
        return Remote(where)
    (Path(where) / EVENTS).mkdir(exist_ok=True)
    return Here(Path(where))


def put(place: merging.Place, attempt: str, numbers: Sequence[int]) -> None:
    """Two events in each."""
    for number in numbers:
        head = {"time": 1.0, "attempt": attempt, "kind": "metrics", "metrics": {"x": 1.0}}
        lines = [json.dumps(head | {"seq": seq, "step": seq}) for seq in (2 * number + 1, 2 * number + 2)]
        place.create(f"{EVENTS}/{segment_name(attempt, number)}", "\n".join(lines).encode())  # no end: torn


def names(place: merging.Place) -> list[str]:
    return sorted(name.removeprefix(f"{EVENTS}/") for name in place.sizes(EVENTS))


def seqs(where: str, cursor: Cursor | None = None) -> list[tuple[str, int]]:
    return [(event.attempt, event.seq) for event in RunDir(where).read_events(cursor)[0]]


def test_old_ones_become_one_and_the_newest_stay(where: str) -> None:
    place = place_of(where)
    put(place, OLD, range(6))
    put(place, NEW, [*range(8), *range(10, 15)])  # with a gap
    before = seqs(where)
    merge(place, NEW)
    assert names(place) == [
        "r-train-1-000003.000000.jsonl", "r-train-1-000005.000004.jsonl", "r-train-2-000003.000000.jsonl",
        "r-train-2-000007.000004.jsonl", *(f"r-train-2-{number:06d}.jsonl" for number in range(10, 15)),
    ]  # fmt: skip
    events, cursor = RunDir(where).read_events()
    assert [(event.attempt, event.seq) for event in events] == before
    assert (cursor["missing_segments"], cursor["garbage_lines"]) == (2, 0)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(7))
def test_killed_anywhere_every_event_is_there_once(where: str, at: int, done: bool) -> None:
    """For one that begins, one that has read a part, and one that goes on while it happens; the next merging clears."""
    place = place_of(where)
    put(place, OLD, range(2))
    half = RunDir(where).read_events()[1]
    put(place, OLD, range(2, 4))
    follower = Record(RunDir(where)).look()
    put(place, OLD, range(4, 9))
    expected = [(OLD, seq) for seq in range(1, 19)]
    try:
        merge(Dying(place, at, done=done), OLD)
    except Killed:
        pass
    else:
        assert (at, done) >= (5, False)  # one is created and four are deleted
    assert seqs(where) == expected
    assert seqs(where, half) == expected[4:]
    put(place, OLD, [9])
    assert [step for step, _ in follower.look().curve("x")] == list(range(1, 21))
    merge(place, OLD)
    assert names(place) == ["r-train-1-000003.000000.jsonl", *(segment_name(OLD, number) for number in range(4, 10))]
    assert seqs(where) == [(OLD, seq) for seq in range(1, 21)]


def test_what_is_merged_between_listing_and_reading_is_found(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(where := f"{bucket}/run")
    put(place, OLD, range(10))
    half = RunDir(where).read_events()[1] | {"segments": {OLD: 1}, "seqs": {OLD: 4}}
    listed, times = Place.names, list[int]()

    def merged_behind_its_back(self: Place, *asked):  # type: ignore[no-untyped-def]
        found = listed(self, *asked)
        if not times:
            merge(place, OLD)
        times.append(1)
        return found

    monkeypatch.setattr(Place, "names", merged_behind_its_back)
    events, cursor = RunDir(where).read_events(half)
    assert [event.seq for event in events] == list(range(5, 21))
    assert (len(times), cursor["missing_segments"], cursor["segments"]) == (2, 0, {OLD: 9})


def test_a_listing_in_pages_sees_the_parts_or_what_they_became(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes by names; the merging happens between two of its pages, whichever two."""
    monkeypatch.setattr("trainer.contract.remote.PAGE_OBJECTS", 2)
    pages = Remote.pages
    for page in range(4):
        where = f"{bucket}/run-{page}"
        place = place_of(where)
        put(place, OLD, range(8))

        def merged_after(self, folder, after=None, *, page=page, place=place):  # type: ignore[no-untyped-def]
            for number, found in enumerate(pages(self, folder, after)):
                yield found
                if number == page:
                    with monkeypatch.context() as patch:
                        patch.setattr(Remote, "pages", pages)
                        merge(place, OLD)

        with monkeypatch.context() as patch:
            patch.setattr(Remote, "pages", merged_after)
            assert [event.seq for event in all_events(RunDir(where))] == list(range(1, 17))


def test_a_writer_merges_what_it_wrote_and_goes_on_numbering(tmp_path: Path) -> None:
    for start in range(2):
        writer = EventWriter(tmp_path, OLD, segment_open_s=0.0)
        for step in range(10):
            writer.emit("metrics", step=step, metrics={"x": 1.0})
            assert writer.close_segment(10.0)
        writer.close()
        assert [event.seq for event in all_events(RunDir(tmp_path))] == list(range(1, 10 * start + 11))
    assert len(attempt_lines(tmp_path / EVENTS, OLD)) == 20
    there = [segment_of(path.name) for path in (tmp_path / EVENTS).iterdir()]
    assert len(there) <= 20 / 4 + 3 + 4
    assert max(segment.last for segment in there if segment) == 19


def test_a_machine_that_starts_no_more_threads_records_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EventWriter(tmp_path, OLD, segment_open_s=0.0)
    refused: list[int] = []

    def refuse(*_: object) -> None:
        refused.append(1)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trainer.contract.merging.ThreadPoolExecutor.submit", refuse)
    for step in range(20):
        writer.emit("metrics", step=step, metrics={"x": 1.0})
        assert writer.close_segment(10.0)
    writer.close()
    assert refused
    assert len(all_events(RunDir(tmp_path))) == 20


def test_an_uploader_merges_there_and_finds_what_was_merged_here(bucket: str, tmp_path: Path) -> None:
    remote, here = Remote(f"{bucket}/run"), Here(tmp_path)
    (tmp_path / EVENTS).mkdir()
    records = Records(remote, tmp_path, Restored(), OLD)
    for number in range(20):
        put(here, OLD, [number])
        if number != 10:  # the network was slow: it finds two at once, and the first of them merged
            merge(here, OLD) if number == 11 else None
            records.push()
    records.result_due = True
    records.push()
    assert seqs(f"{bucket}/run") == [(OLD, seq) for seq in range(1, 41)]
    assert len(names(remote)) <= 19 / 4 + 3 + 4
    found = restore(remote, tmp_path / "fresh", None)
    assert found.segments == {OLD: Segments(next_number=19, last_seq=40)}


def test_what_is_merged_while_a_run_is_restored_is_numbered_behind(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was taken for dead merges what the next one has just listed."""
    remote = Remote(f"{bucket}/run")
    put(remote, OLD, range(12))
    get = Remote.get

    def merged_first(self: Remote, name: str, *more: int) -> bytes | None:
        monkeypatch.setattr(Remote, "get", get)
        merge(remote, NEW)
        return get(self, name, *more)

    monkeypatch.setattr(Remote, "get", merged_first)
    found = restore(remote, tmp_path, None)
    assert found.segments == {OLD: Segments(next_number=12, last_seq=24)}


def test_a_long_record_is_asked_for_in_few_pieces(bucket: str, s3_server: S3Server) -> None:
    """Requests of a first look, and of a look at one new event."""
    place, counted = place_of(f"{bucket}/run"), []
    for num_segments in (40, 80):
        put(place, OLD, range(len(counted) * 40, num_segments))
        merge(place, OLD)
        s3_server.requests.clear()
        _, cursor = RunDir(f"{bucket}/run").read_events()
        first = len(s3_server.requests)
        put(place, OLD, [1000 + num_segments])
        s3_server.requests.clear()
        RunDir(f"{bucket}/run").read_events(cursor)
        counted.append((first, len(s3_server.requests)))
        place.delete([f"{EVENTS}/{segment_name(OLD, 1000 + num_segments)}"])
    assert counted[0][0] < 40 / 4 + 10
    assert counted[1][0] - counted[0][0] == 40 / 4
    assert counted[0][1] == counted[1][1]


def test_a_look_at_a_new_event_parses_it_alone_and_lists_few_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, parsed, listed = place_of(str(tmp_path)), list[bytes](), list[int]()
    parse, list_names = rundir._parse_segment, Folder.names
    monkeypatch.setattr(rundir, "_parse_segment", lambda content: (parsed.append(content), parse(content))[1])

    def counted(self: Folder, *asked):  # type: ignore[no-untyped-def]
        listed.append(len(found := list_names(self, *asked)))
        return found

    monkeypatch.setattr(Folder, "names", counted)
    put(place, OLD, range(400))
    merge(place, OLD)
    record = Record(RunDir(tmp_path)).look()
    put(place, OLD, [400])
    parsed.clear()
    record.look()
    assert [content.count(b"seq") for content in parsed] == [2]
    assert max(listed) <= 400 / 4 + 4
    assert record.latest()[1] == 802
