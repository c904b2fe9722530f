"""Rounds of the mirror: every run gets its turn, whatever the others' directories look like, and rests in the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trackers import MemoryTracker

from patron_core.mirror import process, tracking
from patron_core.mirror.due import RESTING
from patron_core.mirror.process import Mirroring
from patron_core.rundir import rundir
from patron_core.rundir.rundir import RunDir
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, mirrors, runs

NOW = 1000.0
ON_THE_WAY = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING)
Make = Callable[..., Run]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> MemoryTracker:
    found = MemoryTracker()
    monkeypatch.setattr(tracking, "Mlflow", lambda: found)
    monkeypatch.setattr(process, "jittered_s", lambda failures: 0.0)  # each round of these tests looks at every run
    return found


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Make:
    """A run with an attempt and, unless `steps` is 0, events; in RUNNING, or beyond it in `state`."""

    def made(number: int, *, state: RunState | None = None, steps: int = 2) -> Run:
        run = runs.create_run(
            store,
            project="p",
            name=f"run {number}",
            workload="trainer",
            spec={"depth": 2},
            spec_hash="f" * 64,
            executor="local",
            run_dir=str(tmp_path / "runs" / str(number)),
            actor="ada",
            key=str(number),
            now=NOW + number,
        )
        with store.begin() as conn:
            attempt = attempts.create(conn, run, kind="train", usd_micros_per_hour=1, price={}, now=NOW)
            attempts.submitted(conn, attempt.id, handle={}, now=NOW)
            for new in (*ON_THE_WAY, *([state] if state else [])):
                run = runs.transition(conn, run.id, old=run.state, new=new, actor="ada", now=NOW + number)
        write(run, 0, range(steps))
        return run

    return made


def write(run: Run, segment: int, steps: range) -> None:
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True, exist_ok=True)
    head = {"time": NOW, "attempt": f"{run.id}-train-1"}
    events: list[dict[str, Any]] = [{"kind": "start", "seq": 0, "step": None, "resumed_step": None}][segment:]
    events += [{"kind": "metrics", "seq": step + 1, "step": step, "metrics": {"loss": 1.0 * step}} for step in steps]
    lines = "".join(json.dumps(head | event) + "\n" for event in (events if steps else []))
    (folder / f"{run.id}-train-1-{segment:06d}.jsonl").write_text(lines)


def mirrored_steps(store: Store, tracker: MemoryTracker, run: Run) -> list[int]:
    mirror = mirrors.get(store, run.id)
    return [] if mirror is None else [point.step for point in tracker.history(mirror.mlflow_run_id, "loss")]


def test_a_directory_that_cannot_be_read_keeps_no_other_run_from_the_mirror(
    store: Store, make: Make, tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looped, broken, fine = make(1), make(2), make(3)
    Path(looped.run_dir).rename(f"{looped.run_dir}-moved")
    Path(looped.run_dir).symlink_to(looped.run_dir)
    slices = RunDir.slices

    def break_one(self: RunDir, cursor: Any = None) -> Any:
        if self.where == broken.run_dir:
            raise RuntimeError("boom")
        return slices(self, cursor)

    monkeypatch.setattr(RunDir, "slices", break_one)
    errors = Mirroring(store).round(now=NOW)
    assert [error.split(":")[0] for error in errors] == [looped.id, broken.id]
    assert "symbolic links" in errors[0]
    assert "boom" in errors[1]
    assert mirrored_steps(store, tracker, fine) == [0, 1]


def test_a_folder_named_like_a_segment_keeps_nothing_from_the_mirror(
    store: Store, make: Make, tracker: MemoryTracker
) -> None:
    run = make(1)
    (Path(run.run_dir) / "events" / f"{run.id}-train-1-000001.jsonl").mkdir()
    write(run, 2, range(2, 4))
    assert Mirroring(store).round(now=NOW) == []
    assert mirrored_steps(store, tracker, run) == [0, 1, 2, 3]


def test_every_run_that_rests_is_mirrored_however_many_came_after_it(
    store: Store, make: Make, tracker: MemoryTracker
) -> None:
    """And then left alone, a paused one and one that never said anything too, until it goes on."""
    states = [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.PAUSED]
    made = [make(number, state=states[number % 4], steps=0 if number % 9 == 0 else 2) for number in range(60)]
    assert Mirroring(store).round(now=NOW) == []
    assert [mirrored_steps(store, tracker, run) for run in made] == [[] if n % 9 == 0 else [0, 1] for n in range(60)]
    assert sorted(tracker.ends.values()) == ["FAILED"] * 13 + ["FINISHED"] * 13 + ["KILLED"] * 13
    assert mirrors.unrested(store, RESTING) == []
    paused = made[3]
    with store.begin() as conn:
        for old, new in ((RunState.PAUSED, RunState.FUNDED), (RunState.FUNDED, RunState.LAUNCHING)):
            paused = runs.transition(conn, paused.id, old=old, new=new, actor="ada", now=NOW + 100)
        paused = runs.transition(
            conn, paused.id, old=RunState.LAUNCHING, new=RunState.PAUSED, actor="ada", now=NOW + 101
        )
    assert [run.id for run in mirrors.unrested(store, RESTING)] == [paused.id]
    write(paused, 1, range(2, 3))
    Mirroring(store).round(now=NOW)
    assert mirrored_steps(store, tracker, paused) == [0, 1, 2]
    assert mirrors.unrested(store, RESTING) == []


def test_a_directory_that_is_away_is_looked_at_again(store: Store, make: Make, tracker: MemoryTracker) -> None:
    run = make(1, state=RunState.SUCCEEDED)
    away = Path(run.run_dir).rename(f"{run.run_dir}-away")
    mirror = Mirroring(store)
    (error,) = mirror.round(now=NOW)
    assert f"{run.run_dir} is missing" in error
    assert [each.id for each in mirrors.unrested(store, RESTING)] == [run.id]
    away.rename(run.run_dir)
    assert mirror.round(now=NOW) == []
    assert mirrored_steps(store, tracker, run) == [0, 1]


def test_a_backlog_is_copied_slice_by_slice_and_no_segment_is_read_twice(
    store: Store, make: Make, tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync whose time is over keeps what it sent, and the next goes on behind it."""
    monkeypatch.setattr(rundir, "SLICE_SEGMENTS", 3)
    run, read, real = make(1), [], rundir._parse_segment

    def counted(content: bytes) -> Any:
        read.append(content)
        return real(content)

    monkeypatch.setattr(rundir, "_parse_segment", counted)
    for segment in range(1, 9):
        write(run, segment, range(2 * segment, 2 * segment + 2))
    reports = []
    while not reports or reports[-1].behind:
        reports.append(tracking.sync(store, run, now=NOW, budget_s=-1.0))
        assert reports[-1].error is None
    assert [report.num_points for report in reports] == [7, 6, 6]
    assert len(read) == 9 + 3  # the first slice also says whether there is anything at all
    (points,) = tracker.points.values()
    assert sorted(point.step for point in points if point.key == "loss") == list(range(18))


