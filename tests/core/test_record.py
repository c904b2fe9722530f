"""The record of a run as columns: the history that the rule, read plainly, gives, whatever comes late."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from patron_core.rundir import record as columns
from patron_core.rundir import rundir
from patron_core.rundir.record import EVAL_KEYS, Record, record_of
from patron_core.rundir.rundir import Event, RunDir, lineage
from trainer.contract.layout import segment_name


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "events").mkdir()
    return RunDir(tmp_path)


def _put(run: RunDir, attempt: str, number: int, lines: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps({"time": 1.0, "attempt": attempt, **line}) + "\n" for line in lines)
    (run.path / "events" / segment_name(attempt, number)).write_text(text, encoding="utf-8")


def _metrics(seq: int, step: int, **values: float) -> dict[str, Any]:
    return {"seq": seq, "kind": "metrics", "step": step, "metrics": values or {"loss": float(seq)}}


def _plainly(events: list[Event]) -> list[tuple[str, int, float, str]]:
    rows = []
    for event in lineage(events):
        values = event.data.get("metrics", {}) if event.kind == "metrics" else {}
        if event.kind == "eval":
            values = {key: event.data[name] for name, key in EVAL_KEYS.items() if name in event.data}
        rows += [(key, event.step or 0, float(value), event.attempt) for key, value in values.items()]
    return sorted(rows)


def _shown(record: Record) -> list[tuple[str, int, float, str]]:
    return sorted((key, step, value, attempt) for key, step, value, _, attempt in record.frame().iter_rows())


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_true_history_also_where_older_words_come_late(run: RunDir, seed: int) -> None:
    """Three attempts that resume here and there; their segments arrive in any order that keeps an attempt's own."""
    dice = random.Random(seed)
    waiting: dict[str, list[list[dict[str, Any]]]] = {}
    for number in (1, 2, 3):
        lines, step = [], 0
        for seq in range(1, 40):
            if seq == 1 or dice.random() < 0.08:
                step = dice.choice([0, dice.randrange(1, 20)])
                lines.append({"seq": seq, "kind": "start", "step": None, "resumed_step": step or None})
            elif dice.random() < 0.2:
                lines.append({"seq": seq, "kind": "eval", "step": step, "val_bpb": dice.random()})
            elif dice.random() < 0.1:
                lines.append({"seq": seq, "kind": "checkpoint", "step": step})
            else:
                step += 1
                lines.append(_metrics(seq, step, **({"loss": 1.0 * seq} | ({"mfu": 0.5} if seq % 3 else {}))))
        waiting[f"a-train-{number}"] = [lines[first : first + 5] for first in range(0, len(lines), 5)]
    record, given = Record(run), dict.fromkeys(waiting, 0)
    while waiting:
        attempt = dice.choice(list(waiting))
        _put(run, attempt, given[attempt], waiting[attempt].pop(0))
        given[attempt] += 1
        waiting = {name: left for name, left in waiting.items() if left}
        if dice.random() < 0.5:
            record.look()
    record.look()
    events = sorted(run.read_events()[0], key=lambda event: rundir.attempt_order(event.attempt))
    assert _shown(record) == _plainly(events)
    kept = [event for event in lineage(events) if event.kind not in ("metrics", "eval")]
    assert [(e.attempt, e.seq) for e in record.marks()] == [(e.attempt, e.seq) for e in kept]


def test_the_latest_values_and_the_phase(run: RunDir) -> None:
    record = Record(run).look()
    assert (record.latest(), record.phase()) == (({}, 0, None), "waiting for the machine")
    start = {"seq": 1, "kind": "start", "step": None, "num_steps": 9}
    evaluation = {"seq": 4, "kind": "eval", "step": 2, "val_bpb": 1.5}
    _put(run, "a-train-1", 0, [start, _metrics(2, 1, loss=3.0, mfu=0.1), _metrics(3, 2, loss=2.0), evaluation])
    assert record.look().latest() == ({"loss": 2.0, "mfu": 0.1}, 2, 1.5)
    assert (record.phase(), record.keys()) == ("eval", ["loss", "mfu", "val/bpb"])
    _put(run, "a-train-2", 0, [{"seq": 1, "kind": "start", "step": None, "resumed_step": 1}])
    assert record.look().latest() == ({"loss": 3.0, "mfu": 0.1}, 1, None)
    assert record.phase() == "start"


def test_a_curve_is_in_order_also_where_its_steps_name_other_keys(run: RunDir) -> None:
    """A search reads off its last point how far a run is: a machine of unknown speed had put that first."""
    named: list[dict[str, float]] = [{"loss": 3.0, "mfu": 0.5}, {"loss": 2.0}, {"loss": 1.0, "mfu": 0.5}]
    _put(run, "a-train-1", 0, [_metrics(step, step, **values) for step, values in enumerate(named, 1)])
    assert Record(run).look().curve("loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_each_event_is_parsed_once_however_many_look(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    real = rundir._parse_segment

    def counted(content: bytes) -> Any:
        found = real(content)
        parsed.append(len(found[0]))
        return found

    monkeypatch.setattr(rundir, "_parse_segment", counted)
    for number in range(30):
        _put(run, "a-train-1", number, [_metrics(10 * number + n, 10 * number + n) for n in range(1, 11)])
    sessions = [threading.Thread(target=lambda: record_of(RunDir(run.where)).frame()) for _ in range(8)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert sum(parsed) == 300
    _put(run, "a-train-1", 30, [_metrics(301, 301)])
    assert record_of(run).frame().height == 301
    assert sum(parsed) == 301


def test_a_long_record_is_read_in_slices(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "SLICE_SEGMENTS", 4)
    for number in range(10):
        _put(run, "a-train-1", number, [_metrics(number + 1, number + 1)])
    (run.path / "events" / segment_name("a-train-1", 6)).unlink()
    slices = list(run.slices())
    assert [(len(part.events), part.more) for part in slices] == [(4, True), (4, True), (1, False)]
    assert slices[-1].cursor == run.read_events()[1]
    assert slices[-1].cursor["missing_segments"] == 1
    assert [event.seq for event in run.read_events(slices[0].cursor)[0]] == [5, 6, 8, 9, 10]


def test_records_are_kept_up_to_so_many_bytes_not_so_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = [RunDir(tmp_path / str(number)) for number in range(20)]
    for run in where:
        (run.path / "events").mkdir(parents=True)
        _put(run, "a-train-1", 0, [_metrics(seq, seq) for seq in range(1, 101)])
    size = record_of(where[0]).bytes
    assert size < 100 * 40
    first = [record_of(run) for run in where]
    assert [record_of(run) for run in where] == first
    monkeypatch.setattr(columns, "MAX_BYTES", 3 * size)
    again = [record_of(run) for run in reversed(where)]
    assert again != first[::-1]
    assert sum(run.where in columns._records for run in where) == 3


def test_a_frame_is_made_of_one_moment(run: RunDir) -> None:
    """While another thread may read on: all of the columns are looked at with the lock held."""
    _put(run, "a-train-1", 0, [_metrics(1, 1, loss=1.0), _metrics(2, 2, loss=2.0, mfu=0.5)])
    record = Record(run).look()
    held: list[bool] = []

    class Watched(dict[tuple[str, ...], columns.Rows]):
        def values(self) -> Any:
            held.append(record._lock.locked())
            return super().values()

    record._rows = Watched(record._rows)
    assert record.frame()["key"].to_list() == ["loss", "loss", "mfu"]
    assert held
    assert all(held)
