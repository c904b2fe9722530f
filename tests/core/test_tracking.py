"""The mirror on a real MLflow: exactly once, through crashes in every gap, rewinds, dead trackers and torn lines."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
import sqlalchemy as sa
from s3 import S3Server

from patron_core import settings, verbs
from patron_core.errors import Unavailable
from patron_core.machines.host import this_host
from patron_core.mirror import tracking
from patron_core.mirror.copy import ARTIFACT_RETRY_S, PENDING_TAG, RUN_TAG, Copy, Overtaken
from patron_core.mirror.position import Position, flatten
from patron_core.mirror.tracker import first_line
from patron_core.rundir import places
from patron_core.rundir.rundir import Event
from patron_core.states import RunState
from patron_core.store import Store, hosts, labs, mirrors, runs
from patron_core.store.records import Run
from trainer.contract.remote import Remote

NOW = 1_800_000_000.0
SPEC = {"depth": 2, "seed": 42, "features": {"rope": True}, "note": "x" * 7000, "odd,key": None}


def mirror_one(folder: Path, key: str) -> None:
    """What each process of a race does, from opening the store to reading the points back. Prints into a file."""
    with (folder / f"{key}.printed").open("w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    store = Store.open()
    run = make_run(store, folder / "runs", key=key, project="race")
    Workload(Path(run.run_dir)).start("a-train-1", None, *metrics(1, 2))
    assert sync(store, run).num_points == 5
    assert curve(store, run) == expected(range(1, 3))
    store.close()


@dataclass(frozen=True)
class Race:
    """Two processes that both found no MLflow database."""

    home: Path
    exit_codes: list[int | None]
    printed: list[str]


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Race:
    home = tmp_path_factory.mktemp("race")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATRON_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "PATRON_DATABASE_URL"):
            patch.delenv(name, raising=False)
        Store.open().close()
        with redirect_stdout(StringIO()) as printed, redirect_stderr(printed), tracking._calm(5):
            pass  # MLflow is imported here
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks of polars' threads
        processes = [spawn.Process(target=mirror_one, args=(home, key)) for key in ("k1", "k2")]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=120)
    said = [printed.getvalue(), *((home / f"{key}.printed").read_text() for key in ("k1", "k2"))]
    return Race(home, [process.exitcode for process in processes], said)


@pytest.fixture(scope="module")
def blank_home(race: Race) -> Path:
    """A home with an MLflow database: making its tables takes seconds, copying them none."""
    return race.home


@pytest.fixture
def store(blank_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for file in blank_home.glob("mlflow.db*"):
        shutil.copy(file, tmp_path / file.name)
    monkeypatch.setenv("PATRON_HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "PATRON_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "SLOW_S", 100.0)  # a busy machine is no dead tracker
    monkeypatch.setattr(tracking, "_left_alone_until", {})
    opened = Store.open()
    yield opened
    opened.close()


class Workload:
    """Writes a run directory as the trainer does, one closed segment a call."""

    def __init__(self, path: Path):
        self.path = path
        self.time = NOW
        self.counts: Counter[str] = Counter()
        self.segments: Counter[str] = Counter()
        (path / "events").mkdir(parents=True)

    def write(self, attempt: str, *events: dict[str, Any], tail: str = "") -> None:
        lines = []
        for event in events:
            self.time += 1.0
            head = {"seq": self.counts[attempt], "time": self.time, "attempt": attempt, "step": None}
            lines.append(json.dumps(head | event) + "\n")
            self.counts[attempt] += 1
        name = f"{attempt}-{self.segments[attempt]:06d}.jsonl"
        self.segments[attempt] += 1
        (self.path / "events" / name).write_text("".join(lines) + tail, encoding="utf-8")

    def start(self, attempt: str, resumed_step: int | None, *events: dict[str, Any], tail: str = "") -> None:
        self.write(attempt, {"kind": "start", "resumed_step": resumed_step}, *events, tail=tail)


def metrics(*steps: int, loss: Callable[[int], float] = lambda step: 10.0 - step) -> list[dict[str, Any]]:
    return [
        {"kind": "metrics", "step": step, "metrics": {"train/loss": loss(step), "train/mfu": 0.5, "note": "text"}}
        for step in steps
    ]


def evaluation(step: int) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "val_bpb": 2.0 - step / 100, "val_loss": 3.0, "seconds": 1.0, "tokens": 8}


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    return make_run(store, tmp_path / "runs")


@pytest.fixture
def workload(run: Run) -> Workload:
    return Workload(Path(run.run_dir))


def make_run(store: Store, folder: Path, key: str = "k1", project: str = "lab/one") -> Run:
    return runs.create_run(
        store,
        project=project,
        name="baseline",
        workload="trainer",
        spec=SPEC,
        spec_hash="5" * 64,
        executor="local",
        run_dir=lambda run_id: str(folder / run_id),
        actor="tester",
        key=key,
        now=NOW - 10,
    )


def in_state(store: Store, run: Run, *states: RunState) -> Run:
    for old, new in zip((run.state, *states), states, strict=False):
        with store.begin() as conn:
            run = runs.transition(conn, run.id, old=old, new=new, actor="tester", now=NOW)
    return run


def sync(store: Store, run: Run, **arguments: Any) -> tracking.MirrorReport:
    report = tracking.sync(store, run, now=NOW, **arguments)
    assert report.error is None, report.error
    return report


def client() -> Any:
    with tracking._calm(5):
        return tracking._client()


def active(run: Run, tag: str = RUN_TAG) -> list[Any]:
    experiment = client().get_experiment_by_name(run.project)
    return list(client().search_runs([experiment.experiment_id], f"tags.`{tag}` = '{run.id}'"))


def only(run: Run) -> Any:
    (found,) = active(run)
    return found


def curve(store: Store, run: Run, key: str = "train/loss") -> list[tuple[int, float]]:
    frame = tracking.metrics_frame(store, [run.id], [key])
    return list(zip(frame["step"].to_list(), frame["value"].to_list(), strict=True))


def expected(steps: range, loss: Callable[[int], float] = lambda step: 10.0 - step) -> list[tuple[int, float]]:
    return [(step, loss(step)) for step in steps]


class TestNormal:
    def test_everything_arrives(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, evaluation(0), *metrics(1, 2, 3), evaluation(3))
        hosts.heard(store, this_host())
        with store.begin() as conn:
            runs.adopt(conn, run.id, host_id=this_host().id)
        run = runs.get_run(store, run.id)
        (workload.path / "spec.json").write_text(json.dumps(SPEC))
        (workload.path / "environment.json").write_text(json.dumps({"hash": "e" * 8, "python": "3.11"}))
        report = sync(store, run)
        assert (report.num_events, report.highest_step, report.rewound_to, report.behind) == (6, 3, None, False)
        assert report.artifacts == ("spec.json", "environment.json")
        assert curve(store, run) == expected(range(1, 4))
        assert curve(store, run, "val/bpb") == [(0, 2.0), (3, 1.97)]
        assert curve(store, run, "patron/attempt") == [(0, 1.0)]
        found = only(run)
        assert found.info.run_name == "baseline"
        assert found.info.run_id == report.mlflow_run_id
        assert client().get_experiment(found.info.experiment_id).name == "lab/one"
        assert found.info.artifact_uri.startswith((settings.artifacts_folder()).as_uri())
        tags = {key: value for key, value in found.data.tags.items() if key.startswith("patron.")}
        assert tags == {
            "patron.run": run.id,
            "patron.lab": labs.lab_id(store),
            "patron.attempt": "a-train-1",
            "patron.spec_hash": "5" * 64,
            "patron.environment_hash": "e" * 8,
            "patron.state": "draft",
            "patron.actor": "tester",
            "patron.host": this_host().name,
            "patron.host_id": this_host().id,
        }
        assert found.data.tags["mlflow.user"] == "tester"
        with store.begin() as conn:  # as a colleague sees it, whose machine has no such folder
            conn.execute(sa.text("UPDATE runs SET host_id = 'another', run_dir = '/nowhere'"))
        seen = verbs.curves(store, run.id).filter(pl.col("key") == "train/loss")
        assert list(zip(seen["step"], seen["value"], strict=True)) == expected(range(1, 4))
        first = client().get_metric_history(found.info.run_id, "train/loss")[0]
        assert (first.step, first.timestamp) == (1, int((NOW + 3) * 1000))
        assert not (Path.cwd() / "mlruns").exists()

    def test_params_keep_mlflows_limits(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None)
        sync(store, run)
        frame = tracking.params_frame(store, [run.id])
        params = dict(zip(frame["key"].to_list(), frame["value"].to_list(), strict=True))
        assert params["depth"] == "2"
        assert params["features.rope"] == "true"
        assert params["odd_key"] == "null"
        assert len(params["note"]) == 6000
        assert params["note"].endswith("...")

    def test_many_params_go_in_several_batches(self) -> None:
        flat = flatten({"a": {f"k{i}": i for i in range(150)}, "empty": {}, "k" * 300: [1, 2]})
        assert len(flat) == 152
        assert flat["empty"] == "{}"
        assert max(map(len, flat)) == 250

    def test_incremental(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        first = sync(store, run)
        workload.write("a-train-1", *metrics(3, 4))
        second = sync(store, run)
        assert (second.num_events, second.num_points) == (2, 4)
        assert second.mlflow_run_id == first.mlflow_run_id
        assert curve(store, run) == expected(range(1, 5))

    def test_idle_sync_writes_nothing(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1))
        sync(store, run, extra={"money/spent_usd": 1.5})
        before = mirrors.get(store, run.id)
        report = sync(store, run, extra={"money/spent_usd": 1.5})
        assert (report.num_events, report.num_points, report.artifacts) == (0, 0, ())
        assert mirrors.get(store, run.id) == before

    def test_every_sync_that_brings_steps_brings_a_point_of_the_money(
        self, store: Store, run: Run, workload: Workload
    ) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        sync(store, run, extra={"money/spent_usd": 1.5})
        workload.write("a-train-1", *metrics(3, 4))
        sync(store, run, extra={"money/spent_usd": 1.5})
        sync(store, run, extra={"money/spent_usd": 2.0})
        assert curve(store, run, "money/spent_usd") == [(2, 1.5), (4, 1.5), (4, 2.0)]

    def test_keys_that_other_code_logged_are_read_beside_the_record(
        self, store: Store, run: Run, workload: Workload
    ) -> None:
        assert verbs.tracked(store, run.id).read_at is None
        workload.start("a-train-1", None, *metrics(1, 2))
        mlflow_run_id = sync(store, run, extra={"money/spent_usd": 1.5}).mlflow_run_id
        for step in (10, 20):
            client().log_metric(mlflow_run_id, "their/accuracy", step / 100, step=step)
        found = verbs.tracked(store, run.id, without=["train/loss", "train/mfu"])
        assert sorted(found.series) == ["money/spent_usd", "their/accuracy"]
        assert found.series["their/accuracy"].values.tolist() == [0.1, 0.2]
        assert found.problem is None

    def test_nothing_yet_makes_no_run(self, store: Store, run: Run, workload: Workload) -> None:
        assert sync(store, run).mlflow_run_id is None
        assert mirrors.get(store, run.id) is None

    def test_dryrun_events_stay_out(self, store: Store, run: Run, workload: Workload) -> None:
        Workload(workload.path / "dryrun").start("a-dryrun-1", None, *metrics(1, 2))
        workload.start("a-train-1", None, *metrics(1))
        sync(store, run)
        assert curve(store, run) == expected(range(1, 2))

    def test_more_than_a_batch(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 1201)))
        assert sync(store, run).num_points == 2401
        assert curve(store, run) == expected(range(1, 1201))

    def test_a_backlog_is_worked_off_within_its_time(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 1201)))
        reports = [sync(store, run, budget_s=0.0) for _ in range(4)]
        assert [report.behind for report in reports] == [True, True, False, False]
        # the marker is sent again with every part, and kept once
        assert [report.num_points for report in reports] == [1000, 1000, 403, 0]
        assert curve(store, run) == expected(range(1, 1201))
        assert curve(store, run, "patron/attempt") == [(0, 1.0)]

    def test_what_is_no_finite_number_is_no_point(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, loss=lambda _: float("nan")))
        workload.write("a-train-1", *metrics(2, loss=lambda _: float("inf")))
        for _ in range(2):
            sync(store, run)
        assert curve(store, run) == []
        assert curve(store, run, "train/mfu") == [(1, 0.5), (2, 0.5)]

    def test_torn_and_foreign_lines(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1), tail='{"seq": 9, "time": 1.0, "att')
        (workload.path / "events" / "a-train-1-000001.jsonl.part").write_text('{"seq": 3')
        (workload.path / "events" / "notes.txt").write_text("hello")
        workload.write("a-train-1", {"kind": "metrics", "step": 2, "metrics": "none"}, {"kind": "future", "step": 9})
        workload.write("a-train-1", *metrics(2))
        sync(store, run)
        assert curve(store, run) == expected(range(1, 3))

    @pytest.mark.parametrize(
        ("state", "status"),
        [(RunState.SUCCEEDED, "FINISHED"), (RunState.FAILED, "FAILED"), (RunState.CANCELLED, "KILLED")],
    )
    def test_the_last_sync_gives_the_runs_end(
        self, store: Store, run: Run, workload: Workload, state: RunState, status: str
    ) -> None:
        workload.start("a-train-1", None, *metrics(1))
        sync(store, run)
        path = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING)
        run = in_state(store, run, *path, state)
        workload.write("a-train-1", *metrics(2))
        report = tracking.sync(store, run, now=NOW + 60)
        assert report.error is None
        found = only(run)
        assert (found.info.status, found.info.end_time) == (status, int((NOW + 60) * 1000))
        assert found.data.tags["patron.state"] == state
        assert curve(store, run) == expected(range(1, 3))
        assert mirrors.get(store, run.id).position["finished"]  # type: ignore[union-attr]


class TestRewind:
    def test_behind_what_was_mirrored(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, evaluation(0), *metrics(*range(1, 21)), evaluation(20))
        old = sync(store, run, extra={"money/spent_usd": 1.0}).mlflow_run_id
        workload.start("a-train-2", 15, *metrics(*range(16, 19), loss=lambda step: 100.0 + step))
        report = sync(store, run, extra={"money/spent_usd": 2.0})
        assert report.rewound_to == 15
        assert report.mlflow_run_id != old
        assert only(run).info.run_id == report.mlflow_run_id
        assert active(run, PENDING_TAG) == []
        assert curve(store, run) == expected(range(1, 16)) + expected(range(16, 19), lambda step: 100.0 + step)
        assert curve(store, run, "val/bpb") == [(0, 2.0)]
        assert curve(store, run, "patron/attempt") == [(0, 1.0), (15, 2.0)]
        assert curve(store, run, "money/spent_usd") == [(15, 1.0), (18, 2.0)]
        assert only(run).data.params["depth"] == "2"
        trashed = client().get_run(old)
        assert trashed.info.lifecycle_stage == "deleted"
        assert trashed.data.tags["patron.superseded_by"] == report.mlflow_run_id
        assert sync(store, run).num_points == 0

    def test_nothing_beyond_goes_on_in_the_same_run(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        first = sync(store, run)
        workload.start("a-train-2", 10, *metrics(11))
        second = sync(store, run)
        assert (second.rewound_to, second.mlflow_run_id) == (None, first.mlflow_run_id)
        assert curve(store, run) == expected(range(1, 12))
        assert curve(store, run, "patron/attempt") == [(0, 1.0), (10, 2.0)]
        assert only(run).data.tags["patron.attempt"] == "a-train-2"

    def test_rewound_before_anybody_looked(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        workload.start("a-train-1", 5, *metrics(6, 7))
        assert sync(store, run).rewound_to is None
        assert curve(store, run) == expected(range(1, 8))

    def test_from_scratch(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, evaluation(0))
        sync(store, run)
        workload.start("a-train-2", None, evaluation(0))
        assert sync(store, run).rewound_to == -1
        assert curve(store, run, "val/bpb") == [(0, 2.0)]
        assert curve(store, run, "patron/attempt") == [(0, 1.0), (0, 2.0)]

    def test_the_same_eval_again_after_a_resume_counts_once(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, 2), evaluation(2))
        sync(store, run)
        workload.start("a-train-2", 2, evaluation(2), *metrics(3))
        sync(store, run)
        assert curve(store, run, "val/bpb") == [(2, 1.98)]

    def test_several_times(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        for number, back_to in enumerate((8, 3, 5), 2):
            sync(store, run)
            workload.start(
                f"a-train-{number}", back_to, *metrics(*range(back_to + 1, 12), loss=lambda s, n=number: n * 100.0 + s)
            )
        sync(store, run)
        steps = dict(curve(store, run))
        assert steps == {
            **dict(expected(range(1, 4))),
            **dict(expected(range(4, 6), lambda step: 300.0 + step)),
            **dict(expected(range(6, 12), lambda step: 400.0 + step)),
        }
        assert len(active(run)) == 1

    def test_a_long_replay_hides_itself_until_it_is_whole(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 1201)))
        old = sync(store, run).mlflow_run_id
        workload.start("a-train-2", 1100, *metrics(1101))
        first = sync(store, run, budget_s=0.0)
        assert (first.behind, first.rewound_to) == (True, 1100)
        assert only(run).info.run_id == old
        while (report := sync(store, run, budget_s=0.0)).behind:
            pass
        assert only(run).info.run_id == report.mlflow_run_id == first.mlflow_run_id
        assert curve(store, run) == expected(range(1, 1102))

    def test_last_words_of_an_older_attempt(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        sync(store, run)
        workload.start("a-train-2", 4, *metrics(5, 6))
        sync(store, run)
        workload.write("a-train-1", *metrics(3, 4), *metrics(5, 6, 7, loss=lambda step: -1.0))
        report = sync(store, run)
        assert (report.num_points, report.rewound_to) == (4, None)
        assert curve(store, run) == expected(range(1, 7))


class Crash(BaseException):
    pass


class TestCrash:
    def crash_in_commit(self, monkeypatch: pytest.MonkeyPatch, *, number: int) -> None:
        """The number-th commit of the position never happens; the process dies there."""
        calls = Counter[str]()

        def put(*arguments: Any, **named: Any) -> None:
            calls["put"] += 1
            if calls["put"] == number:
                raise Crash
            real(*arguments, **named)

        real = mirrors.put
        monkeypatch.setattr(mirrors, "put", put)

    def test_between_the_creation_and_its_commit(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workload.start("a-train-1", None, *metrics(1))
        with monkeypatch.context() as patch:
            self.crash_in_commit(patch, number=1)
            with pytest.raises(Crash):
                tracking.sync(store, run, now=NOW)
        made = only(run).info.run_id
        assert mirrors.get(store, run.id) is None
        assert sync(store, run).mlflow_run_id == made
        assert only(run).info.run_id == made
        assert curve(store, run) == expected(range(1, 2))

    def test_between_the_batch_and_its_commit(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workload.start("a-train-1", None, *metrics(1, 2, loss=lambda step: 0.1 + 0.2))
        with monkeypatch.context() as patch:
            self.crash_in_commit(patch, number=2)
            with pytest.raises(Crash):
                tracking.sync(store, run, now=NOW)
        # what is sent again is longer: the batch holds points that are there and points that are not
        workload.write("a-train-1", *metrics(3))
        assert sync(store, run).num_points == 7
        assert [step for step, _ in curve(store, run)] == [1, 2, 3]
        assert curve(store, run, "patron/attempt") == [(0, 1.0)]

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_in_a_rewind(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        sync(store, run, extra={"money/spent_usd": 1.0})
        workload.start("a-train-2", 5, *metrics(6, 7))
        with monkeypatch.context() as patch:
            self.crash_in_commit(patch, number=number)  # 1: the fresh run's id, 2: promoted, 3: described
            with pytest.raises(Crash):
                tracking.sync(store, run, now=NOW)
        assert len(active(run)) == 1
        sync(store, run)
        assert curve(store, run) == expected(range(1, 8))
        assert curve(store, run, "money/spent_usd") == [(5, 1.0)]
        assert only(run).info.run_id == mirrors.get(store, run.id).mlflow_run_id  # type: ignore[union-attr]
        assert active(run, PENDING_TAG) == []
        assert count_of_runs(run) == 2

    @pytest.mark.parametrize("verb", ["delete_run", "log_batch", "create_run", "search_runs"])
    def test_the_tracker_dies_at_any_call_of_a_rewind(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        sync(store, run)
        workload.start("a-train-2", 5, *metrics(6, 7))
        real, number = getattr(client(), verb), 1
        while True:
            calls = Counter[str]()

            def fail(*arguments: Any, real: Any = real, calls: Any = calls, at: int = number, **named: Any) -> Any:
                calls["all"] += 1
                result = real(*arguments, **named)
                if calls["all"] == at:
                    raise OSError("the answer was lost")
                return result

            with monkeypatch.context() as patch:
                patch.setattr(client(), verb, fail)
                report = tracking.sync(store, run, now=NOW)
            if report.error is None:
                break
            number += 1 if verb in ("log_batch", "search_runs") else 99
        assert curve(store, run) == expected(range(1, 8))
        assert len(active(run)) == 1
        assert count_of_runs(run) == 2

    def test_the_store_was_lost(self, store: Store, run: Run, workload: Workload, tmp_path: Path) -> None:
        workload.start("a-train-1", None, *metrics(1, 2, 3))
        sync(store, run)
        workload.start("a-train-2", 1, *metrics(2))
        forget(store, run)
        sync(store, run)
        assert curve(store, run) == expected(range(1, 3))
        assert len(active(run)) == 1

    def test_the_tracker_was_wiped(
        self, store: Store, run: Run, workload: Workload, blank_home: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        workload.start("a-train-1", None, *metrics(1, 2, 3))
        sync(store, run)
        shutil.copy(blank_home / "mlflow.db", tmp_path / "other.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
        workload.write("a-train-1", *metrics(4))
        sync(store, run)
        assert curve(store, run) == expected(range(1, 5))
        assert only(run).data.params["depth"] == "2"

    def test_two_syncs_at_once(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The slower one has read the position, and commits after the faster one."""
        workload.start("a-train-1", None, *metrics(1, 2))
        slow = Copy(store, run, tracking.Mlflow(), now=NOW, budget_s=60.0)
        with tracking._calm(5):
            slow.tracker.create(run, RUN_TAG)  # both looked before either had made one
        sync(store, run)
        with tracking._calm(5), pytest.raises(Overtaken):
            slow.advance({})
        workload.start("a-train-2", 1, *metrics(2, 3))
        slow = Copy(store, run, tracking.Mlflow(), now=NOW, budget_s=60.0)
        fast = sync(store, run)
        with tracking._calm(5), pytest.raises(Overtaken):
            slow.advance({})
        assert curve(store, run) == expected(range(1, 4))
        assert only(run).info.run_id == fast.mlflow_run_id
        monkeypatch.setattr(mirrors, "get", lambda *_: None)
        report = tracking.sync(store, run, now=NOW)
        assert report.error is None or "faster" in report.error


