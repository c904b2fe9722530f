"""Runs whose directory is in a bucket: real trainer processes against a real S3 server."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from s3 import S3Server
from training import Trainer, wait_for

from trainer.checkpoint.bucket import FLUSH_S, Bucket, local_folder
from trainer.checkpoint.folders import steps_to_keep
from trainer.checkpoint.restore import restore, whole_checkpoints
from trainer.contract import grace
from trainer.contract.events import EventWriter
from trainer.contract.exits import EXIT_BAD_SPEC, EXIT_DONE, EXIT_ERROR, EXIT_RESUME, BadSpec, UserError
from trainer.contract.remote import Remote

STEPS = 120
EVERY = 40  # steps between checkpoints


class Machine:
    """One machine with a scratch folder of its own, on which trainers start."""

    def __init__(self, trainer: Trainer, folder: Path, url: str):
        self.trainer, self.folder, self.url = trainer, folder, url
        folder.mkdir()

    def start(self, spec: dict[str, Any], *options: str, module: str = "train") -> subprocess.Popen[str]:
        path = self.folder / "spec.json"
        path.write_text(json.dumps(spec))
        command = self.trainer.command(self.folder / "unused", spec, *options, module=module)
        command[3:5] = [str(path), self.url]
        environ = self.trainer.environ(PATRON_SCRATCH=str(self.folder))
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environ, stderr=subprocess.PIPE, text=True)

    def train(self, spec: dict[str, Any], *options: str, module: str = "train") -> tuple[int, str]:
        process = self.start(spec, *options, module=module)
        _, stderr = process.communicate(timeout=120)
        return process.returncode, stderr


class UpThere:
    """A run as it is in the bucket."""

    def __init__(self, url: str):
        self.remote = Remote(url)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = []
        for name in self.remote.sizes("events"):
            found += [json.loads(line) for line in (self.remote.get(name) or b"").splitlines()]
        seqs = [event["seq"] for event in found]
        assert len(set(seqs)) == len(seqs), "an event is there twice"
        return [event for event in sorted(found, key=lambda event: event["seq"]) if kind in (None, event["kind"])]

    def losses(self) -> dict[int, float]:
        """Of each step; one that was done twice must have had the same loss both times."""
        found: dict[int, float] = {}
        for event in self.events("metrics"):
            loss = event["metrics"]["train/loss"]
            assert found.setdefault(event["step"], loss) == loss
        return found

    def result(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.remote.get("result.json") or b"{}")
        return value

    def checkpoints(self) -> list[int]:
        return sorted(whole_checkpoints(self.remote))


@pytest.fixture
def place(bucket: str) -> str:
    return f"{bucket}/runs/r1"


@pytest.fixture
def up_there(place: str) -> UpThere:
    return UpThere(place)


@pytest.fixture
def machine(trainer: Trainer, place: str, tmp_path: Path) -> Machine:
    return Machine(trainer, tmp_path / "one", place)


@pytest.fixture
def another(trainer: Trainer, place: str, tmp_path: Path) -> Machine:
    return Machine(trainer, tmp_path / "another", place)


@pytest.fixture(scope="module")
def expected(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the run when nothing happens to it."""
    run_dir = tmp_path_factory.mktemp("expected") / "run"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=STEPS)) == EXIT_DONE
    lines = [line for path in sorted((run_dir / "events").glob("*.jsonl")) for line in path.read_text().splitlines()]
    metrics = [event for line in lines if (event := json.loads(line))["kind"] == "metrics"]
    return {event["step"]: event["metrics"]["train/loss"] for event in metrics}


def test_a_run_leaves_its_whole_record_up_there(
    trainer: Trainer, machine: Machine, another: Machine, up_there: UpThere, expected: dict[int, float]
) -> None:
    spec = trainer.spec(num_steps=STEPS, checkpoint_every_steps=EVERY)
    code, stderr = machine.train(spec, "--attempt", "a-train-1")
    assert code == EXIT_DONE, stderr
    result = up_there.result()
    assert (result["step"], result["durable_step"], result["attempt"]) == (STEPS, STEPS, "a-train-1")
    assert up_there.losses() == expected
    assert up_there.events()[-1]["kind"] == "end"
    assert [event["seq"] for event in up_there.events()] == list(range(1, len(up_there.events()) + 1))
    assert json.loads(up_there.remote.get("spec.json") or b"")["num_steps"] == STEPS
    assert "hash" in json.loads(up_there.remote.get("environment.json") or b"")
    assert b"completed" in (up_there.remote.get("logs/a-train-1.log") or b"")
    local = local_folder_of(machine) / "checkpoints"
    assert up_there.checkpoints() == sorted(int(path.name[5:]) for path in local.glob("step-*"))

    code, stderr = another.train(spec, "--attempt", "a-train-2")
    assert code == EXIT_DONE
    assert "holds a finished run" in stderr
    assert up_there.result() == result


def local_folder_of(machine: Machine) -> Path:
    return machine.folder / local_folder(machine.url).name


