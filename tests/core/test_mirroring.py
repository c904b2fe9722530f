"""Rounds of the mirror: every run gets its turn, whatever the others' directories look like, and rests in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trackers import MemoryTracker

from patron_core.mirror import process, tracking
from patron_core.mirror.due import RESTING
from patron_core.mirror.process import Mirroring
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
    read_events = RunDir.read_events

    def break_one(self: RunDir, cursor: Any = None) -> Any:
        if self.where == broken.run_dir:
            raise RuntimeError("boom")
        return read_events(self, cursor)

    monkeypatch.setattr(RunDir, "read_events", break_one)
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
