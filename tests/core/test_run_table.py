"""Runs as a table: what each came to, tags and pins, groups, names that are told apart, what waits in its own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs_in_states import made

from patron_core import verbs
from patron_core.errors import InvalidInput, NotFound
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, runs
from patron_core.ui import run_table


def with_result(store: Store, run: Run, **result: Any) -> Run:
    with store.begin() as conn:
        return runs.set_fields(conn, run.id, now=2.0, result=result)


def test_figures_are_read_without_their_json(store: Store) -> None:
    run = with_result(store, made(store, RunState.RUNNING), val_bpb=1.5, step=4)
    (row,) = verbs.run_table(store, project="lab")
    assert (row.run.depth, row.run.corpus, row.run.num_steps) == (1, "stdlib", 10)
    assert (row.val_bpb, row.step, row.progress, row.run.device) == (
        1.5,
        4,
        0.4,
        run.estimate and run.estimate["device"],
    )
    assert row.money.held_usd_micros > 0


@pytest.mark.parametrize("value", ["high", None, {"a": 1}, [1], "NaN"])
def test_what_is_no_figure_is_none(store: Store, value: Any) -> None:
    with_result(store, made(store, RunState.RUNNING), val_bpb=value, step=value)
    (row,) = verbs.run_table(store)
    assert (row.val_bpb, row.step) == (None, None)


def test_a_live_run_is_where_its_events_say(sqlite_store: Store) -> None:
    run = made(sqlite_store, RunState.RUNNING)
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True)
    shared = {"attempt": f"{run.id}-train-1", "time": 1.0}
    lines = [
        {"seq": 1, "kind": "eval", "step": 3, "val_bpb": 2.5},
        {"seq": 2, "kind": "metrics", "step": 5, "metrics": {"train/loss": 1.0}},
        {"seq": 3, "kind": "eval", "step": 6, "val_bpb": 2.25},
    ]
    (folder / f"{run.id}-train-1-000000.jsonl").write_text("".join(json.dumps(shared | one) + "\n" for one in lines))
    (row,) = verbs.run_table(sqlite_store)
    assert (row.step, row.val_bpb, row.progress) == (6, 2.25, 0.6)
    assert verbs.evaluations(sqlite_store, run.id) == [2.5, 2.25]


def test_a_pin_is_on_top_however_old_it_is_and_tags_are_given_and_taken(store: Store) -> None:
    for _ in range(4):
        made(store, RunState.DRAFT)
    old = verbs.run_table(store)[-1].run
    assert verbs.tag(store, old.id, add=[verbs.PINNED, "lr study"], actor="ada") == ["lr study", verbs.PINNED]
    rows = verbs.run_table(store, limit=2)
    assert (rows[0].run.id, rows[0].is_pinned, len(rows)) == (old.id, True, 3)
    assert verbs.tag(store, old.id, remove=[verbs.PINNED], actor="ada") == ["lr study"]
    assert not any(row.is_pinned for row in verbs.run_table(store, limit=2))
    with pytest.raises(NotFound):
        verbs.tag(store, "nobody", add=["x"], actor="ada")
    with pytest.raises(InvalidInput):
        verbs.tag(store, old.id, add=[""], actor="ada")


def test_groups_have_their_best_and_their_cost(store: Store) -> None:
    first, second, third = (made(store, RunState.RUNNING) for _ in range(3))
    with_result(store, first, val_bpb=1.5)
    with_result(store, second, val_bpb=1.4)
    verbs.tag(store, first.id, add=["a"], actor="ada")
    verbs.tag(store, second.id, add=["a", "b"], actor="ada")
    groups = verbs.group_runs(verbs.run_table(store), "tag")
    found = {group.value: (group.num_runs, group.best.run.id if group.best else None) for group in groups}
    assert found == {"a": (2, second.id), "b": (1, second.id), "none": (1, None)}
    assert groups[-1].value == "none"
    assert third.id in {row.run.id for row in verbs.run_table(store)}
    with pytest.raises(InvalidInput, match="group by 'colour'"):
        verbs.group_runs([], "colour")


def test_runs_of_one_name_are_told_apart(sqlite_store: Store, make_run: Any) -> None:
    one, two, other = (make_run(sqlite_store, name=name) for name in ("same", "same", "other"))
    assert verbs.distinct_names({run.id: run.name for run in (one, two, other)}) == {
        one.id: f"same ({one.id})",
        two.id: f"same ({two.id})",
        other.id: "other",
    }


def test_what_waits_is_said_in_words_that_fit_its_state(sqlite_store: Store) -> None:
    proven, paused, failed = (
        made(sqlite_store, s) for s in (RunState.AWAITING_FUNDING, RunState.RUNNING, RunState.RUNNING)
    )
    made(sqlite_store, RunState.DRAFT)
    with sqlite_store.begin() as conn:
        for run, new, reason in (
            (paused, RunState.PAUSED, EndReason.OUT_OF_FUNDS),
            (failed, RunState.FAILED, EndReason.DIVERGED),
        ):
            runs.transition(conn, run.id, old=run.state, new=new, reason=reason, actor="ada", now=3.0)
    found, left = verbs.waiting_runs(sqlite_store, "lab")
    words = {one.run.id: one.words for one in found}
    assert len(left) == 3
    assert words.keys() == {proven.id, paused.id, failed.id}
    assert "Decide how much it may cost" in words[proven.id]
    assert "Fund it again to go on" in words[paused.id]
    assert "Write down what was learnt" in words[failed.id]
    verbs.write_note(sqlite_store, project="lab", body="It was the rate.", kind="failed", run_id=failed.id, actor="ada")
    assert failed.id not in {one.run.id for one in verbs.waiting_runs(sqlite_store, "lab")[0]}


def test_the_table_of_a_page_has_figures_to_sort_by_and_no_address_to_fetch(sqlite_store: Store, make_run: Any) -> None:
    run = make_run(sqlite_store, name="see http://evil.invalid/c.png <b>")
    rows = verbs.run_table(sqlite_store)
    frame = run_table.inert_frame(rows)
    assert frame["depth"].to_list() == [2]
    assert "://" not in frame["run"][0]
    drawn = run_table.formats(rows, lambda notebook, run_id: f"?run={run_id}", lambda _: [2.0, 1.0], str)
    cell = {name: made for name, made in drawn.items() if callable(made)}
    assert f"href='?run={run.id}'" in cell["run"](frame["run"][0])
    assert "&lt;b&gt;" in cell["run"](frame["run"][0])
    assert cell["curve"](run.id).count("<polyline") == 1
    assert run_table.dollars(1234.5) == "1,234.50"
    assert run_table.dollars(0.001234) == "0.00123"