def count_of_runs(run: Run) -> int:
    experiment = client().get_experiment_by_name(run.project)
    everything = client().search_runs([experiment.experiment_id], run_view_type=3)
    return sum(run.id in (each.data.tags.get(tag) for tag in (RUN_TAG, PENDING_TAG)) for each in everything)


def forget(store: Store, run: Run) -> None:
    from patron_core.store.schema import mirrors as table

    with store.begin() as conn:
        conn.execute(table.delete().where(table.c.run_id == run.id))


class TestDeadTracker:
    def test_a_port_that_refuses(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        workload.start("a-train-1", None, *metrics(1))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
        before = dict(os.environ)
        report = tracking.sync(store, run, now=NOW, timeout_s=1)
        assert dict(os.environ) == before
        assert report.error is not None
        assert "127.0.0.1" in report.error
        assert "secret" not in report.error
        with pytest.raises(Unavailable) as caught:
            tracking.metrics_frame(store, mirrored(store, run))
        assert "MLFLOW_TRACKING_URI" in caught.value.next
        assert "secret" not in str(caught.value)

    def test_one_that_accepts_and_never_answers(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workload.start("a-train-1", None, *metrics(1))
        sync(store, run)
        workload.write("a-train-1", *metrics(2))
        with closing(socket.socket()) as silent, monkeypatch.context() as patch:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
            patch.setattr(tracking, "SLOW_S", 0.5)
            done = threading.Event()
            reports: list[tracking.MirrorReport] = []

            def work() -> None:
                reports.append(tracking.sync(store, run, now=NOW, timeout_s=1))
                done.set()

            threading.Thread(target=work, daemon=True).start()
            assert done.wait(60), "the sync did not come back"
            assert reports[0].error is not None
            again = tracking.sync(store, run, now=NOW)
            assert again.error is not None
            assert "tried again in" in again.error  # other runs do not wait for it as well
        sync(store, run)
        assert curve(store, run) == expected(range(1, 3))

    def test_a_fault_of_our_own_is_reported_too(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workload.start("a-train-1", None, *metrics(1))
        with monkeypatch.context() as patch:
            patch.setattr(Position, "missing_points", lambda *_: 1 / 0)
            report = tracking.sync(store, run, now=NOW)
        assert report.error == "ZeroDivisionError: division by zero"
        sync(store, run)
        assert curve(store, run) == expected(range(1, 2))

    def test_an_artifact_store_that_fails(
        self, store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workload.start("a-train-1", None, *metrics(1))
        (workload.path / "spec.json").write_text(json.dumps(SPEC))
        (workload.path / "result.json").write_text('{"step": 1')  # being written
        settings.artifacts_folder().write_text("a file where a folder should be")
        report = sync(store, run)
        assert report.artifact_error is not None
        assert report.artifact_error.startswith("spec.json")
        assert curve(store, run) == expected(range(1, 2))
        assert sync(store, run).artifact_error is None  # not tried again at once
        settings.artifacts_folder().unlink()
        late = tracking.sync(store, run, now=NOW + ARTIFACT_RETRY_S)
        assert late.artifacts == ("spec.json",)

    def test_artifacts_are_uploaded_once_for_each_content(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None)
        result = workload.path / "result.json"
        result.write_text(json.dumps({"step": 5, "reason": "notice"}))
        assert sync(store, run).artifacts == ("result.json",)
        assert sync(store, run).artifacts == ()
        result.write_text(json.dumps({"step": 9, "reason": "completed"}))
        assert sync(store, run).artifacts == ("result.json",)
        path = client().download_artifacts(only(run).info.run_id, "result.json")
        assert json.loads(Path(path).read_text())["step"] == 9

    def test_the_newest_samples_are_an_artifact_and_those_that_a_resume_undid_are_not(
        self, store: Store, run: Run, workload: Workload
    ) -> None:
        def samples(step: int, text: str) -> dict[str, Any]:
            return {"kind": "sample", "step": step, "prompts": ["import "], "texts": [text], "ends": ["max tokens"]}

        def stored() -> Any:
            path = client().download_artifacts(only(run).info.run_id, "samples.json")
            return json.loads(Path(path).read_text())

        workload.start("a-train-1", None, *metrics(1, 2), samples(2, "os\n"), samples(2, "sys"))
        assert sync(store, run).artifacts == ("samples.json",)
        assert (stored()["step"], stored()["prompts"], stored()["texts"]) == (2, ["import "], ["sys"])
        workload.write("a-train-1", *metrics(3))
        assert sync(store, run).artifacts == ()
        workload.start("a-train-2", 1, *metrics(2, 3))
        assert sync(store, run).artifacts == ()  # a fresh view: what it said at step 2 is not true any more
        workload.write("a-train-2", samples(3, "re"))
        assert sync(store, run).artifacts == ("samples.json",)
        assert (stored()["step"], stored()["texts"]) == (3, ["re"])


def mirrored(store: Store, run: Run) -> list[str]:
    with store.begin() as conn:
        mirrors.put(conn, run.id, mlflow_run_id="0" * 32, position=Position().__dict__, now=NOW)
    return [run.id]


class TestTrash:
    """Somebody tidied up in MLflow while the run went on."""

    def test_a_run_in_the_trash_is_restored_and_that_is_said(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        made = sync(store, run).mlflow_run_id
        client().delete_run(made)
        workload.write("a-train-1", *metrics(3))
        report = sync(store, run)
        assert report.said == f"run {made} of MLflow was in its trash and is restored"
        assert only(run).info.run_id == made
        assert curve(store, run) == expected(range(1, 4))
        (event,) = (event for event in runs.events(store, run.id) if event.kind == "mirror")
        assert event.detail == {"message": report.said}
        assert sync(store, run).said is None

    @pytest.mark.parametrize("new", [True, False])
    def test_an_experiment_in_the_trash_is_restored_without_what_was_there_before(
        self, store: Store, run: Run, workload: Workload, tmp_path: Path, new: bool
    ) -> None:
        workload.start("a-train-1", None, *metrics(*range(1, 11)))
        sync(store, run)
        workload.start("a-train-2", 5, *metrics(6, 7))
        sync(store, run)  # a fresh view took over; the old one is in the trash and belongs there
        client().delete_experiment(client().get_experiment_by_name(run.project).experiment_id)
        again = make_run(store, tmp_path / "runs", key="k2") if new else run
        (Workload(Path(again.run_dir)).start if new else workload.write)("a-train-2", *([None] * new), *metrics(8))
        assert "experiment 'lab/one' of MLflow was in its trash" in str(sync(store, again).said)
        assert curve(store, run) == expected(range(1, 8 if new else 9))
        assert len(active(run)) == 1
        assert curve(store, again)[-1] == (8, 2.0)

    def test_one_that_is_gone_for_good_is_made_anew(self, store: Store, run: Run, workload: Workload) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        made = sync(store, run).mlflow_run_id
        client().delete_run(made)
        with closing(sqlite3.connect(settings.home() / "mlflow.db")) as database:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                database.execute(f"DELETE FROM {table} WHERE run_uuid = '{made}'")
            database.commit()
        workload.write("a-train-1", *metrics(3))
        assert "made anew" in str(sync(store, run).said)
        assert curve(store, run) == expected(range(1, 4))


@pytest.mark.parametrize("letter", ["p", "ü"])
def test_a_project_of_any_length_is_mirrored(store: Store, tmp_path: Path, letter: str) -> None:
    """Names were not bounded once."""
    folder = tmp_path / "runs"
    made = [replace(make_run(store, folder, key=f"k{n}"), project=letter * 600 + str(n)) for n in range(2)]
    for run in made:
        workload = Workload(Path(run.run_dir))
        workload.start("a-train-1", None, *metrics(1))
        (workload.path / "result.json").write_text('{"step": 1}')
        assert sync(store, run).artifact_error is None
        assert curve(store, run) == expected(range(1, 2))
    names = {client().get_experiment(client().get_run(m.mlflow_run_id).info.experiment_id).name for m in
             (mirrors.get(store, run.id) for run in made) if m}  # fmt: skip
    assert len(names) == 2
    assert max(len(name.encode()) for name in names) <= 500


@pytest.mark.parametrize("password", ["hunter2", "hun@ter2", "hun/ter2", "hun#ter2", "hun%40ter2", "hun:ter@@2", "h?t"])
def test_no_part_of_a_trackers_password_is_shown(
    store: Store, run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch, caplog: Any, password: str
) -> None:
    workload.start("a-train-1", None, *metrics(1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:{password}@127.0.0.1:9/base")
    report = tracking.sync(store, run, now=NOW, timeout_s=1)
    assert report.error is not None
    with pytest.raises(Unavailable) as caught:
        tracking.metrics_frame(store, mirrored(store, run))
    for part in {password, unquote(password), *re.split(r"\W+", password)} - {"", "2", "h", "t"}:
        for said in (report.error, str(caught.value), caplog.text):
            assert part not in said
    assert "127.0.0.1" in report.error or "%XX" in report.error


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("could not reach http://ada:hun@ter2@h:1/x", "could not reach h:1/x"),
        ("host='ter2@h:1', password hun@ter2", "host='h:1', password ***"),
        ("see https://bob:secret@elsewhere/x", "see https://elsewhere/x"),
        ("plain words", "plain words"),
    ],
)
def test_words_lose_the_password_and_nothing_else(monkeypatch: pytest.MonkeyPatch, said: str, shown: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hun@ter2@h:1/base")
    assert first_line(said) == shown


class TestFrames:
    def test_columns_and_order(self, store: Store, run: Run, workload: Workload, tmp_path: Path) -> None:
        workload.start("a-train-1", None, *metrics(1, 2))
        sync(store, run)
        other = make_run(store, tmp_path / "runs", key="k2")
        Workload(Path(other.run_dir)).start("b-train-1", None, *metrics(1))
        sync(store, other)
        frame = tracking.metrics_frame(store, [run.id, other.id])
        schema = {"run_id": "String", "key": "String", "step": "Int64", "time": "Float64", "value": "Float64"}
        assert {name: str(kind) for name, kind in frame.schema.items()} == schema
        assert frame["run_id"].unique(maintain_order=True).to_list() == [run.id, other.id]
        assert frame["key"].unique().sort().to_list() == ["patron/attempt", "train/loss", "train/mfu"]
        row = frame.filter(key="train/loss", run_id=run.id).row(0)
        assert row == (run.id, "train/loss", 1, NOW + 2, 9.0)
        assert tracking.metrics_frame(store, [run.id], ["none/such"]).is_empty()
        assert tracking.metrics_frame(store, ["rnobody"]).schema == frame.schema
        assert tracking.params_frame(store, [run.id, other.id]).shape == (2 * len(flatten(SPEC)), 3)
        assert tracking.params_frame(store, []).columns == ["run_id", "key", "value"]


class TestProcess:
    def test_two_processes_make_the_database_at_once_and_print_nothing(self, race: Race) -> None:
        assert (race.exit_codes, race.printed) == ([0, 0], ["", "", ""])

    def test_importing_it_is_cheap(self) -> None:
        code = "import sys, patron_core.mirror.tracking; print([m for m in ('mlflow', 'polars') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_a_position_survives_json() -> None:
    position = Position()
    position.starts, _ = position.with_starts(
        [Event(seq=0, time=1.5, attempt="a-train-1", kind="start", step=None, data={})]
    )
    assert Position(**json.loads(json.dumps(position.__dict__))) == position


class TestBucket:
    def test_a_run_in_a_bucket_is_mirrored_rewound_and_not_lost_while_it_is_away(
        self, store: Store, bucket: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = runs.create_run(
            store,
            project="lab/one",
            name="baseline",
            workload="trainer",
            spec=SPEC,
            spec_hash="5" * 64,
            executor="local",
            run_dir=lambda run_id: f"{bucket}/{run_id}",
            actor="tester",
            key="k1",
            now=NOW - 10,
        )
        workload, remote = Workload(tmp_path / "scratch"), Remote(run.run_dir)
        (workload.path / "environment.json").write_text(json.dumps({"hash": "e" * 8}))

        def bring_up() -> None:
            for path in workload.path.rglob("*.json*"):
                remote.put(path.relative_to(workload.path).as_posix(), path)

        workload.start("a-train-1", None, *metrics(1, 2, 3))
        bring_up()
        assert sync(store, run).num_points > 0
        assert sync(store, run).num_events == 0
        assert curve(store, run) == expected(range(1, 4))
        assert only(run).data.tags["patron.environment_hash"] == "e" * 8

        workload.start("a-train-2", 2, *metrics(3, 4))
        bring_up()
        monkeypatch.setattr(places, "ANSWER_WITHIN_S", 1.0)
        places._remote.cache_clear()
        s3_server.stop()
        try:
            with pytest.raises(Unavailable, match="s3://"):
                tracking.sync(store, run, now=NOW)
        finally:
            s3_server.start()
        assert sync(store, run).rewound_to == 2
        assert curve(store, run) == expected(range(1, 5))
