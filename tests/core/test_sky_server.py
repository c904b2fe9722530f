"""The sky executor against SkyPilot's own server and client as people have them: no controller, one that is being made,
one that has stopped. The server is real; the machines that it would make are stubbed (tests/skyserver.py)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from skyserver import SkyServer, make_server, until

from patron_core import verbs
from patron_core.errors import OnItsWay, PatronError, Refused
from patron_core.executors import skypilot, skypilot_client
from patron_core.executors.base import Job, ObservedStatus
from patron_core.executors.records import Records
from patron_core.executors.sky_task import job_name, make_task
from patron_core.executors.skypilot import SkyExecutor
from patron_core.executors.skypilot_client import Client
from patron_core.lifecycle import leftovers
from patron_core.machines import catalog
from patron_core.store import Store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkyServer]:
    found = make_server(tmp_path_factory.mktemp("sky"))
    yield found
    found.down()
    assert found.processes() == []


@pytest.fixture(scope="module")
def client(server: SkyServer) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environ().items():
            patch.setenv(name, value)
        patch.setattr(skypilot_client, "LAUNCH_SEEN_S", 2.0)
        found = Client()
        yield found
        found.close()


@pytest.fixture
def executor(client: Client, home: Path, monkeypatch: pytest.MonkeyPatch) -> SkyExecutor:
    monkeypatch.setenv("PATRON_SKY_PYTHON", sys.executable)  # nothing is uploaded
    monkeypatch.setattr(skypilot, "_client", client)
    monkeypatch.setattr(skypilot, "_watch", skypilot.Watch(client))
    return SkyExecutor()


def job(folder: Path, key: str) -> Job:
    place = {"infra": "gcp/us-central1/us-central1-a", "accelerator": "H100", "instance_type": "a3-highgpu-1g"}
    machine = {"accelerator": "H100", "spot": True, "places": [place]}
    (folder / key).mkdir()
    return Job(key=key, command=("true",), run_dir=str(folder / key), deadline_s=60, grace_s=5, machine=machine)


def test_a_stopped_controller_is_started_before_its_jobs_are_judged(
    server: SkyServer, client: Client, executor: SkyExecutor, tmp_path: Path
) -> None:
    server.have_a_stopped_controller()
    assert client.jobs(name="patron-", live=True) == []  # it stops only where nothing runs: nobody wakes it for that
    seen = client.controller()
    assert (seen["kind"], seen["status"], seen["usd_per_hour"]) == ("machine", "STOPPED", 3.29)
    assert seen["hosts"] == ["aws", "gcp"]
    for _ in range(3):
        with pytest.raises(OnItsWay, match="controller had stopped and is being started"):
            executor.find("r2-train-1")
    handle = {"executor": "sky", "key": "r2-train-1", "job_id": 7, "run_dir": str(tmp_path)}
    assert executor.poll(handle).status is ObservedStatus.UNREACHABLE  # and not: SkyPilot knows no such job
    until(lambda: len(server.asked()) > 0, "the controller to be started")
    assert [each["what"] for each in server.asked()] == ["start"]
    server.forget_the_controller()


def test_the_first_launch_is_reached_waits_for_the_controller_and_can_be_given_up(
    server: SkyServer, client: Client, executor: SkyExecutor, tmp_path: Path
) -> None:
    assert client.clouds() == ["aws", "gcp"]
    assert client.controller()["kind"] == "none"
    assert client.jobs(name="patron-", live=True) == []
    first = job(tmp_path, "r1-train-1")
    assert executor.find(first.key) is None  # SkyPilot says ClusterNotUpError: there are no jobs yet
    with pytest.raises(OnItsWay, match=r"jobs controller first, which can take ten minutes"):
        executor.submit(first)
    until(lambda: len(server.asked()) == 2, "the controller to be asked for")
    assert server.asked()[1]["cluster"].startswith("sky-jobs-controller-")
    client.close()  # whoever launched it is gone: the launch is found, and nothing is launched twice
    with pytest.raises(OnItsWay):
        executor.submit(first)
    assert executor.forbid(first.key, first.run_dir) is None
    assert client.launching(job_name(first.lab, first.key)) == ""
    assert (Records(first.run_dir, first.key).stop() or {})["kill_after_s"] == 0.0
    assert len(server.asked()) == 2


def test_what_no_enabled_cloud_offers_is_known_before_anything_is_launched(
    client: Client, executor: SkyExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(job(tmp_path, "r3-train-1"))
    client.check_feasible(task)
    task["resources"]["ordered"][0]["instance_type"] = "a3-megagpu-8g"
    with pytest.raises(Refused):
        client.check_feasible(task)
    planned = job(tmp_path, "r3-train-2").machine
    skypilot.check_offered(planned)
    with pytest.raises(Refused):  # eight of the card are sold there, and one is planned
        skypilot.check_offered({**planned, "places": [{**planned["places"][0], "instance_type": "a3-megagpu-8g"}]})
    monkeypatch.setattr(client, "has_quota", lambda row, **_: row["infra"] != "gcp/us-central1")
    with pytest.raises(Refused, match=r"quota is zero for H100:1 in gcp/us-central1"):
        skypilot.check_offered(planned)


def test_the_doctor_tells_each_thing_with_what_mends_it(
    server: SkyServer, client: Client, bucket: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No controller yet, two clouds, a bucket at a server that only this machine reaches."""
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATRON_RUNS", f"{bucket}/runs")
    monkeypatch.setattr(skypilot_client, "shared", client)
    monkeypatch.setattr(catalog, "_enabled", [])
    found = {check.name: check for check in verbs.doctor().checks}
    assert {name: check.status for name, check in found.items()} == {
        "versions": "pass", "server": "pass", "clouds": "pass", "accelerators": "pass", "quota": "unknown",
        "controller": "pass", "bucket": "pass", "credentials": "fail", "machine": "unknown",
    }  # fmt: skip
    assert found["clouds"].found == "aws, gcp"
    assert "H100 spot from $3.10 an hour in gcp/us-central1/us-central1-a" in found["accelerators"].found
    assert "the first launch makes one in aws or gcp, in up to ten minutes: $0.19 an hour" in found["controller"].found
    assert "only this machine can reach" in found["credentials"].found
    assert found["machine"].next == "patron doctor --machine --yes"


