"""Names in a run directory: what a writer makes, a reader understands; and when a checkpoint counts as whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.contract.events import EventWriter
from trainer.contract.layout import (
    MANIFEST,
    Segment,
    checkpoint_folders,
    checkpoint_name,
    files_by_step,
    in_order,
    is_whole,
    newest_checkpoint_name,
    segment_name,
    segment_of,
    step_of,
)


@pytest.mark.parametrize("attempt", ["manual-1", "rabc-train-12", "a", "ends-000001"])
def test_a_segments_name_is_read_as_it_was_made(attempt: str, tmp_path: Path) -> None:
    assert segment_of(segment_name(attempt, 12)) == Segment(attempt, 12, 12)
    assert segment_of(Segment(attempt, 7, 12).name) == Segment(attempt, 7, 12)
    writer = EventWriter(tmp_path, attempt)
    writer.emit("start")
    writer.close()
    assert [segment_of(path.name) for path in (tmp_path / "events").iterdir()] == [Segment(attempt, 0, 0)]


@pytest.mark.parametrize(
    "name",
    [
        "manual-1-000003.jsonl.part",
        "000003.jsonl",
        "notes.txt",
        "",
        "a-b.jsonl",
        "-.jsonl",
        "a-12.jsonl",
        "a-000001.000002.jsonl",
    ],
)  # fmt: skip
def test_other_names_are_no_closed_segments(name: str) -> None:
    assert segment_of(name) is None


def test_what_lies_in_a_merged_segment_is_left_out() -> None:
    parts = [Segment("a", number, number) for number in range(6)]
    there = [*parts, Segment("b", 0, 0), Segment("a", 1, 3), Segment("a", 3, 4)]
    assert in_order(there) == [parts[0], Segment("a", 1, 3), Segment("a", 3, 4), parts[5], Segment("b", 0, 0)]


def test_folders_of_checkpoints_come_by_step_and_leave_out_what_is_none(tmp_path: Path) -> None:
    for name in ("step-000100", "step-1000000", "step-000020", ".tmp-step-000300", "damaged-step-000300", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert list(checkpoint_folders(tmp_path)) == [20, 100, 1_000_000]
    assert step_of(Path(checkpoint_name(1_000_000)).name) == 1_000_000
    assert newest_checkpoint_name(tmp_path) is None
    (tmp_path / checkpoint_name(100) / MANIFEST).write_text("{}")
    assert newest_checkpoint_name(tmp_path) == "step-000100"


def test_sizes_are_told_apart_by_step_with_and_without_the_folder() -> None:
    sizes = {"checkpoints/step-000010/a.pt": 1, "step-000010/b.pt": 2, "step-000020/a.pt": 3, "notes": 4}
    assert files_by_step(sizes) == {10: {"a.pt": 1, "b.pt": 2}, 20: {"a.pt": 3}}


@pytest.mark.parametrize(
    ("sizes", "manifest", "whole"),
    [
        ({"a.pt": 5, "manifest.json": 9}, {"files": {"a.pt": {"bytes": 5}}}, True),
        ({"a.pt": 4}, {"files": {"a.pt": {"bytes": 5}}}, False),
        ({}, {"files": {"a.pt": {"bytes": 5}}}, False),
        ({}, {"files": {"a.pt": {}}}, False),  # states no size, and is not there
        ({"a.pt": 5}, {"files": {"a.pt": 5}}, False),
        ({"a.pt": 5}, {"files": {}}, False),
        ({"a.pt": 5}, {"files": ["a.pt"]}, False),
        ({"a.pt": 5}, {}, False),
        ({"a.pt": 5}, None, False),
    ],
)
def test_whole_is_what_has_every_file_that_its_manifest_states(sizes: dict, manifest: dict | None, whole: bool) -> None:
    assert is_whole(sizes, manifest) is whole
