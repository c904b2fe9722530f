"""Orphans at SkyPilot: what is one, what it cost, and that a living run's job never is."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from patron_core import verbs
from patron_core.commands import gc
from patron_core.executors.sky_task import job_name
from patron_core.lifecycle import orphans, supervisor
from patron_core.states import EndReason
from patron_core.store import Run, Store, attempts, labs, runs, tags
from patron_core.store.schema import runs as runs_table
from trainer.contract.layout import scratch_name
from trainer.contract.remote import Remote

HOURLY = 3_600_000


@dataclass
class Cloud:
    """Jobs and clusters as the client gives them, and what was ended."""

    found: list[dict[str, Any]] = field(default_factory=list)
    machines: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    downed: list[str] = field(default_factory=list)

    site: dict[str, Any] = field(default_factory=lambda: {"kind": "server"})

    def controller(self) -> dict[str, Any]:
        return self.site

    def jobs(self, *, name: str = "", live: bool) -> list[dict[str, Any]]:
        return [job for job in self.found if name in job["job_name"]]

    def clusters(self, prefix: str) -> list[dict[str, Any]]:
        return [cluster for cluster in self.machines if cluster["name"].startswith(prefix)]

    def cancel(self, job_ids: Sequence[int]) -> None:
        self.cancelled += job_ids

    def down(self, cluster: str) -> None:
        self.downed.append(cluster)

    def close(self) -> None:
        pass


def job(job_id: int, name: str, status: str = "RUNNING", duration_s: float = 100.0) -> dict[str, Any]:
    return {"job_id": job_id, "job_name": name, "status": status, "job_duration": duration_s}


def attempt_of(store: Store, run: Run, *, ended: bool) -> str:
    with store.begin() as conn:
        sky = attempts.create(conn, run, kind="train", usd_micros_per_hour=HOURLY, price={}, now=1.0)
        attempts.submitted(conn, sky.id, handle={"key": sky.id}, now=2.0)
        if ended:
            attempts.ended(conn, sky.id, reason=EndReason.CANCELLED, exit_code=None, evidence={}, now=3.0)
    return sky.id


def test_what_no_live_attempt_owns_is_ended_with_its_cost(store: Store, make_run: Callable[..., Run]) -> None:
    assert orphans.collect(store) == []  # and SkyPilot is not asked
    living = attempt_of(store, make_run(store, executor="sky"), ended=False)
    ended = attempt_of(store, make_run(store, executor="sky"), ended=True)
    lab = labs.lab_id(store)
    cloud = Cloud(
        found=[
            job(1, job_name(lab, living)),
            job(2, job_name(lab, living)),
            job(3, job_name(lab, ended)),
            job(4, job_name(lab, "r9-train-1")),
            job(5, job_name(lab, ended), status="CANCELLING"),
            job(6, job_name(lab, ended), status="FAILED"),
            job(7, job_name("0ther1ab", "r8-train-1")),
            job(8, "somebody-elses"),
        ],
        machines=[
            {"name": job_name(lab, living)[:22] + "-4k-1", "launched_at": 0.0, "usd_per_hour": 3.6},
            {"name": job_name(lab, "gone-9"), "launched_at": 900.0, "usd_per_hour": 3.6},
            {"name": "patron-0ther1ab-x", "launched_at": 0.0, "usd_per_hour": 3.6},
        ],
    )
    found = orphans.find_orphans(store, cloud, now=1000.0)
    assert [(orphan.job_id, orphan.why, orphan.usd_micros, orphan.seen) for orphan in found] == [
        (2, "a second launch beside job 1", 100_000, True),
        (3, "its attempt has ended", 100_000, True),
        (4, "no attempt of this lab has that name", None, False),
        (None, "no job of ours runs on it", 100_000, True),
    ]
    assert found[1].sentence == f"job 3 {job_name(lab, ended)}: its attempt has ended; 100 s, $0.10"
    assert cloud.cancelled == []
    orphans.end_orphans(cloud, found)
    assert (cloud.cancelled, cloud.downed) == ([2, 3, 4], [job_name(lab, "gone-9")])


def test_nothing_is_ended_where_there_are_none(store: Store) -> None:
    cloud = Cloud()
    orphans.end_orphans(cloud, orphans.find_orphans(store, cloud))
    assert (cloud.cancelled, cloud.downed) == ([], [])


@pytest.fixture
def one_skypilot(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A SkyPilot that every lab shares."""
    cloud = Cloud()
    monkeypatch.setattr(orphans, "Client", lambda: cloud)
    monkeypatch.setattr(gc, "Client", lambda: cloud)
    return cloud


@pytest.fixture
def neighbour(home: Path) -> Iterator[Store]:
    """Another team's lab: another PostgreSQL, behind a tunnel at the same address as ours."""
    store = Store.open(f"sqlite:///{home}/neighbour.db")
    yield store
    store.close()


