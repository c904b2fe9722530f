"""One search over two kinds of rented machine, scripted: speeds, memory and curves are theirs, decisions are real."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from scripted import World

from patron_core import verbs
from patron_core.errors import Conflict, InvalidInput
from patron_core.executors.base import Job
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.machines.target import target_of
from patron_core.scaling.stopping import Curve, expected_end, is_hopeless
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.schema import searches as searches_table
from patron_core.verbs import fleet
from patron_core.verbs.question import Question
from patron_core.verbs.report import report_of_search
from patron_core.verbs.search_training import wave_size
from trainer.contract.devices import find_device
from trainer.contract.spec import TrainSpec

BUDGET = 42_000_000
SPEED = {"A100-40GB": 0.45, "H100": 0.40}  # of their peak that a step reaches
ASKED = Question(
    minutes=60,
    budget_usd_micros=BUDGET,
    devices=("A100-40GB", "H100"),
    depths=(8, 10, 12),
    on="sky",
    spot=True,
    where="slurm/lab",  # shares this machine's files
    fallback_prices=True,
    max_dryruns=4,
    min_gain_bpb=0.0001,
    spec={"eval_every_steps": 10, "data": "climbmix"},
)


class Killed(BaseException):
    """The process is gone."""


class Machines:
    """What each kind of machine makes of a spec: `curve` is what a training leaves of its loss."""

    def __init__(self, store: Store):
        self.store = store
        self.hopeless = ""  # a device on which the loss does not fall

    def _run(self, job: Job) -> Any:
        return runs.get_run(self.store, job.key.split("-")[0])

    def step_s(self, spec: TrainSpec, device: str, ranks: int = 1) -> float:
        found = find_device(device)
        assert found is not None
        share = SPEED[device] * (1.0 if (spec.device_batch_size or 16) >= 32 else 0.9)
        return spec.recipe().flops_per_token * spec.recipe().batch_tokens / (share * found.bf16_flops * ranks)

    def begin(self, job: Job) -> None:
        run = self._run(job)
        folder = Path(job.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if job.kind == "train":
            steps, falls = run.spec["num_steps"], target_of(run).device != self.hopeless
            lines = [{"kind": "start", "step": None, "num_steps": steps}]
            for n in range(1, 61):
                loss = 4.0 - (2.0 * n / 100 if falls else 0.0)
                lines.append({"kind": "metrics", "step": steps * n // 100, "metrics": {"train/loss": loss}})
            text = "".join(
                json.dumps(line | {"seq": n, "time": 1.0 + n, "attempt": job.key}) + "\n"
                for n, line in enumerate(lines)
            )
            (folder / "events").mkdir(exist_ok=True)
            (folder / "events" / f"{job.key}-000000.jsonl").write_text(text)

    def end(self, job: Job) -> None:
        run = self._run(job)
        folder, spec, device = Path(job.run_dir), TrainSpec.from_dict(run.spec), target_of(run).device
        found = find_device(device)
        assert found is not None
        ranks = target_of(run).world.ranks
        burst = {
            "step_s": self.step_s(spec, device, ranks), "step_s_iqr": 0.001, "eval_s": 6.0, "start_s": 60.0,
            "peak_memory_bytes": int(0.012 * found.memory_bytes * spec.micro_batch_size(ranks)),
            "train_tokens_available": 10**11,
        }  # fmt: skip
        word: dict[str, Any] = {"attempt": job.key, "exit_code": 0, "reason": "completed", "step": 8, "wall_s": 60.0}
        word |= {"burst": burst} if job.kind == "dryrun" else self._result(run, spec)
        (folder / "result.json").write_text(json.dumps(word))
        (folder / "environment.json").write_text(json.dumps({"hash": "e"}))

    def _result(self, run: Any, spec: TrainSpec) -> dict[str, Any]:
        short = 1.1 if self.hopeless else 1.0  # of what was hoped for, so that the other device is tried
        return {"step": spec.num_steps, "val_bpb": short * run.estimate["val_bpb"]["mid"]}


@pytest.fixture
def world(sqlite_store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PATRON_RUNS", str(home / "runs"))
    machines = Machines(sqlite_store)
    found = World(store=sqlite_store, machine=FakeExecutor(name="sky"), now=time.time())
    found.machine.default_script = Script(run_s=900, on_start=machines.begin, on_end=machines.end)
    found.machines = machines  # type: ignore[attr-defined]
    looks = iter(range(2000))

    def between_looks(_: Store) -> None:
        next(looks)
        found.tick(60)

    monkeypatch.setattr(fleet, "between_looks", between_looks)
    monkeypatch.setattr(time, "time", lambda: found.now)  # a verb's clock is the machines'
    monkeypatch.setattr("patron_core.executors.skypilot.check_server", lambda: None)
    monkeypatch.setattr("patron_core.executors.skypilot.check_offered", lambda machine: None)
    monkeypatch.setattr(sys.modules["patron_core.verbs.fund"], "check_proof", lambda *_, **__: None)
    yield found
    assert ledger.verify(sqlite_store) == []
    assert all(count == 1 for count in found.machine.starts.values())


def kinds(report: Any, kind: str) -> list[dict[str, Any]]:
    return [decision for decision in report.decisions if decision["kind"] == kind]


def test_the_sentence_end_to_end(world: World) -> None:
    together: list[int] = []

    def watch(_line: str, _seen: Any) -> None:
        together.append(sum(run.state is RunState.DRYRUN for run in runs.list_runs(world.store)))

    report = verbs.search(world.store, ASKED, actor="ada", key="night", on_progress=watch)
    made = {run.id: run for run in runs.list_runs(world.store)}
    assert {d["device"] for d in kinds(report, "estimate")} == {"A100-40GB", "H100"}
    assert max(together) > 1  # dryruns in waves
    fits = kinds(report, "fit")
    assert {made[d["run"]].spec["data_shards"] is not None for d in fits} == {True}
    varied = kinds(report, "vary")
    assert varied, "a burst that leaves memory over is followed by a larger micro-batch"
    assert all("Evaluations every 10 steps would add" in d["sentence"] for d in fits)
    best = made[report.best_run or ""]
    spec = TrainSpec.from_dict(best.spec)
    recipe = spec.recipe()
    num_evals = 1 + -(-recipe.num_steps // spec.eval_every_steps) if spec.eval_every_steps else 1
    assert num_evals * 6.0 <= 0.055 * recipe.num_steps * world.machines.step_s(spec, "H100")  # type: ignore[attr-defined]
    assert target_of(best).device == "H100"  # faster by more than it is dearer
    assert (best.estimate or {})["wall_s"]["high"] <= 3600
    first = kinds(report, "train")[0]
    assert "H100 spot" in first["sentence"]
    assert "would reach" in first["sentence"]
    assert "A100-40GB" in first["sentence"]
    wallet = ledger.wallet(world.store, "lab")
    assert report.spent_usd_micros == wallet.spent_usd_micros <= BUDGET == wallet.deposited_usd_micros
    assert wallet.held_usd_micros == 0
    (note,) = [n for n in verbs.read_notes(world.store, project="lab") if n.kind == "result"]
    for words in ("Asked: the lowest val_bpb in 60 min", "for at most $42.00", "measured", "Spent $"):
        assert words in note.body


@pytest.mark.parametrize("at", [("dryrun", 2), ("launch", 1)])
def test_killed_it_goes_on_with_the_whole_budget_in_view(
    world: World, monkeypatch: pytest.MonkeyPatch, at: tuple[str, int]
) -> None:
    where, count = at
    step, left = getattr(fleet, where), [count]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        answer = step(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(fleet, where, deadly)
        with pytest.raises(Killed):
            verbs.search(world.store, ASKED, actor="ada", key="night")
    world.tick(1000)
    report = verbs.search(world.store, ASKED, actor="ada", key="night")
    made = runs.list_runs(world.store)
    bursts = [a.run_id for run in made for a in attempts.for_run(world.store, run.id) if a.kind == "dryrun"]
    assert len(bursts) == len(set(bursts))
    assert report.spent_usd_micros == ledger.wallet(world.store, "lab").spent_usd_micros
    assert ledger.wallet(world.store, "lab").deposited_usd_micros == BUDGET
    assert verbs.search(world.store, ASKED, actor="ada", key="night").to_dict() == report.to_dict()


def test_a_hopeless_run_is_stopped_early_and_that_is_said(world: World) -> None:
    world.machines.hopeless = "A100-40GB"  # type: ignore[attr-defined]
    asked = replace(ASKED, max_dryruns=2, max_variants=0, depths=(10,), min_gain_bpb=0.0, max_runs=2)
    report = verbs.search(world.store, asked, actor="ada", key="night")
    (stopped,) = kinds(report, "stop_early")
    assert "with 95 % no lower than" in stopped["sentence"]
    run = runs.get_run(world.store, stopped["run"])
    assert (target_of(run).device, run.state, run.reason) == ("A100-40GB", RunState.CANCELLED, EndReason.CANCELLED)
    assert report.cut_short == [f"{run.name} was cut short: cancelled (cancelled)."]
    assert target_of(runs.get_run(world.store, report.best_run or "")).device == "H100"


def test_trainings_that_the_time_leaves_no_turn_of_their_own_run_beside_each_other(world: World) -> None:
    together: list[int] = []

    def watch(_line: str, _seen: Any) -> None:
        living = [run for run in runs.list_runs(world.store) if run.state in (RunState.LAUNCHING, RunState.RUNNING)]
        together.append(len(living))

    asked = replace(
        ASKED, max_dryruns=2, max_variants=0, depths=(10,), max_runs=2, time_limit_minutes=61, min_gain_bpb=0.0
    )
    report = verbs.search(world.store, asked, actor="ada", key="night", on_progress=watch)
    assert max(together) == 2
    assert {d["device"] for d in kinds(report, "train")} == {"A100-40GB", "H100"}
    assert "beside 1 that the time leaves no turn of its own" in kinds(report, "train")[1]["sentence"]
    assert len(kinds(report, "result")) == 2
    assert report.spent_usd_micros <= BUDGET


def test_the_number_of_gpus_is_chosen_where_more_than_one_is_asked_for(world: World) -> None:
    asked = replace(ASKED, devices=("H100",), gpus=(1, 8), max_dryruns=2, max_variants=0, depths=(10,), max_runs=1)
    asked = replace(asked, budget_usd_micros=1_000_000_000)
    report = verbs.search(world.store, asked, actor="ada", key="night")
    assert {d["device"] for d in kinds(report, "estimate")} == {"H100", "8xH100"}
    best = runs.get_run(world.store, report.best_run or "")
    assert (target_of(best).num_gpus, report.devices[best.id]) == (8, "8xH100 spot")
    steps = {target_of(runs.get_run(world.store, d["run"])).name: d["num_steps"] for d in kinds(report, "fit")}
    assert 2 * steps["H100"] < steps["8xH100"], steps
    (trained,) = kinds(report, "train")
    assert "Depth 10 on 8xH100 spot" in trained["sentence"]
    assert "Depth 10 on H100 spot would reach" in trained["sentence"]
    assert (best.estimate or {})["wall_s"]["high"] <= 3600
    assert verbs.search(world.store, asked, actor="ada", key="night").to_dict() == report.to_dict()
    together = replace(asked, gpus=(8,), nodes=2, depths=(6, 10))
    report = verbs.search(world.store, together, actor="ada", key="two")
    assert {run.estimate["num_nodes"] for run in runs.list_runs(world.store) if run.name.startswith("2x8xH100")} == {2}
    said = report_of_search(world.store, "two")
    assert "on H100, 8 GPUs each, 2 machines together" in said.question
    assert "--gpus 8 --nodes 2" in said.commands[0]


def test_a_number_of_gpus_that_divides_no_step_is_dropped_with_its_reason(world: World) -> None:
    asked = replace(ASKED, devices=("H100",), gpus=(1, 7), max_dryruns=2, max_variants=0, depths=(10,), max_runs=1)
    report = verbs.search(world.store, asked, actor="ada", key="night")
    (dropped,) = kinds(report, "drop")
    assert (dropped["device"], dropped["sentence"]) == ("7xH100", "Its step cannot be divided over so many GPUs.")
    assert target_of(runs.get_run(world.store, report.best_run or "")).num_gpus == 1


def test_a_search_from_before_the_number_of_gpus_could_be_chosen_goes_on(world: World) -> None:
    asked = replace(ASKED, max_dryruns=1, max_variants=0, depths=(10,), max_runs=1)
    report = verbs.search(world.store, asked, actor="ada", key="night")
    before = {name: value for name, value in asdict(asked).items() if name not in ("gpus", "nodes")}
    with world.store.begin() as conn:
        conn.execute(sa.update(searches_table).values(question=before))
    assert verbs.search(world.store, asked, actor="ada", key="night").to_dict() == report.to_dict()
    with pytest.raises(Conflict, match=r"gpus \[1\], now \[1, 8\]"):
        verbs.search(world.store, replace(asked, gpus=(1, 8)), actor="ada", key="night")


def test_how_many_at_once() -> None:
    def size(time_left_s: float, parallel: int = 4) -> int:
        return wave_size(runs_left=3, time_left_s=time_left_s, run_s=100.0, parallel=parallel)

    assert [size(s) for s in (1000.0, 300.0, 299.0, 199.0, 50.0)] == [1, 1, 2, 3, 3]
    assert size(150.0, parallel=2) == 2


def test_every_problem_of_a_question_is_told_before_money(sqlite_store: Store) -> None:
    asked = replace(ASKED, devices=("H100", "abacus"), depths=(8, 99), spec={"evl_every": 3, "lr_scale": -1})
    with pytest.raises(InvalidInput) as caught:
        verbs.search(sqlite_store, asked, actor="ada")
    said = "; ".join(caught.value.problems)
    for words in ("'abacus'", "evl_every: unknown key; did you mean", "lr_scale: -1", "depth: 99"):
        assert words in said


def test_curves_say_nothing_early_and_more_the_later() -> None:
    def curve(height: float, share: float, end: float | None = None) -> Curve:
        points = [(n, height * (4.0 - 2.0 * n / 1000)) for n in range(1, int(1000 * share) + 1)]
        return Curve(points=points, num_steps=1000, val_bpb=end)

    others = [curve(1.0, 1.0, 0.9), curve(1.02, 1.0, 0.918)]
    assert expected_end(curve(1.0, 0.2), others) is None
    assert expected_end(curve(1.0, 0.5), [curve(1.0, 1.0)]) is None  # one that has no end to learn from
    sparse = Curve(points=[(0, 6.0), (900, 2.0)], num_steps=1000, val_bpb=1.0)  # only its beginning at that share
    assert expected_end(curve(1.0, 0.5), [sparse]) is None
    half, late = expected_end(curve(1.1, 0.5), others), expected_end(curve(1.1, 0.9), others)
    assert half is not None
    assert late is not None
    assert half.mid == pytest.approx(0.99, rel=1e-3)
    assert late.high - late.low < half.high - half.low
    assert is_hopeless(curve(1.01, 0.9), others, 0.9) is None  # as good as can be told
    assert is_hopeless(curve(1.2, 0.5), others, 0.9) is not None
