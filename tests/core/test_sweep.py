"""A whole sweep on a scripted machine: one proof for a shape, one hold, so many at once, killed and gone on."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import HOURLY, World

from patron_core import verbs
from patron_core.errors import Conflict, InvalidInput, NotFound, Refused
from patron_core.executors.base import Job
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.notebook import Lab
from patron_core.scaling.seeds import compare_groups, student_quantile, two_sided_p
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs, tags
from patron_core.verbs import adopt as adopting
from patron_core.verbs import fleet
from patron_core.verbs.sweep import estimate_sweep

sweeping = sys.modules["patron_core.verbs.sweep"]  # the verb has its name
SPEC = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "batch_tokens": 1024, "eval_tokens": 4096, "num_steps": 20}
ASKED = verbs.Sweep(
    name="lr", grid={"lr_scale": [0.5, 1, 2]}, seeds=2, spec=SPEC, budget_usd_micros=20_000_000, tags=["study"]
)


class Killed(BaseException):
    """The process is gone."""


def leave(job: Job) -> None:
    """What a trainer leaves; the rate decides how good it is, the seed a little."""
    folder = Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    spec = json.loads((folder / "spec.json").read_text()) if (folder / "spec.json").exists() else {}
    bpb = 2.0 + 0.5 * abs(math.log2(spec.get("lr_scale", 1.0) / 2)) + 0.004 * (spec.get("seed", 42) % 2)
    measured = {"step_s": 0.02, "eval_s": 0.1, "start_s": 2.0, "train_tokens_available": 10**6}
    last_word: dict[str, Any] = {"attempt": job.key, "exit_code": 0, "reason": "completed", "step": 20, "wall_s": 60.0}
    last_word |= {"burst": measured} if job.kind == "dryrun" else {"val_bpb": bpb}
    (folder / "result.json").write_text(json.dumps(last_word))
    (folder / "environment.json").write_text(json.dumps({"hash": "e"}))


@pytest.fixture
def world(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    found = World(store=sqlite_store, machine=FakeExecutor(name="local"))
    found.machine.default_script = Script(run_s=4, on_end=leave)
    looks = iter(range(90))

    def between_looks(_: Store) -> None:
        next(looks)  # a plan that never ends fails here
        found.tick(10)

    monkeypatch.setattr(fleet, "between_looks", between_looks)
    looked: list[str] = []
    monkeypatch.setattr(
        sys.modules["patron_core.verbs.fund"],
        "current_environment",
        lambda folder, _, workload: looked.append(folder) or {"hash": "e"},
    )
    found.looked = looked  # type: ignore[attr-defined]
    yield found
    assert ledger.verify(sqlite_store) == []
    assert all(count == 1 for count in found.machine.starts.values())


def test_runs_of_a_shape_share_one_dryrun_and_all_share_one_hold(world: World) -> None:
    store = world.store
    together: list[int] = []

    def watch(_line: str, seen: Any) -> None:
        together.append(sum(run.state is RunState.RUNNING for run in runs.list_runs(store)))

    grid = {"lr_scale": [0.5, 1, 2], "depth": [1, 2]}
    asked = replace(ASKED, grid=grid, max_parallel=3)
    expected = estimate_sweep(store, asked)
    assert (len(expected.rows), expected.num_dryruns) == (12, 2)
    report = verbs.sweep(store, asked, actor="ada", key="k", on_progress=watch)
    made = runs.list_runs(store)
    assert {run.state for run in made} == {RunState.SUCCEEDED}
    bursts = [a for run in made for a in attempts.for_run(store, run.id) if a.kind == "dryrun"]
    assert len(bursts) == 2
    assert len(set(world.looked)) == 2  # type: ignore[attr-defined]  # each proof looked at once
    assert len(world.looked) == 2  # type: ignore[attr-defined]
    assert max(together) == 3
    holds = [
        entry for entry in ledger.statement(store, "lab", 1000) if entry.kind == "hold" and "dryrun" not in entry.key
    ]
    assert (len(holds), len({entry.time for entry in holds})) == (12, 1)
    assert sum(entry.usd_micros for entry in holds) <= expected.hold_usd_micros
    assert all((run.dryrun or {})["spec_hash"] == run.spec_hash for run in made)
    assert len([run for run in made if "proven_by" in (run.dryrun or {})]) == 10
    wallet = ledger.wallet(store, "lab")
    assert (report.spent_usd_micros, wallet.held_usd_micros) == (wallet.spent_usd_micros, 0)
    assert set(tags.run_ids(store, ["study", "lr"])) == {run.id for run in made}
    assert report.is_whole
    assert report.best == "lr_scale=2 depth=1"


def test_the_comparison_tells_a_difference_from_the_noise_of_seeds(world: World) -> None:
    report = verbs.sweep(world.store, replace(ASKED, seeds=3), actor="ada", key="k")
    assert [group.label for group in report.comparison.groups] == ["lr_scale=2", "lr_scale=1", "lr_scale=0.5"]
    assert all(contrast.is_real for contrast in report.comparison.contrasts)
    assert "better than every other beyond the noise" in report.sentence
    by_seed = verbs.compare_by([replace(row, values={"seed": row.seed}) for row in report.rows], ["seed"])
    assert not any(contrast.is_real for contrast in by_seed.contrasts)
    with pytest.raises(InvalidInput, match=r"lr_scal: unknown key; did you mean lr_scale\?"):
        verbs.compare_by(report.rows, ["lr_scal"])
    (note,) = [n for n in verbs.read_notes(world.store, project="lab") if n.kind == "result"]
    assert "lr_scale=2: mean val_bpb 2.00" in note.body


@pytest.mark.parametrize(
    ("owner", "where", "count", "when"),
    [
        (fleet, "plan", 3, "after"),
        (fleet, "dryrun", 1, "after"),
        (fleet, "adopt", 2, "before"),
        (adopting, "repriced", 3, "before"),  # its proof is taken over, its estimate not yet
        (sweeping, "fund_together", 1, "after"),
        (fleet, "launch", 2, "before"),
    ],
)
def test_killed_at_any_step_it_goes_on_and_does_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: Any, where: str, count: int, when: str
) -> None:
    step, left = getattr(owner, where), [count]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Killed
        answer = step(*args, **kwargs)
        if left[0] == 0:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, deadly)
        with pytest.raises(Killed):
            verbs.sweep(world.store, ASKED, actor="ada", key="k")
    world.tick(100)  # what was launched goes on meanwhile
    report = verbs.sweep(world.store, ASKED, actor="ada", key="k")
    made = runs.list_runs(world.store)
    assert (len(made), {run.state for run in made}) == (6, {RunState.SUCCEEDED})
    assert len([a for run in made for a in attempts.for_run(world.store, run.id) if a.kind == "dryrun"]) == 1
    assert report.is_whole
    assert ledger.wallet(world.store, "lab").deposited_usd_micros == ASKED.budget_usd_micros
    assert verbs.sweep(world.store, ASKED, actor="ada", key="k").to_dict() == report.to_dict()
    with pytest.raises(Conflict, match="asked another question"):
        verbs.sweep(world.store, replace(ASKED, seeds=1), actor="ada", key="k")


def test_a_run_that_comes_no_further_gets_no_more_and_more_money(world: World) -> None:
    world.machine.default_script = Script(run_s=4, on_end=leave)
    world.machine.script(Script(run_s=4, on_end=leave), *[Script()] * 20)  # the first is the dryrun
    report = verbs.sweep(world.store, replace(ASKED, grid={"lr_scale": [1]}, seeds=1), actor="ada", key="k")
    assert [d["kind"] for d in report.decisions].count("top_up") == 2
    assert not report.is_whole
    assert "1 of 1 runs did not come to their end" in report.sentence


def test_what_cannot_be_paid_for_whole_is_not_begun(world: World) -> None:
    asked = replace(ASKED, seeds=6, spec=SPEC | {"num_steps": 900}, budget_usd_micros=300_000)  # the dryrun, and some
    with pytest.raises(Refused, match="18 runs need up to"):
        verbs.sweep(world.store, asked, actor="ada", key="k")
    assert {run.state for run in runs.list_runs(world.store)} == {RunState.AWAITING_FUNDING}
    assert ledger.wallet(world.store, "lab").held_usd_micros == 0


def test_every_problem_of_every_cell_is_told_before_anything_is_planned(sqlite_store: Store) -> None:
    asked = replace(ASKED, grid={"lr_scale": [1, -1], "evl_every": [3]}, budget_usd_micros=-1)
    with pytest.raises(InvalidInput) as caught:
        verbs.sweep(sqlite_store, asked, actor="ada")
    said = "; ".join(caught.value.problems)
    assert "evl_every: unknown key; did you mean eval_every" in said
    assert "budget" in said
    with pytest.raises(InvalidInput, match=r"lr_scale=-1 seed=42: lr_scale: -1; allowed"):
        verbs.sweep(sqlite_store, replace(ASKED, grid={"lr_scale": [1, -1]}), actor="ada")
    assert runs.list_runs(sqlite_store) == []


def test_a_proof_is_not_shared_with_another_shape(world: World) -> None:
    store = world.store
    verbs.deposit(store, usd_micros=10**7, key="d", actor="ada")
    first = verbs.plan(store, spec=SPEC, actor="ada")
    verbs.dryrun(store, first.id, actor="ada")
    while runs.get_run(store, first.id).state is RunState.DRYRUN:
        world.tick(10)
    other = verbs.plan(store, spec=SPEC | {"depth": 2, "seed": 7}, actor="ada")
    with pytest.raises(Refused, match=r"proves nothing of run .*: depth differ"):
        adopting.adopt(store, other.id, first.id, actor="ada")
    longer = verbs.plan(store, spec=SPEC | {"num_steps": 10**5}, actor="ada")
    with pytest.raises(Refused, match="the dryrun found 1000000"):
        adopting.adopt(store, longer.id, first.id, actor="ada")


def test_a_notebook_of_ones_own_sweeps_waits_and_compares(world: World, home: Path) -> None:
    lab = Lab(world.store, project="lab", actor="ada")
    asked: dict[str, Any] = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "batch_tokens": 1024, "steps": 20}
    sweep = lab.sweep("lr", grid={"lr_scale": [0.5, 1, 2]}, seeds=2, tags=["lr-study"], **asked)
    assert sweep.estimate().num_dryruns == 1
    with pytest.raises(Refused, match="not launched"):
        asyncio.run(sweep.wait())
    sweep.launch(max_usd=20).launch(max_usd=20)  # pressed twice
    report = asyncio.run(sweep.wait())
    assert report.is_whole
    assert "lr_scale=2 is best" in sweep.compare(by="lr_scale").sentence
    assert "lr_scale=2" in sweep.compare()._repr_html_()
    frame = lab.runs(tags="lr-study").frame()
    assert sorted(frame["run"]) == sorted(sweep.ids) == sorted(run.id for run in runs.list_runs(world.store))
    assert lab.note("2.0 wins", kind="result", runs=sweep).links["runs"] == sweep.ids
    again = lab.sweep("lr", grid={"lr_scale": [0.5, 1, 2]}, seeds=2, tags=["lr-study"], **asked)
    assert asyncio.run(again.launch(max_usd=20).wait()).sweep_id == report.sweep_id  # after a restart
    with pytest.raises(Conflict):
        asyncio.run(again.launch(max_usd=30).wait())
    with pytest.raises(NotFound, match=r"no run has the tag 'lr-studie'; tags: lr, lr-study"):
        lab.runs(tags="lr-studie")
    with pytest.raises(NotFound):
        lab.runs("nobody")
    with pytest.raises(InvalidInput, match=r"evl_every: unknown key; did you mean eval_every"):
        lab.sweep("x", grid={"lr_scale": [1]}, evl_every=3)
    two = lab.sweep("two", grid={"lr_scale": [1]}, gpus=2, **asked)  # here without GPUs: processes
    assert {(row.world.ranks, row.to_dict()["num_gpus"]) for _, row in two.estimate().rows} == {(2, 2)}
    with pytest.raises(InvalidInput, match=r"nodes: 2; this machine is one"):
        lab.sweep("x", grid={"lr_scale": [1]}, nodes=2)


def test_students_t_is_the_tables() -> None:
    for degrees, t in ((1, 12.706), (3, 3.182), (10, 2.228), (60, 2.000)):  # 97.5 %, of any textbook
        assert student_quantile(0.975, degrees) == pytest.approx(t, abs=1e-3)
        assert two_sided_p(t, degrees) == pytest.approx(0.05, abs=1e-4)
    one_seed = compare_groups({"a": [1.0], "b": [2.0], "c": []})
    assert [c.is_real for c in one_seed.contrasts] == [False]
    assert one_seed.pooled_spread is None
    noisy = compare_groups({"a": [1.0, 1.2], "b": [1.05, 1.3], "c": [5.0, 5.1]})
    assert [(c.other, c.is_real) for c in noisy.contrasts] == [("b", False), ("c", True)]


BUSY = Script(run_s=400, on_end=leave)  # a dryrun that takes twice what is held for it


def test_a_dryrun_whose_hold_ran_out_is_made_again_with_twice_as_much(world: World) -> None:
    world.machine.script(BUSY, BUSY)
    report = verbs.sweep(world.store, replace(ASKED, seeds=1), actor="ada", key="k")
    assert report.is_whole
    tried = [a for run in runs.list_runs(world.store) for a in attempts.for_run(world.store, run.id)]
    bursts = [a for a in tried if a.kind == "dryrun"]
    assert [a.reason for a in bursts] == [EndReason.OUT_OF_FUNDS, EndReason.OUT_OF_FUNDS, EndReason.COMPLETED]
    held = sorted(e.usd_micros for e in ledger.statement(world.store, "lab", 1000) if ":dryrun:" in e.key)
    assert held[1] >= 2 * (held[0] - 15_000)  # the seconds to stop in apart
    assert held[2] >= 2 * (held[1] - 15_000)


def test_out_of_money_in_the_middle_it_goes_on_under_its_key_with_more(world: World) -> None:
    world.machine.script(BUSY)
    short = replace(ASKED, seeds=1, budget_usd_micros=300_000)
    with pytest.raises(Refused, match=r"are left; under its key \(k\) it goes on") as caught:
        verbs.sweep(world.store, short, actor="ada", key="k")
    needed = float(re.findall(r"more than \$([\d.]+) in all", caught.value.message)[0])
    assert 0.3 < needed < 20
    enough = replace(short, budget_usd_micros=20_000_000)
    report = verbs.sweep(world.store, enough, actor="ada", key="k")
    assert report.is_whole
    assert len(runs.list_runs(world.store)) == 3
    assert verbs.sweep(world.store, enough, actor="ada", key="k").to_dict() == report.to_dict()
    with pytest.raises(Conflict):  # it is done
        verbs.sweep(world.store, replace(enough, budget_usd_micros=30_000_000), actor="ada", key="k")


def test_why_no_run_passed_is_said_in_every_life(world: World) -> None:
    world.machine.script(Script(run_s=4, exit_code=1))
    for _ in range(2):
        with pytest.raises(Refused, match=r"no run passed its dryrun\. lr.*: its dryrun failed\. The workload failed"):
            verbs.sweep(world.store, replace(ASKED, seeds=1), actor="ada", key="k")


def test_a_dryrun_that_is_not_made_again_is_passed_over_in_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MOST_DRYRUNS", 1)
    world.machine.script(BUSY)
    with pytest.raises(Refused, match=r"passed its dryrun\. lr.*: The money held for it is used up\."):
        verbs.sweep(world.store, replace(ASKED, seeds=1), actor="ada", key="k")