def test_two_labs_on_one_skypilot_never_touch_each_other(
    store: Store, neighbour: Store, one_skypilot: Cloud, make_run: Callable[..., Run]
) -> None:
    """Whatever starts in one, a supervisor or `patron gc --yes`, ends nothing of the other, dead or alive."""
    keys: dict[str, list[str]] = {}
    for lab in (store, neighbour):
        keys[labs.lab_id(lab)] = mine = [
            attempt_of(lab, make_run(lab, executor="sky"), ended=ended) for ended in (False, True)
        ]
        start = 10 * len(keys)
        one_skypilot.found += [job(start + n, job_name(labs.lab_id(lab), key)) for n, key in enumerate(mine)]
        one_skypilot.machines.append({"name": job_name(labs.lab_id(lab), "gone-9"), "launched_at": 0.0})
    assert len(keys) == 2
    supervisor.end_orphans(store)
    assert one_skypilot.cancelled == [11]
    assert one_skypilot.downed == [job_name(labs.lab_id(store), "gone-9")]
    supervisor.end_orphans(neighbour)
    assert one_skypilot.cancelled == [11, 21]
    assert len(one_skypilot.downed) == 2


def test_what_this_database_did_not_see_start_is_ended_only_when_asked(
    sqlite_store: Store, one_skypilot: Cloud, make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A copy of a database has its lab's id: what the original started since then is none of its business unasked."""
    attempt_of(sqlite_store, make_run(sqlite_store, executor="sky"), ended=True)
    one_skypilot.found = [job(5, job_name(labs.lab_id(sqlite_store), "rlater-train-1"))]
    supervisor.end_orphans(sqlite_store)
    assert one_skypilot.cancelled == []
    assert "rlater-train-1" in caplog.text
    assert "next: patron gc" in caplog.text
    assert gc.main([]) == 4
    said = capsys.readouterr().out
    assert said.startswith("job 5 patron-")
    assert said.endswith("next: patron gc --yes\n")
    assert one_skypilot.cancelled == []
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # with --json libraries print elsewhere for the rest of a process
    assert gc.main(["--yes", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ended"], answer["orphans"][0]["job_id"]) == (True, 5)
    assert one_skypilot.cancelled == [5]


def test_jobs_that_an_older_patron_named_by_its_url_are_known_by_their_key(
    sqlite_store: Store, one_skypilot: Cloud, make_run: Callable[..., Run]
) -> None:
    ended = attempt_of(sqlite_store, make_run(sqlite_store, executor="sky"), ended=True)
    living = attempt_of(sqlite_store, make_run(sqlite_store, executor="sky"), ended=False)
    of_url = "1badcafe"
    one_skypilot.found = [job(1, job_name(of_url, ended)), job(2, job_name(of_url, living))]
    one_skypilot.found += [job(3, job_name(of_url, "rothers-train-1")), job(4, "patron-by-hand")]
    supervisor.end_orphans(sqlite_store)
    assert one_skypilot.cancelled == [1]


def test_leftovers_are_named_with_their_cost_and_removed_only_when_asked(
    sqlite_store: Store, one_skypilot: Cloud, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller on which a neighbour's job lives, then none; scratch folders of a live run and of an ended one; what
    the doctor tried, and a run that was cancelled, in the bucket."""
    monkeypatch.setenv("PATRON_RUNS", f"{bucket}/runs")
    monkeypatch.setenv("PATRON_SCRATCH", str(tmp_path / "scratch"))
    made = {name: in_bucket(sqlite_store, f"{bucket}/runs", name, tmp_path / "scratch") for name in ("living", "ended")}
    attempt_of(sqlite_store, made["ended"], ended=True)
    verbs.cancel(sqlite_store, made["ended"].id, actor="ada")
    attempt_of(sqlite_store, made["living"], ended=False)
    remote = Remote(f"{bucket}/runs")
    remote.put(f"{made['ended'].id}/checkpoints/step-000010/model.pt", b"m" * 1000)
    remote.put("doctor/doctor-1/machines/doctor-1-1.json", b"{}")
    one_skypilot.site = {"kind": "machine", "name": "sky-jobs-controller-1", "status": "UP", "usd_per_hour": 0.19}
    one_skypilot.found = [job(1, "somebody-elses")]

    def collect(*flags: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = gc.main([*flags, "--json"])
        return code, json.loads(said.getvalue())["leftovers"]

    code, left = collect("--yes")
    assert code == 0
    found = {(one["kind"], one["removable"]): one for one in left}
    assert found["controller", False]["usd_micros_per_hour"] == 190_000
    assert one_skypilot.downed == []  # a job lives on it
    assert found["scratch", True]["name"] == str(folder_of(tmp_path / "scratch", made["ended"]))
    assert not folder_of(tmp_path / "scratch", made["ended"]).exists()
    assert folder_of(tmp_path / "scratch", made["living"]).exists()
    assert found["bucket", True]["name"] == f"{bucket}/runs/doctor"
    assert found["checkpoints", False]["num_bytes"] == 1000
    assert list(remote.sizes()) == [f"{made['ended'].id}/checkpoints/step-000010/model.pt"]

    one_skypilot.found = []
    code, left = collect()
    assert (code, one_skypilot.downed) == (4, [])
    assert [one["sentence"] for one in left] == [
        "controller sky-jobs-controller-1: SkyPilot keeps its jobs there, it is UP; no job lives on it, and its disk "
        "is paid for; $0.19 an hour while it is up",
        f"checkpoints {bucket}/runs/{made['ended'].id}: of a run that is cancelled; 0.00 GB, $0.000001 a month",
    ]
    assert collect("--yes")[0] == 0
    assert one_skypilot.downed == ["sky-jobs-controller-1"]


def test_checkpoints_of_ended_runs_are_removed_only_where_that_is_asked_for_and_records_never(
    sqlite_store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/runs"
    monkeypatch.setenv("PATRON_RUNS", place)
    states = {"failed": "failed", "finished": "succeeded", "damaged": "succeeded", "living": "paused"}
    states |= {"pinned": "failed"}
    made = {name: in_bucket(sqlite_store, place, name, tmp_path / "scratch").id for name in states}
    record = ["events/train-1-000001.jsonl", "logs/train-1.log", "result.json", "spec.json"]
    manifest = json.dumps({"files": {"model.pt": {"bytes": 3, "sha256": "0" * 64}}}).encode()
    remote = Remote(place)
    for name, run_id in made.items():
        for each in record:
            remote.put(f"{run_id}/{each}", b"{}")
        for step in (10, 20):
            content = b"a" if name == "damaged" else b"abc"
            remote.put(f"{run_id}/checkpoints/step-{step:06d}/model.pt", content)
            remote.put(f"{run_id}/checkpoints/step-{step:06d}/manifest.json", manifest)
        remote.put(f"{run_id}/dryrun-1/checkpoints/step-000004/model.pt", b"abc")
    remote.put(f"{made['finished']}/checkpoints/step-000030/model.pt", b"abc")  # was never written to its end
    with sqlite_store.begin() as conn:
        for name, state in states.items():
            conn.execute(sa.update(runs_table).where(runs_table.c.id == made[name]).values(state=state))
    tags.add(sqlite_store, made["pinned"], [verbs.PINNED])
    for name in ("moved", "moved too"):  # their bucket is no more
        old = in_bucket(sqlite_store, "s3://no-such-bucket-here/runs", name, tmp_path / "scratch")
        verbs.cancel(sqlite_store, old.id, actor="ada")
    stay = ("living", "pinned")
    before = set(remote.sizes())

    def collect(*flags: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = gc.main([*flags, "--json"])
        answer = json.loads(said.getvalue())
        (there,) = [one for one in answer["leftovers"] if one["name"] == "s3://no-such-bucket-here/runs"]
        assert re.match("runs lay there before; .*NoSuchBucket", there["why"])
        answer["leftovers"].remove(there)
        return {"code": code, **answer}

    for flags, code, then in (((), 0, "--checkpoints"), (("--checkpoints",), 4, "--checkpoints --yes")):
        listed = collect(*flags)
        assert (listed["code"], listed["next"]) == (code, f"patron gc {then}")
        assert {Path(one["name"]).name for one in listed["leftovers"]} == {made[n] for n in states if n not in stay}
    assert collect("--yes")["code"] == 0
    assert set(remote.sizes()) == before

    assert collect("--checkpoints", "--yes")["code"] == 0
    kept = {
        "failed": [],
        "finished": ["checkpoints/step-000020/manifest.json", "checkpoints/step-000020/model.pt"],
        "damaged": [f"checkpoints/step-0000{n}/{each}" for n in (10, 20) for each in ("manifest.json", "model.pt")],
        **{n: sorted(name.partition("/")[2] for name in before if name.startswith(made[n])) for n in stay},
    }
    for name, run_id in made.items():
        assert sorted(Remote(f"{place}/{run_id}").sizes()) == sorted({*record, *kept[name]}), name
    assert collect("--checkpoints")["leftovers"] == []


def in_bucket(store: Store, place: str, name: str, scratch: Path) -> Run:
    run = runs.create_run(
        store, project="p", name=name, workload="trainer", spec={"depth": 2}, spec_hash="f" * 64, executor="sky",
        run_dir=lambda run_id: f"{place}/{run_id}", actor="ada", key=None, now=100.0,
    )  # fmt: skip
    (folder_of(scratch, run) / "events").mkdir(parents=True)
    return run


def folder_of(scratch: Path, run: Run) -> Path:
    return scratch / scratch_name(run.run_dir)