def test_a_notice_leaves_a_durable_checkpoint_and_another_machine_goes_on(
    trainer: Trainer, machine: Machine, another: Machine, up_there: UpThere, expected: dict[int, float]
) -> None:
    spec = trainer.spec(num_steps=STEPS)
    process = machine.start(spec, "--attempt", "a-train-1")
    wait_for(lambda: _last_local_step(local_folder_of(machine)) >= 3, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_RESUME, stderr
    result = up_there.result()
    assert result["durable_step"] == result["step"] >= 3
    assert result["reason"] == "notice"
    assert up_there.checkpoints()[-1] == result["step"]
    before = up_there.events()

    code, stderr = another.train(spec, "--attempt", "a-train-1")
    assert code == EXIT_DONE, stderr
    after = [event for event in up_there.events() if event["seq"] > before[-1]["seq"]]
    assert next(event for event in after if event["kind"] == "start")["resumed_step"] == result["step"]
    assert [event["name"] for event in after if event["kind"] == "phase"].count("download") == 1
    log = up_there.remote.get("logs/a-train-1.log") or b""
    assert log.index(b"stopped by SIGTERM") < log.index(b"from step") < log.index(b"completed")
    assert up_there.losses() == expected


def _last_local_step(folder: Path) -> int:
    steps = [0]
    for path in (folder / "events").glob("*.jsonl*"):
        try:
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        except FileNotFoundError:
            continue  # closed, and so renamed, just now: whoever waits looks again
        steps += [event["step"] for line in lines if (event := json.loads(line))["kind"] == "metrics"]
    return max(steps)


def test_killed_while_a_checkpoint_goes_up_a_fresh_machine_resumes_from_the_one_before(
    trainer: Trainer,
    machine: Machine,
    another: Machine,
    up_there: UpThere,
    expected: dict[int, float],
    s3_server: S3Server,
) -> None:
    spec = trainer.spec(num_steps=STEPS, checkpoint_every_steps=EVERY, checkpoint_keep=3)
    uploading = s3_server.hold(lambda method, path: "step-000080/manifest" in path and method == "PUT")
    process = machine.start(spec, "--attempt", "a-train-1")
    try:
        wait_for(uploading.reached.is_set, process)
    finally:
        process.kill()
        process.communicate()
    s3_server.let_all_pass()
    assert up_there.checkpoints() == [EVERY]
    assert "checkpoints/step-000080/model.pt" in up_there.remote.sizes()

    code, stderr = another.train(spec, "--attempt", "a-train-1")
    assert code == EXIT_DONE, stderr
    start = up_there.events("start")[-1]
    assert start["resumed_step"] == EVERY
    assert up_there.losses() == expected
    assert up_there.checkpoints()[-1] == STEPS


def test_training_goes_on_while_the_server_is_away_and_catches_up(
    trainer: Trainer, machine: Machine, up_there: UpThere, expected: dict[int, float], s3_server: S3Server
) -> None:
    spec = trainer.spec(num_steps=STEPS, checkpoint_every_steps=EVERY)
    process = machine.start(spec, "--attempt", "a-train-1")
    local = local_folder_of(machine)
    wait_for(lambda: (local / "events").is_dir(), process)
    s3_server.stop()
    try:
        wait_for(lambda: _last_local_step(local) == STEPS, process)
    finally:
        s3_server.start()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == EXIT_DONE, stderr
    assert up_there.result()["durable_step"] == STEPS
    assert up_there.losses() == expected


def test_a_bucket_that_does_not_exist_refuses_at_once_and_says_what_to_do(
    trainer: Trainer, bucket: str, tmp_path: Path
) -> None:
    code, stderr = Machine(trainer, tmp_path / "one", f"{bucket}-nowhere/r1").train(trainer.spec())
    assert code == EXIT_BAD_SPEC, stderr
    assert "aws s3 mb" in stderr
    assert "Traceback" not in stderr


def test_a_server_that_is_away_at_the_start_is_no_fault_of_the_run(
    trainer: Trainer, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, stderr = machine.train(trainer.spec())
    assert code == EXIT_ERROR
    assert "check the network" in stderr


def test_a_damaged_checkpoint_is_passed_over_and_taken_away(
    trainer: Trainer, machine: Machine, another: Machine, up_there: UpThere, expected: dict[int, float]
) -> None:
    spec = trainer.spec(num_steps=STEPS, checkpoint_every_steps=EVERY)
    assert machine.train(spec, "--attempt", "a-train-1")[0] == EXIT_DONE
    newest, before = up_there.checkpoints()[-1], up_there.checkpoints()[-2]
    name = f"checkpoints/step-{newest:06d}/model.pt"
    content = bytearray(up_there.remote.get(name) or b"")
    content[100] ^= 1
    up_there.remote.put(name, bytes(content))
    up_there.remote.delete(["result.json"])

    code, stderr = another.train(spec, "--attempt", "a-train-2")
    assert code == EXIT_DONE, stderr
    assert f"step {newest} in" in stderr
    attempt = [event for event in up_there_events_of(up_there, "a-train-2") if event["kind"] in ("warning", "start")]
    assert attempt[0]["code"] == "checkpoint_damaged"
    assert attempt[1]["resumed_step"] == before
    assert restore(up_there.remote, another.folder / "fresh", None).step == newest


def up_there_events_of(up_there: UpThere, attempt: str) -> list[dict[str, Any]]:
    lines: list[bytes] = []
    for name in up_there.remote.sizes("events"):
        if name.startswith(f"events/{attempt}-"):
            lines += (up_there.remote.get(name) or b"").splitlines()
    return [json.loads(line) for line in lines]


def test_a_second_machine_takes_over_and_the_first_stops_writing(
    trainer: Trainer, machine: Machine, up_there: UpThere, place: str, tmp_path: Path
) -> None:
    process = machine.start(
        trainer.spec(num_steps=2000, batch_tokens=64, device_batch_size=1), "--attempt", "a-train-1"
    )
    wait_for(lambda: _last_local_step(local_folder_of(machine)) >= 1, process)
    Bucket(place, tmp_path / "second", "a-train-1")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_RESUME
    assert "another machine has the run" in stderr
    assert up_there.result() == {}
    assert up_there.checkpoints() == []


def test_a_dryrun_proves_itself_up_there(trainer: Trainer, machine: Machine, up_there: UpThere) -> None:
    spec = trainer.spec(num_steps=2000, batch_tokens=64, device_batch_size=1)
    code, stderr = machine.train(spec, "--attempt", "a-dryrun-1", "--burst", "3", module="dryrun")
    assert code == EXIT_DONE, stderr
    result = up_there.result()
    assert result["rehearsal"]["ok"]
    assert result["burst"]["steps"] == 3
    assert (result["rehearsal"]["notice_saved"], result["rehearsal"]["notice_durable"]) == (True, True)
    assert result["durable_step"] >= 5  # the notice came after it
    assert result["burst"]["upload_bytes_per_s"] > 0


def test_a_checkpoint_that_is_not_up_in_time_is_not_said_to_be_saved(
    bucket: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FLUSH_S, EXIT_RESUME, 1.0)
    monkeypatch.setattr(grace, "LAST_UPLOAD_S", 0.1)
    folder = _made(tmp_path / "one")
    step = folder / "checkpoints" / "step-000005"
    step.mkdir(parents=True)
    (step / "model.pt").write_bytes(b"1234")
    (step / "manifest.json").write_text(json.dumps({"step": 5, "files": {"model.pt": {"bytes": 4}}}))
    up = Bucket(f"{bucket}/run", folder, "a")
    s3_server.hold(lambda method, path: method == "PUT" and path.endswith("manifest.json"))
    up.start("a", None, None)
    said = "stopped by SIGTERM after step 5, with a checkpoint of it; start again to resume"
    result = up.flush({"exit_code": EXIT_RESUME, "reason": "notice", "step": 5, "message": said})
    s3_server.let_all_pass()
    up.close()
    assert result["durable_step"] is None
    assert "with a checkpoint of it on this machine only; start" in result["message"]
    assert result["message"].endswith("/run: none")


def test_numbers_of_events_go_on_behind_a_gap_on_a_fresh_machine(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/run"
    first = Bucket(url, _made(tmp_path / "one"), "a")
    events = EventWriter(tmp_path / "one", "a")
    for _ in range(3):
        events.emit("sample")
    events.close()
    first.start("a", None, None)
    first.close()
    Remote(url).put("events/b-000000.jsonl", b'{"seq": 7}\n')
    found = restore(Remote(url), _made(tmp_path / "two"), "a")
    assert found.first_seq(tmp_path / "two", "a") == 3 + 1000
    assert found.first_seq(tmp_path / "one", "a") == 4
    assert found.segments.keys() == {"a", "b"}
    assert (found.segments["b"].next_number, found.segments["b"].last_seq) == (1, 7)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_nothing_can_be_claimed_without_leave_to_write(bucket: str, tmp_path: Path, s3_server: S3Server) -> None:
    with pytest.raises(BadSpec, match="is no place for a run"):
        Bucket("ftp://x/y", tmp_path, None)
    s3_server.hold(lambda method, _: method == "PUT").release()
    with pytest.raises(UserError, match="try again"):
        Bucket(f"{bucket}/run", tmp_path, None)


def test_what_is_kept_is_the_newest_and_the_best() -> None:
    assert steps_to_keep({}, 2) == set()
    assert steps_to_keep({100: 2.0, 200: 1.5, 300: 1.8, 400: None}, 2) == {200, 300, 400}
    assert steps_to_keep({100: None, 200: None, 300: None}, 1) == {300}


def test_scratch_is_the_same_for_the_same_url_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATRON_SCRATCH", str(tmp_path))
    assert local_folder("s3://b/run") == local_folder("s3://b/run/")
    assert local_folder("s3://b/run") != local_folder("s3://c/run")
    assert local_folder("s3://b/run").name.startswith("run-")
    shutil.rmtree(tmp_path)
    assert not local_folder("s3://b/run").exists()
