"""What is sent to SkyPilot, where a run is to run, and that nobody hangs on a server that does not answer."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import foreign
import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput, Refused, Unavailable
from patron_core.executors import sky_task, skypilot, skypilot_client
from patron_core.executors.base import Job, ObservedStatus
from patron_core.executors.sky_task import job_name, make_task
from patron_core.executors.sky_view import observe_job
from patron_core.executors.skypilot import SkyExecutor, Watch
from patron_core.executors.skypilot_client import Client
from patron_core.lifecycle.workload import machine_for, train_command, workload_env, world_of
from patron_core.machines import catalog
from patron_core.machines.target import Target
from patron_core.market.offers import CATALOG_SOURCE, Market
from patron_core.prices import Price
from patron_core.store import Store, runs
from patron_core.verbs.fund import check_proof
from patron_core.workloads.asking import CodeQuestion
from trainer.contract.spec import TrainSpec


@pytest.fixture(autouse=True)
def clean(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INFRA", "PYTHON", "CACHE", "POLL_S"):
        monkeypatch.delenv(f"PATRON_SKY_{name}", raising=False)
    monkeypatch.delenv("PATRON_RUNS", raising=False)


def job(kind: str = "train", **machine: object) -> Job:
    return Job(
        key="r1-train-1",
        command=(sys.executable, "-m", "trainer.train", "it's", "--attempt", "r1-train-1"),
        run_dir="s3://bucket/r1",
        env={"PATRON_CACHE": "/here/only", "COLOUR": "blue"},
        deadline_s=100.0,
        grace_s=15.0,
        kind=kind,
        machine=machine,
    )


def test_the_task_file_is_filled_in() -> None:
    task = make_task(job(accelerator="A100-80GB", spot=True, places=["gcp/us-east1", "aws/us-east-1"]))
    assert task["name"].endswith("-r1-train-1")
    assert task["resources"]["ordered"] == [{"infra": "gcp/us-east1"}, {"infra": "aws/us-east-1"}]
    assert "any_of" not in task["resources"]
    assert (task["resources"]["accelerators"], task["resources"]["use_spot"]) == ("A100-80GB:1", True)
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert shlex.split(task["envs"]["PATRON_COMMAND"])[:4] == ["python", "-m", "trainer.train", "it's"]
    assert task["envs"]["PATRON_RUN_DIR"] == "s3://bucket/r1"
    assert task["envs"]["COLOUR"] == "blue"
    assert "PATRON_CACHE" not in task["envs"]  # a path of this machine
    assert task["api_server_access"] is False
    assert sorted(path.name for path in Path(task["workdir"]).iterdir()) == [
        "LICENSE", "README.md", "patron_core", "pyproject.toml", "skypilot", "trainer",
    ]  # fmt: skip


def test_foreign_code_runs_in_its_image_there(sqlite_store: Store, tmp_path: Path) -> None:
    """By the task that SkyPilot would be given; nothing is launched."""
    foreign.write(tmp_path / "toy", {"MLproject": foreign.MLPROJECT, "train.py": "1\n"})
    question = CodeQuestion(where=str(tmp_path / "toy"))
    run = verbs.plan_code(sqlite_store, question=question, actor="ada")
    price = {"machine": {"accelerator": "H100", "spot": True, "places": ["gcp/us-central1"]}}
    command = train_command("s3://bucket/r1", "r1-train-1", 60.0, None, workload=run.workload)
    task = make_task(replace(job(**machine_for(run, price)), command=command))
    assert task["resources"]["image_id"] == "docker:example.org/toy:1"
    assert task["envs"]["PATRON_IMAGE"] == "example.org/toy:1"
    assert shlex.split(task["envs"]["PATRON_COMMAND"])[:4] == ["python", "-P", "-m", "trainer.foreign.run"]
    assert (Path(task["workdir"]) / "trainer" / "foreign" / "run.py").exists()
    assert not (Path(task["workdir"]) / "train.py").exists()  # its files come from the run directory
    assert machine_for(run, {"machine": {}}) == {}  # this machine asks for nothing
    assert "image_id" not in make_task(job(accelerator="H100", spot=True))["resources"]


def test_without_places_it_goes_where_the_file_says_if_that_is_the_same_machine() -> None:
    places = [place["infra"] for place in make_task(job(accelerator="H100", spot=True))["resources"]["any_of"]]
    assert "gcp/us-central1" in places
    assert "aws/us-east-1" not in places  # the file has another accelerator there
    assert "lambda" not in places  # no spot machines


def test_a_site_without_spot_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRON_SKY_INFRA", "slurm/lab/gpu")
    monkeypatch.setenv("PATRON_SKY_PYTHON", "/opt/env/bin/python")
    task = make_task(job("dryrun", accelerator="H100", spot=True))
    assert task["resources"]["use_spot"] is False
    assert task["resources"]["ordered"] == [{"infra": "slurm/lab/gpu"}]
    assert "recover_on_exit_codes" not in task["resources"]["job_recovery"]
    assert "workdir" not in task
    assert task["envs"]["PATRON_PYTHON"] == "/opt/env/bin/python"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (Target(executor="moon"), "on: 'moon'"),
        (Target(device="H100"), "add --on sky"),
        (Target(executor="sky"), "device: 'local'; allowed on sky"),
        (Target(executor="sky", device="H1000"), "allowed on sky"),
        (Target(spot=True), "nobody's to take away"),
        (Target(num_nodes=2), "this machine is one"),
        (Target(num_gpus=0), "gpus: 0; allowed 1 to 16"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(target: Target, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        target.check()


def test_a_given_price_is_believed_within_reason_and_under_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(executor="sky", device="H100", spot=True, usd_micros_per_hour=3_000_000)
    target.check()
    assert target.find_price(now=0.0).usd_micros_per_hour == 3_000_000
    assert Target.from_dict(target.to_dict()) == target
    with pytest.raises(Refused, match="plausible"):
        Target(executor="sky", device="H100", usd_micros_per_hour=10_000).find_price()
    monkeypatch.setenv("PATRON_MAX_USD_PER_HOUR", "2.50")
    with pytest.raises(Refused, match="PATRON_MAX_USD_PER_HOUR allows"):
        target.find_price()


def test_a_cloud_needs_a_run_directory_that_its_machines_reach(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    target = Target(executor="sky", device="H100", only="gcp/us-east1")
    with pytest.raises(InvalidInput, match="cannot reach"):
        target.run_dir("r1")
    monkeypatch.setenv("PATRON_RUNS", "s3://bucket/runs/")
    assert target.run_dir("r1") == "s3://bucket/runs/r1"
    monkeypatch.delenv("PATRON_RUNS")
    assert Target(executor="sky", device="H100", only="slurm/lab/gpu").run_dir("r1") == f"{home}/runs/r1"
    assert Target().run_dir("r1") == f"{home}/runs/r1"


def test_a_job_that_was_over_is_asked_again_once_something_was_started() -> None:
    """A new server gives the numbers of an old one's jobs again: a new run had been judged by an old one's end."""
    status = "SUCCEEDED"

    class OneJob(Client):
        def jobs(self, **_: object) -> list[dict[str, object]]:
            return [{"job_id": 1, "status": status}]

    watch = Watch(OneJob())
    assert watch.job(1, max_age_s=60.0) == {"job_id": 1, "status": "SUCCEEDED"}
    status = "RUNNING"
    assert watch.job(1, max_age_s=0.0) == {"job_id": 1, "status": "SUCCEEDED"}  # over is over, and not asked
    watch.forget()
    assert watch.job(1, max_age_s=60.0) == {"job_id": 1, "status": "RUNNING"}


def test_a_job_that_skypilot_knows_no_more_is_gone() -> None:
    """Its server was made anew: what it had said last stayed, and the run with it for as long as somebody watched."""
    found = [{"job_id": 1, "status": "RUNNING"}, {"job_id": 2, "status": "SUCCEEDED"}]

    class Forgetful(Client):
        def jobs(self, **_: object) -> list[dict[str, object]]:
            return found

    watch = Watch(Forgetful())
    watch.expect([1, 2])
    assert watch.job(1, max_age_s=0.0) is not None
    found = []
    assert watch.job(1, max_age_s=0.0) is None
    assert watch.job(2, max_age_s=0.0) == {"job_id": 2, "status": "SUCCEEDED"}  # that it is over was known


def test_time_without_a_machine_costs_nothing() -> None:
    waiting = observe_job({"status": "STARTING", "job_duration": 0.0}, [])
    assert (waiting.status, waiting.uptime_s) == (ObservedStatus.PENDING, None)
    lost = {"elapsed_s": 40.0, "ended": False}
    for job_duration in (38.0, 0.0):
        recovering = observe_job({"status": "RECOVERING", "job_duration": job_duration}, [lost])
        assert (recovering.status, recovering.uptime_s) == (ObservedStatus.RECOVERING, 40.0)


@pytest.fixture
def client() -> Iterator[Client]:
    found = Client()
    yield found
    found.close()


def test_a_server_that_is_down_is_said_with_the_command_that_starts_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", f"http://127.0.0.1:{_free_port()}")
    with pytest.raises(Unavailable) as refused:
        client.jobs(name="patron-")
    assert os.environ["SKYPILOT_API_SERVER_ENDPOINT"] in refused.value.message
    assert refused.value.next == "sky api start"
    watch = Watch(client)
    begin = time.monotonic()
    for job_id in range(20):  # one question for all, its failure kept for as long as an answer
        with pytest.raises(Unavailable):
            watch.job(job_id, max_age_s=60.0)
    assert time.monotonic() - begin < 60


def test_a_server_that_never_answers_costs_a_bounded_time(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(skypilot_client, "START_S", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer 'jobs' within"):
            client.ask("jobs", timeout_s=2.0, job_ids=None, name="x", live=True, yaml=False)
        assert time.monotonic() - begin < 100
        assert client._worker is None  # killed, not left behind


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_job_that_skypilot_counts_before_it_knows_its_task_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    half = {"job_id": 6, "job_name": job_name("0badcafe", "r1-train-1"), "status": "PENDING", "user_yaml": None}
    monkeypatch.setattr(Client, "jobs", lambda self, **asked: [half])
    monkeypatch.setattr(Client, "launch", lambda self, task, name: pytest.fail("a second job"))
    executor = skypilot.SkyExecutor()
    job = Job(key="r1-train-1", command=("true",), run_dir="/runs/r1", deadline_s=60, grace_s=5)
    for ask in (lambda: executor.find("r1-train-1"), lambda: executor.submit(job)):
        with pytest.raises(Unavailable, match="still on its way") as refused:
            ask()
        assert "sky jobs cancel 6" in refused.value.next


# ---- what an attempt keeps of its market, and of what its machine is set up with


def spot_h100(where: str, usd: float) -> Price:
    cloud, region, zone = where.split("/")
    return Price(
        device="H100", usd_micros_per_hour=round(1e6 * usd), source=CATALOG_SOURCE, as_of="2026-11-24T09:00Z",
        spot=True, cloud=cloud, region=region, zone=zone, accelerator="H100", instance_type="i1",
    )  # fmt: skip


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Market:
    prices = [
        spot_h100("gcp/us-east1/us-east1-b", 2.0),
        spot_h100("gcp/us-east1/us-east1-c", 2.4),
        spot_h100("aws/us-east-1/us-east-1a", 2.1),
        spot_h100("gcp/europe-west4/europe-west4-a", 3.0),
    ]
    found = Market(prices=tuple(prices))
    monkeypatch.setattr(catalog, "read_market", lambda devices, clouds: found)
    monkeypatch.setattr(catalog, "enabled_clouds", lambda: ["aws", "gcp", "slurm"])
    return found


def test_an_attempt_keeps_the_prices_that_it_was_chosen_from(market: Market) -> None:
    quote = Target(executor="sky", device="H100", spot=True).quote()
    # the dearest of the places that are asked, which are within a tenth of the cheapest
    assert quote["usd_micros_per_hour"] == 2_100_000
    asked = {"accelerator": "H100", "instance_type": "i1"}
    assert quote["machine"]["places"] == [
        {"infra": "gcp/us-east1/us-east1-b", **asked}, {"infra": "aws/us-east-1/us-east-1a", **asked},
    ]  # fmt: skip
    kept = [(price["cloud"], price["zone"], price["usd_micros_per_hour"], price["as_of"]) for price in quote["market"]]
    as_of = "2026-11-24T09:00Z"
    assert kept == [("gcp", "us-east1-b", 2_000_000, as_of), ("aws", "us-east-1a", 2_100_000, as_of)]


@pytest.mark.parametrize(
    ("only", "places", "usd"),
    [
        ("gcp/europe-west4", ["gcp/europe-west4/europe-west4-a"], 3.0),
        ("aws", ["aws/us-east-1/us-east-1a"], 2.1),
        ("gcp/us-east1/us-east1-c", ["gcp/us-east1/us-east1-c"], 2.4),
    ],
)
def test_a_place_that_was_named_costs_what_it_costs_there(
    market: Market, only: str, places: list[str], usd: float
) -> None:
    target = Target(executor="sky", device="H100", spot=True, only=only)
    assert target.find_price().usd_micros_per_hour == round(1e6 * usd)
    assert target.places() == places
    with pytest.raises(Refused, match="spot in slurm/lab") as refused:
        Target(executor="sky", device="H100", spot=True, only="slurm/lab/gpu").find_price()
    assert "--usd-per-hour" in refused.value.message


def test_a_place_in_the_buckets_region_is_preferred_to_a_cheaper_one_that_pays_for_the_way(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(executor="sky", device="H100", spot=True, checkpoint_bytes=6e9)
    monkeypatch.setenv("PATRON_RUNS", "gs://b/runs")
    for region, first in (("gcp/us-east1", "gcp/us-east1/us-east1-b"), ("aws/us-east-1", "aws/us-east-1/us-east-1a")):
        monkeypatch.setenv("PATRON_RUNS_REGION", region)
        assert target.places()[0] == first
    assert len(target.places()) == 1  # from GCP, at $2.00 an hour, the way to AWS costs more than $1
    assert replace(target, checkpoint_bytes=0.0).places()[0].startswith("gcp/us-east1")


def test_another_setup_than_the_proven_one_is_refused_before_any_money_is_held(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATRON_RUNS", "s3://bucket/runs")
    target = Target(executor="sky", device="H100", spot=True, usd_micros_per_hour=3_000_000)
    run = verbs.plan(sqlite_store, spec={"depth": 4, "data": "fineweb-edu"}, target=target, actor="ada")
    proof = {"spec_hash": run.spec_hash, "price": target.quote()}
    with sqlite_store.begin() as conn:
        run = runs.set_fields(conn, run.id, now=1.0, dryrun=proof)
    check_proof(run)
    monkeypatch.setattr(sky_task, "code_hash", lambda: "another")
    with pytest.raises(Refused, match=r"since the dryrun of run .*: the trainer's sources") as refused:
        check_proof(run)
    assert refused.value.next == f"patron dryrun --run {run.id} --yes"
    monkeypatch.setenv("PATRON_SKY_PYTHON", "/opt/env/bin/python")
    with pytest.raises(Refused, match="PATRON_SKY_PYTHON, its packages, the trainer's sources"):
        check_proof(run)


def test_a_run_directory_that_cannot_be_written_delays_a_cancel_and_does_not_prevent_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stops").symlink_to(tmp_path / "stops")  # refuses, for root too
    cancelled: list[list[int]] = []
    monkeypatch.setattr(skypilot._client, "cancel", cancelled.append)
    monkeypatch.setattr(skypilot._watch, "job", lambda job_id, max_age_s: {"status": "RUNNING"})
    monkeypatch.setattr(skypilot, "_cancelled_at", {})
    monkeypatch.setattr(skypilot, "_unwritten_since", {})
    handle = {"executor": "sky", "key": "r1-train-1", "job_id": 7, "run_dir": str(tmp_path)}
    with pytest.raises(Unavailable, match="cannot be written"):
        SkyExecutor().cancel(handle, grace_s=15)
    assert cancelled == []
    monkeypatch.setitem(skypilot._unwritten_since, 7, time.monotonic() - skypilot.WRITTEN_WITHIN_S - 1)
    SkyExecutor().cancel(handle, grace_s=15)
    assert cancelled == [[7]]


def test_several_gpus_and_machines_are_asked_for_and_paid_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = [replace(spot_h100("gcp/us-east1/b", 20.0), num_gpus=8), spot_h100("gcp/us-east1/b", 2.0)]
    monkeypatch.setattr(catalog, "read_market", lambda *_, **__: Market(prices=tuple(eight)))
    monkeypatch.setattr(catalog, "enabled_clouds", lambda: None)
    target = Target(executor="sky", device="H100", spot=True, num_gpus=8, num_nodes=2)
    quote = target.quote()
    assert quote["usd_micros_per_hour"] == 40_000_000
    assert [row["usd_micros_per_hour"] for row in quote["market"]] == [40_000_000]  # what a place is charged at
    assert target.machine_key() != Target(executor="sky", device="H100").machine_key()
    env = workload_env(world_of(quote))
    for kind in ("train", "dryrun"):
        task = make_task(replace(job(kind, **quote["machine"]), env=env))
        assert task["num_nodes"] == 2
        assert task["resources"]["ordered"][0]["accelerators"] == "H100:8"
        assert ("recover_on_exit_codes" in task["resources"]["job_recovery"]) == (kind == "train")
        assert (task["envs"]["PET_NPROC_PER_NODE"], task["envs"]["PET_NNODES"]) == ("8", "2")
        assert "OMP_NUM_THREADS" not in task["envs"]  # a share of this machine's cores
    disks = [make_task(job(accelerator="H100", disk_bytes=num_bytes)) for num_bytes in (24e9, 83e9, None)]
    assert [task["resources"]["disk_size"] for task in disks] == [80, 140, 100]  # with the image; the file's own
    with pytest.raises(Refused, match=r"offers 4 x H100 spot; it is sold by 1, 8"):
        replace(target, num_gpus=4).find_price()
    dear = replace(target, usd_micros_per_hour=20_000_000)
    assert dear.find_price().usd_micros_per_hour == 40_000_000
    again = shlex.split(verbs.plan_command(TrainSpec(depth=12), target))
    assert again[again.index("--gpus") : again.index("--gpus") + 4] == ["--gpus", "8", "--nodes", "2"]