def test_a_resume_in_a_later_slice_rewinds_once(
    store: Store, make: Make, tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "SLICE_SEGMENTS", 2)
    run = make(1, steps=10)
    for number, (segment, resumed, step) in enumerate(((1, 4, 5), (3, 5, 6), (5, 2, 3))):
        start = {"kind": "start", "seq": 100 * segment, "step": None, "resumed_step": resumed}
        lines = [start, {"kind": "metrics", "seq": 100 * segment + 1, "step": step, "metrics": {"loss": 50.0 + number}}]
        head = {"time": NOW, "attempt": f"{run.id}-train-1"}
        text = "".join(json.dumps(head | line) + "\n" for line in lines)
        (Path(run.run_dir) / "events" / f"{run.id}-train-1-{segment:06d}.jsonl").write_text(text)
    report = tracking.sync(store, run, now=NOW)
    assert (report.error, report.behind) == (None, False)
    (kept,) = tracker.points.keys() - tracker.trashed
    losses = sorted((point.step, point.value) for point in tracker.points[kept] if point.key == "loss")
    assert losses == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 52.0)]
    assert len(tracker.points) == 2


def test_runs_are_copied_side_by_side_where_a_server_takes_them(
    store: Store, make: Make, tracker: MemoryTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.at_once() == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for number in range(process.RUNS_AT_ONCE):
        make(number)
    together, create = threading.Barrier(process.RUNS_AT_ONCE, timeout=20.0), tracker.create

    def meeting(run: Run, tag: str) -> str:
        together.wait()
        with guard:
            return create(run, tag)

    guard = threading.Lock()
    monkeypatch.setattr(tracker, "create", meeting)
    assert Mirroring(store).round(now=NOW) == []
    assert len(tracker.points) == process.RUNS_AT_ONCE
