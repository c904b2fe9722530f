"""Reclaim notices, over real HTTP from a server that answers as documented; and a real run that gets one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from metadata_stub import MetadataStub
from training import ROOT, Trainer, events, losses, result, wait_for

from trainer.preemption import notices
from trainer.preemption.notices import BACK_OFF_S, watching_for_notices
from trainer.preemption.stop import StopRequest, StopWatch

PATIENCE_S = 20.0
FIRMWARE = {
    "GCP": {"product_name": "Google Compute Engine", "sys_vendor": "Google", "bios_version": "Google"},
    "AWS": {"product_name": "g5.xlarge", "sys_vendor": "Amazon EC2", "bios_version": "1.0"},
    "Xen": {"product_name": "HVM domU", "sys_vendor": "Xen", "bios_version": "4.11.amazon"},
    "laptop": {"product_name": "20XW0026GE", "sys_vendor": "LENOVO", "bios_version": "N32ET75W"},
    "Chromebook": {"product_name": "Eve", "sys_vendor": "Google", "bios_version": "Google_Eve.9584.230.0"},
}


class Watched:
    """What a watch said, and the waits it asked for, none of which take time."""

    def __init__(self) -> None:
        self.told: list[StopRequest] = []
        self.warnings: list[tuple[str, str]] = []
        self.waits: list[float] = []
        self.threads: list[threading.Thread] = []

    def wait_until_ended(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def notice(self) -> StopRequest:
        self.wait_until_ended()
        (request,) = self.told
        return request

    @contextmanager
    def watching(self, firmware: Path) -> Iterator[Watched]:
        def sleep(closed: threading.Event, seconds: float) -> None:
            self.waits.append(seconds)
            closed.wait(0.001)

        def warn(code: str, message: str) -> None:
            self.warnings.append((code, message))

        with watching_for_notices(self.told.append, warn, firmware=firmware, sleep=sleep) as self.threads:
            yield self


@pytest.fixture
def stub() -> Iterator[MetadataStub]:
    with MetadataStub().serving() as served:
        yield served


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A machine whose firmware cannot be read, as in many a container."""
    return tmp_path / "no-firmware"


def only(monkeypatch: pytest.MonkeyPatch, cloud: str, address: str) -> None:
    for name in ("GCP", "AWS"):
        monkeypatch.setenv(f"PATRON_METADATA_{name}", address if name == cloud else "off")