def test_gc_names_the_controller_and_its_price_and_ends_it(
    server: SkyServer, client: Client, sqlite_store: Store
) -> None:
    server.have_a_stopped_controller()
    (found,) = leftovers.find_leftovers(sqlite_store, client)
    assert found.name.startswith("sky-jobs-controller-")
    assert "it is STOPPED; no job lives on it, and its disk is paid for; $3.29 an hour" in found.sentence
    leftovers.remove_leftovers(client, [found])
    assert server.asked()[-1] == {"what": "down", "cluster": found.name}
    assert client.controller()["kind"] == "none"
    assert leftovers.find_leftovers(sqlite_store, client) == []


def test_a_launch_that_fails_later_says_why_and_is_tried_again(
    server: SkyServer, executor: SkyExecutor, tmp_path: Path
) -> None:
    """The last one: from here on the backend fails."""
    last = job(tmp_path, "r4-train-1")
    with pytest.raises(OnItsWay):
        executor.submit(last)
    server.let("fail")
    seen: list[PatronError] = []
    end = time.monotonic() + 60
    while not (seen and "no machine for the controller" in seen[-1].message) and time.monotonic() < end:
        with pytest.raises(PatronError) as refused:
            executor.submit(last)
        seen.append(refused.value)
        time.sleep(0.2)
    assert "no machine for the controller" in seen[-1].message
    assert not isinstance(seen[-1], OnItsWay)
