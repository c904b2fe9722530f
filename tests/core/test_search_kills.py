"""A whole search on a scripted machine, killed at each kind of its steps, and gone on under its key."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import HOURLY, World

from patron_core import verbs
from patron_core.executors.base import Job
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.machines import this_machine
from patron_core.states import RunState
from patron_core.store import Store, ledger, runs, searches
from patron_core.verbs import fleet, search_training
from patron_core.verbs.question import Question
from patron_core.verbs.search_log import SearchLog

BUDGET = 20_000_000
ASKED = Question(
    minutes=30,
    budget_usd_micros=BUDGET,
    depths=(1, 2),
    max_dryruns=2,
    time_limit_minutes=600,
    min_gain_bpb=0,
    spec={"vocab_size": 512, "sequence_len": 64, "batch_tokens": 1024, "eval_tokens": 4096, "data": "stdlib"},
)


class Killed(BaseException):
    """The process is gone."""


def leave(job: Job) -> None:
    """What a trainer leaves: what the burst measured, or the run's result."""
    folder = Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    measured = {"step_s": 0.02, "eval_s": 0.1, "start_s": 2.0, "train_tokens_available": 10**7}
    last_word = {"attempt": job.key, "exit_code": 0, "reason": "completed", "step": 20, "wall_s": 60.0}
    last_word |= {"burst": measured} if job.kind == "dryrun" else {"val_bpb": 2.0 - 0.1 * len(job.run_dir) % 0.05}
    (folder / "result.json").write_text(json.dumps(last_word))
    (folder / "environment.json").write_text(json.dumps({"hash": "e"}))


@pytest.fixture
def world(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    found = World(store=sqlite_store, machine=FakeExecutor(name="local"))
    found.machine.default_script = Script(run_s=60, on_end=leave)

    monkeypatch.setattr(fleet, "between_looks", lambda _: found.tick(10))
    monkeypatch.setattr(sys.modules["patron_core.verbs.fund"], "check_proof", lambda *_, **__: None)  # not its verb
    monkeypatch.setattr(this_machine, "measured_profile", lambda _: {})
    yield found
    assert ledger.verify(sqlite_store) == []
    assert all(count == 1 for count in found.machine.starts.values())


def killed_at(patch: pytest.MonkeyPatch, where: str, count: int, when: str) -> None:
    """The process dies at its `count`-th step of this kind, before it or after it is done."""
    owners = {"save": SearchLog, "fill_up": ledger, "amend": search_training, "fund": search_training}
    owner = owners.get(where, fleet)
    step, left = getattr(owner, where), [count]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Killed
        answer = step(*args, **kwargs)
        if left[0] == 0:
            raise Killed
        return answer

    patch.setattr(owner, where, deadly)


@pytest.mark.parametrize(
    ("where", "counts", "when"),
    [
        ("fill_up", (1,), "after"),
        ("plan", (1, 1), "after"),
        ("dryrun", (1,), "before"),
        ("dryrun", (1, 1), "after"),
        ("amend", (1,), "after"),
        ("fund", (1, 1), "after"),
        ("launch", (1,), "before"),
        ("launch", (1, 1), "after"),
        ("save", (1, 2, 3), "before"),
        ("save", (8,), "before"),  # the first result
        ("save", (11,), "before"),  # the answer
    ],
)
def test_killed_at_any_step_it_ends_with_one_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, counts: tuple[int, ...], when: str
) -> None:
    store = world.store
    for count in counts:  # each is a life, cut short
        with monkeypatch.context() as patch:
            killed_at(patch, where, count, when)
            with pytest.raises(Killed):
                verbs.search(store, ASKED, actor="ada", key="night")
        world.tick(100)  # what was launched goes on meanwhile
    report = verbs.search(store, ASKED, actor="ada", key="night")
    made = runs.list_runs(store, project="lab")
    assert sorted(run.spec["depth"] for run in made) == [1, 2]
    assert {run.state for run in made} == {RunState.SUCCEEDED}
    wallet = ledger.wallet(store, "lab")
    assert (wallet.deposited_usd_micros, wallet.held_usd_micros) == (BUDGET, 0)
    assert report.spent_usd_micros == wallet.spent_usd_micros <= BUDGET
    assert sorted(row.run for row in report.rows) == sorted(run.id for run in made)
    decided = searches.get(store, report.search_id).decisions
    assert sorted(d["run"] for d in decided if d["kind"] == "result") == sorted(run.id for run in made)
    assert verbs.search(store, ASKED, actor="ada", key="night").to_dict() == report.to_dict()