def test_gcp_preemption_ends_the_long_poll(stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    only(monkeypatch, "GCP", stub.address)
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(1, "wait_for_change=true")
        stub.set_gcp("preempted", "TRUE")
        assert watched.notice() == StopRequest(source="GCP (instance/preempted: TRUE)")
    assert watched.warnings == []
    paths = [request for request in stub.requests if "preempted" in request]
    assert paths[0] == "GET /computeMetadata/v1/instance/preempted"  # as it is: a change before would be missed
    assert "last_etag=" in paths[1]


def test_gcp_preempted_before_the_run_began_is_a_notice_too(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "GCP", stub.address)
    stub.set_gcp("preempted", "TRUE")
    with Watched().watching(nowhere) as watched:
        assert "TRUE" in watched.notice().source


def test_gcp_maintenance_that_terminates_is_a_notice_and_a_migration_is_none(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "GCP", stub.address)
    monkeypatch.setattr(notices, "LONG_POLL_S", 0)  # the service answers at once that nothing changed
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(1, "maintenance-event")
        stub.set_gcp("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
        asked = len(stub.requests)
        stub.wait_until_asked(asked + 6)
        assert watched.told == []
        stub.set_gcp("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
        source = "GCP (instance/maintenance-event: TERMINATE_ON_HOST_MAINTENANCE)"
        assert watched.notice() == StopRequest(source=source)
    assert max(watched.waits) > 0.5  # an answer that comes too soon does not make a busy loop


def test_gcp_maintenance_known_at_the_start_does_not_stop_each_start_anew(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "GCP", stub.address)
    monkeypatch.setattr(notices, "LONG_POLL_S", 0)
    stub.set_gcp("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(3, "maintenance-event")
        assert watched.told == []
        assert [code for code, _ in watched.warnings] == ["maintenance_ahead"]
        stub.set_gcp("preempted", "TRUE")
        assert "preempted" in watched.notice().source


def test_aws_says_what_and_when(stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    only(monkeypatch, "AWS", stub.address)
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(2, "spot/instance-action")  # 404 so far
        stub.aws["spot/instance-action"] = {"action": "terminate", "time": "2017-09-18T08:22:00Z"}
        expected = "AWS (spot/instance-action: terminate at 2017-09-18T08:22:00Z)"
        assert watched.notice() == StopRequest(source=expected, ends_at=1505722920.0)
    assert stub.tokens_made == 1  # one token for all
    assert set(watched.waits) == {5.0}
    assert watched.warnings == []


def test_aws_without_a_readable_time_is_a_notice_all_the_same(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "AWS", stub.address)
    stub.aws["spot/instance-action"] = {"action": "stop", "time": "soon"}
    with Watched().watching(nowhere) as watched:
        assert watched.notice() == StopRequest(source="AWS (spot/instance-action: stop at soon)")


def test_an_expired_aws_token_is_renewed(stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    only(monkeypatch, "AWS", stub.address)
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(2, "spot/instance-action")
        stub.expire_tokens()
        stub.wait_until_asked(2, "PUT /latest/api/token")
        stub.aws["spot/instance-action"] = {"action": "hibernate", "time": "2017-09-18T08:22:00Z"}
        assert "hibernate" in watched.notice().source
    assert set(watched.waits) == {5.0}  # no failure, so no back-off


def test_an_aws_rebalance_recommendation_is_only_a_warning_and_comes_once(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "AWS", stub.address)
    stub.aws["events/recommendations/rebalance"] = {"noticeTime": "2020-10-27T08:22:00Z"}
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(3, "rebalance")
        assert watched.told == []
    assert [code for code, _ in watched.warnings] == ["rebalance_recommended"]
    assert "2020-10-27T08:22:00Z" in watched.warnings[0][1]


@pytest.mark.parametrize("cloud", ["GCP", "AWS"])
@pytest.mark.parametrize("fault", ["503", "hang", "drop", "garbage", "302", "endless"])
def test_a_service_that_is_here_is_asked_again_whatever_it_answers(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path, cloud: str, fault: str
) -> None:
    only(monkeypatch, cloud, stub.address)
    if fault == "hang":
        monkeypatch.setattr(notices, "ANSWER_S", 1.0)
    stub.faults.extend([fault] * (1 if fault == "hang" else 3))
    stub.set_gcp("preempted", "TRUE")
    stub.aws["spot/instance-action"] = {"action": "terminate", "time": "2017-09-18T08:22:00Z"}
    with Watched().watching(nowhere) as watched:
        assert watched.notice().source.startswith(cloud)
    failures = 1 if fault == "hang" else 3
    if (cloud, fault) == ("AWS", "garbage"):
        failures = 2  # the first was taken for a token, and refused with the second
    assert watched.waits == list(BACK_OFF_S[:failures])
    assert watched.warnings == []


def test_a_fault_amid_the_long_poll_reads_the_value_anew(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "GCP", stub.address)
    monkeypatch.setattr(notices, "LONG_POLL_S", 0)
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(1, "wait_for_change")
        stub.faults.append("503")
        stub.gcp["preempted"] = "TRUE"  # while it was away
        assert "TRUE" in watched.notice().source


def test_a_service_that_stays_away_costs_one_warning_and_ever_rarer_questions(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "AWS", f"http://127.0.0.1:{free_port()}")
    with Watched().watching(nowhere) as watched:
        end = time.monotonic() + PATIENCE_S
        while len(watched.waits) < 8 and time.monotonic() < end:
            time.sleep(0.005)
    assert tuple(watched.waits[:8]) == (*BACK_OFF_S, *[BACK_OFF_S[-1]] * 4)
    ((code, message),) = watched.warnings
    assert code == "notices_unavailable"
    assert "PATRON_METADATA_AWS=off" in message


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("machine", "clouds"), [("GCP", ["GCP"]), ("AWS", ["AWS"]), ("Xen", ["AWS"]), ("laptop", []), ("Chromebook", [])]
)
def test_the_firmware_says_whom_to_ask(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, clouds: list[str]
) -> None:
    at_the_stub(monkeypatch, stub)
    write_firmware(tmp_path, machine)
    stub.faults.append("503")  # known to be here: one bad answer does not end it
    stub.set_gcp("preempted", "TRUE")
    stub.aws["spot/instance-action"] = {"action": "terminate", "time": "2017-09-18T08:22:00Z"}
    with Watched().watching(tmp_path) as watched:
        watched.wait_until_ended()
    assert [request.source[:3] for request in watched.told] == clouds
    assert bool(stub.requests) == bool(clouds)


def at_the_stub(monkeypatch: pytest.MonkeyPatch, stub: MetadataStub) -> None:
    """No variables, and the clouds' own addresses lead to the stub."""
    for kind in notices.SERVICES:
        monkeypatch.delenv(f"PATRON_METADATA_{kind.name}", raising=False)
        monkeypatch.setattr(kind, "address", stub.address)


def write_firmware(folder: Path, machine: str) -> None:
    for name, text in FIRMWARE[machine].items():
        (folder / name).write_text(text + "\n")


def test_where_the_firmware_cannot_be_read_one_look_decides(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    at_the_stub(monkeypatch, stub)
    monkeypatch.setattr(notices.Gcp, "address", f"http://127.0.0.1:{free_port()}")  # only AWS answers
    stub.aws["spot/instance-action"] = {"action": "terminate", "time": "2017-09-18T08:22:00Z"}
    with Watched().watching(nowhere) as watched:
        assert watched.notice().source.startswith("AWS")
    assert watched.waits == []
    assert watched.warnings == []


@pytest.mark.parametrize("answer", ["garbage", "302", "hang", "404"])
def test_off_the_cloud_each_service_is_asked_once_and_nothing_is_said(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path, answer: str
) -> None:
    at_the_stub(monkeypatch, stub)
    monkeypatch.setattr(notices, "ANSWER_S", 0.2)
    for kind in notices.SERVICES:
        monkeypatch.setattr(kind, "address", stub.address + ("/elsewhere" if answer == "404" else ""))
    stub.faults.extend([answer] * (0 if answer == "404" else 3))
    with Watched().watching(nowhere) as watched:
        watched.wait_until_ended()
    assert (watched.told, watched.warnings, watched.waits) == ([], [], [])
    assert len([request for request in stub.requests if request.startswith("GET /computeMetadata")]) <= 1


def test_off_asks_nobody_and_a_proxy_is_never_asked(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "", "")
    with Watched().watching(nowhere) as watched:
        assert watched.threads == []
    monkeypatch.setenv("HTTP_PROXY", stub.address)
    monkeypatch.setenv("http_proxy", stub.address)
    monkeypatch.setenv("NO_PROXY", "")
    only(monkeypatch, "AWS", f"http://127.0.0.1:{free_port()}")
    with Watched().watching(nowhere) as watched:
        end = time.monotonic() + PATIENCE_S
        while not watched.waits and time.monotonic() < end:
            time.sleep(0.005)
    assert watched.waits
    assert stub.requests == []


def test_leaving_does_not_wait_for_a_service_that_hangs_and_nothing_is_said_afterwards(
    stub: MetadataStub, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    only(monkeypatch, "GCP", stub.address)
    with Watched().watching(nowhere) as watched:
        stub.wait_until_asked(1, "wait_for_change")
        start = time.monotonic()
    assert time.monotonic() - start < 30  # it hangs for ever
    stub.set_gcp("preempted", "TRUE")
    watched.wait_until_ended()
    assert watched.told == []


def test_starting_costs_no_import_of_an_http_client() -> None:
    code = "import sys, trainer.train; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_notice_from_another_thread_is_reported_once_and_a_signal_before_it_wins() -> None:
    reported: list[StopRequest] = []
    stop = StopWatch()
    stop.report_to(reported.append)
    assert stop.requested() is None
    request = StopRequest(source="AWS (spot/instance-action: stop at soon)", ends_at=1.0)
    stop.notify(request)
    assert stop.requested() is stop.requested() is request
    stop.notify(StopRequest(source="GCP"))
    assert stop.requested() is request
    assert reported == [request]
    assert request.reason == "notice"


@pytest.mark.parametrize("cloud", ["GCP", "AWS"])
def test_a_training_process_that_gets_a_notice_saves_and_exits_75_and_the_next_start_goes_on(
    trainer: Trainer, tmp_path: Path, stub: MetadataStub, cloud: str
) -> None:
    run_dir = tmp_path / "run"
    spec = trainer.spec(num_steps=2000, batch_tokens=64, device_batch_size=1, eval_every_steps=0)
    where = {f"PATRON_METADATA_{name}": stub.address if name == cloud else "off" for name in ("GCP", "AWS")}
    process = trainer.start(run_dir, spec, env=where)
    wait_for(lambda: bool(events(run_dir, "metrics")), process)
    if cloud == "GCP":
        stub.set_gcp("preempted", "TRUE")
    else:
        stub.aws["spot/instance-action"] = {"action": "terminate", "time": "2099-09-18T08:22:00Z"}
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    (notice,) = events(run_dir, "notice")
    assert notice["source"].startswith(f"{cloud} (")
    assert notice["ends_at"] == (None if cloud == "GCP" else 4093402920.0)
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"]) == (75, "notice")
    assert f"stopped by {cloud} (" in last_word["message"]
    step = last_word["step"]
    assert (run_dir / f"checkpoints/step-{step:06d}/manifest.json").exists()
    assert step == max(losses(run_dir))
    assert trainer.train_here(run_dir, spec, "--burst", "2") == 0
    assert result(run_dir)["resumed_step"] == step
