"""`python -m trainer.train` as real processes: every way to end, and resumes that change nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from training import Trainer, events, losses, result, wait_for

from trainer.contract.grace import LEAVE_S, STOP_WITHIN_S


@pytest.fixture(scope="module")
def finished(trainer: Trainer) -> Path:
    """An uninterrupted run."""
    run_dir = trainer.folder / "uninterrupted"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=12, batch_tokens=1024)) == 0
    return run_dir


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("model", "optimizer"):
        tensors = [torch.load(run_dir / f"checkpoints/step-000012/{name}.pt") for run_dir in (one, other)]
        assert tensors[0].keys() == tensors[1].keys()
        for key, value in tensors[0].items():
            assert torch.equal(value, tensors[1][key]), f"{name}: {key}"


def test_a_run_leaves_a_whole_record(trainer: Trainer, finished: Path) -> None:
    last_word = result(finished)
    assert (last_word["exit_code"], last_word["reason"], last_word["step"]) == (0, "completed", 12)
    assert last_word["tokens"] == 12 * 1024
    assert last_word["resumed_step"] is None
    assert 0 < last_word["val_bpb"] == last_word["min_val_bpb"]
    assert last_word["mfu"] > 0
    assert last_word["wall_s"] > last_word["train_s"] > 0
    assert json.loads((finished / "spec.json").read_text())["num_steps"] == 12
    assert list(losses(finished)) == list(range(1, 13))
    assert [event["step"] for event in events(finished, "eval")] == [0, 4, 8, 12]
    assert [event["seq"] for event in events(finished)] == list(range(1, len(events(finished)) + 1))
    assert {event["name"] for event in events(finished, "phase")} >= {"data", "model", "first_step", "eval"}
    assert not list((finished / "events").glob("*.part"))
    start, end = events(finished)[0], events(finished)[-1]
    assert (start["kind"], start["resumed_step"], start["num_steps"]) == ("start", None, 12)
    assert (end["kind"], end["exit_code"], end["reason"], end["step"]) == ("end", 0, "completed", 12)
    assert "val_bpb" in (finished / "logs" / "manual-1.log").read_text()


def test_loss_falls(finished: Path) -> None:
    found = losses(finished)
    assert found[12] < found[1] - 0.3


def test_a_finished_run_ends_at_once_and_says_so(
    trainer: Trainer, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*") if path.name != ".lock")
    assert trainer.train_here(finished, trainer.spec(num_steps=12, batch_tokens=1024)) == 0
    assert "holds a finished run; nothing to do" in capfd.readouterr().err
    after = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*") if path.name != ".lock")
    assert [p for p, _ in after] == [p for p, _ in before]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "file"])
def test_a_notice_checkpoints_and_the_next_start_goes_on(
    trainer: Trainer, finished: Path, tmp_path: Path, how: str
) -> None:
    run_dir, spec, notice = (
        tmp_path / "run",
        trainer.spec(num_steps=12, batch_tokens=1024),
        tmp_path / "notice",
    )
    process = trainer.start(run_dir, spec, env={"PATRON_NOTICE_FILE": str(notice)})
    if how == "file":
        notice.touch()
    else:
        wait_for(lambda: bool(events(run_dir, "metrics")), process)
        process.send_signal(getattr(signal, how))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"]) == (75, "notice")
    assert [event["source"] for event in events(run_dir, "notice")] == [how]
    assert events(run_dir)[-1]["exit_code"] == 75
    notice.unlink(missing_ok=True)
    assert trainer.train_here(run_dir, spec) == 0
    assert losses(run_dir) == losses(finished)
    assert_same_weights(run_dir, finished)


def test_a_deadline_stops_it_and_the_smaller_one_wins(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=100, deadline_s=10_000)
    assert trainer.train_here(run_dir, spec, "--deadline-s", "0.1") == 75
    assert result(run_dir)["reason"] == events(run_dir)[-1]["reason"] == "deadline"


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(trainer: Trainer, finished: Path, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=12, batch_tokens=1024, checkpoint_every_steps=4)
    assert trainer.train_here(run_dir, spec) == 0
    (run_dir / "result.json").unlink()
    with (run_dir / "checkpoints/step-000012/model.pt").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    assert trainer.train_here(run_dir, spec) == 0
    assert [event["code"] for event in events(run_dir, "warning")] == ["checkpoint_damaged"]
    assert result(run_dir)["resumed_step"] == 8
    assert losses(run_dir) == losses(finished)
    assert_same_weights(run_dir, finished)


def test_a_bad_spec_is_refused_with_every_problem_before_torch_loads(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    bad = trainer.spec(depth=0, vocab_size=1, dtype="float16", colour="red")
    start = time.monotonic()
    exit_code, stderr = trainer.train(run_dir, bad, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert time.monotonic() - start < 60
    assert exit_code == 78
    for name in ("depth", "vocab_size", "dtype", "colour"):
        assert name in result(run_dir)["message"]
    assert (result(run_dir)["reason"], events(run_dir)[-1]["exit_code"]) == ("bad_spec", 78)
    assert "| torch\n" not in stderr.replace("|   ", "| ")


@pytest.mark.parametrize("text", ["{", "[]", '"spec"'])
def test_a_spec_that_is_no_object_is_refused(trainer: Trainer, tmp_path: Path, text: str) -> None:
    exit_code, stderr = trainer.train(tmp_path / "run", text)
    assert exit_code == 78
    assert "Traceback" not in stderr


def test_another_spec_in_the_same_directory_is_refused_and_named(
    trainer: Trainer, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trainer.train_here(finished, trainer.spec(num_steps=13, batch_tokens=1024, seed=7)) == 78
    stderr = capfd.readouterr().err
    assert "num_steps (12 in the run, 13 given)" in stderr
    assert "seed (42 in the run, 7 given)" in stderr
    assert result(finished)["exit_code"] == 0  # the finished run keeps its last word


def test_too_little_data_is_refused_before_training(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=100_000)) == 78
    assert "51200000" in result(run_dir)["message"].replace(",", "")
    assert not events(run_dir, "metrics")


def test_a_changed_environment_is_refused_and_named(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=50)
    assert trainer.train_here(run_dir, spec, "--burst", "1") == 0
    torch.set_num_threads(2)
    try:
        assert trainer.train_here(run_dir, spec) == 78
    finally:
        torch.set_num_threads(1)
    assert result(run_dir)["reason"] == "environment_drift"
    assert "threads: was 1, now 2" in result(run_dir)["message"]
    assert trainer.train_here(tmp_path / "other", spec, "--expect-environment", "0123456789abcdef") == 78
    assert result(tmp_path / "other")["reason"] == "environment_drift"


def test_a_loss_that_is_not_a_number_is_divergence_and_is_not_applied(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=12, batch_tokens=1024)
    assert trainer.train_here(run_dir, spec, "--burst", "3") == 0
    poison(run_dir / "checkpoints" / "step-000003")
    assert trainer.train_here(run_dir, spec) == 77
    last_word = result(run_dir)
    assert (last_word["reason"], last_word["step"]) == ("diverged", 3)
    assert last_word["message"].startswith(
        "step 4 was not applied (train/loss nan): the weight of blocks.0.mlp_in.weight"
    )
    culprit = {"quantity": "weight", "value": "nan", "name": "blocks.0.mlp_in.weight", "group": "matrices"}
    counts = {"step": 4, "num_bad": 1, "num_values": 4 * 128 * 128, "num_tensors": 1}
    assert last_word["divergence"] == culprit | counts
    assert last_word["last_checkpoint_step"] is None  # the poison is in it
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000003"]


def poison(checkpoint: Path) -> None:
    """NaN in one weight, with a manifest to match."""
    import hashlib

    tensors = torch.load(checkpoint / "model.pt")
    tensors["blocks.0.mlp_in.weight"][0, 0] = torch.nan
    torch.save(tensors, checkpoint / "model.pt")
    content = (checkpoint / "model.pt").read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["model.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_second_trainer_is_kept_out(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=200)
    first = trainer.start(run_dir, spec)
    wait_for(lambda: bool(events(run_dir, "metrics")), first)
    exit_code, stderr = trainer.train(run_dir, spec)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert exit_code == 1
    assert f"process {first.pid} already trains in" in stderr
    assert result(run_dir)["exit_code"] == 75


def test_anything_else_ends_with_a_traceback_in_the_result(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoints").write_text("in the way")
    assert trainer.train_here(run_dir, trainer.spec()) == 1
    assert "FileExistsError" in result(run_dir)["traceback"]
    assert events(run_dir)[-1]["reason"] == "user_error"


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_full_disk_costs_a_periodic_checkpoint_but_not_the_run(trainer: Trainer, tmp_path: Path) -> None:
    import resource

    run_dir = tmp_path / "run"
    spec = trainer.spec(num_steps=6, checkpoint_every_steps=2)
    limit = 1_000_000  # less than a checkpoint, more than events and logs
    assert trainer.train_here(tmp_path / "warm", spec, "--burst", "1") == 0  # the data needs larger files
    exit_code, stderr = trainer.train(
        run_dir, spec, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert exit_code == 1, stderr
    assert [event["code"] for event in events(run_dir, "warning")] == ["checkpoint_failed", "checkpoint_failed"]
    assert list(losses(run_dir)) == [1, 2, 3, 4, 5, 6]  # it went on to the end; only the last save is an error
    assert "checkpoint of step 6 failed" in result(run_dir)["message"]
    assert "traceback" not in result(run_dir)


def test_a_burst_measures_everything_and_the_next_one_goes_on(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=20)
    for end_step in (4, 8):
        assert trainer.train_here(run_dir, spec, "--burst", "4") == 0
        burst = result(run_dir)["burst"]
        assert result(run_dir)["step"] == end_step
        assert (burst["steps"], burst["from_step"]) == (4, end_step - 4)
        assert [key for key in BURST_KEYS if burst[key] is None] == []
        assert burst["train_tokens_needed"] == 20 * 512 <= burst["train_tokens_available"]
        assert burst["eval_s"] > 0 < burst["checkpoint_bytes"]
    assert list(losses(run_dir)) == list(range(1, 9))


BURST_KEYS = (
    "step_s", "step_s_iqr", "first_step_s", "tokens_per_s", "mfu", "peak_memory_bytes", "eval_s_per_token", "eval_s",
    "checkpoint_s", "checkpoint_stall_s", "checkpoint_bytes", "data_s", "tokenizer_s", "model_s", "compile_s",
    "start_s", "core_share", "train_tokens_available", "train_tokens_needed", "val_loss", "val_bpb_burst", "steps",
)  # fmt: skip


def test_a_dryrun_proves_kill_and_resume(trainer: Trainer, tmp_path: Path) -> None:
    run_dir, spec = tmp_path / "run", trainer.spec(num_steps=2000, batch_tokens=64, device_batch_size=1)
    process = trainer.start(run_dir, spec, "--burst", "3", "--attempt", "r-dryrun-1", module="dryrun")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    rehearsal = result(run_dir)["rehearsal"]
    assert rehearsal["ok"] is True
    assert (rehearsal["resumed_step"], rehearsal["killed_after_step"], rehearsal["loss_difference"]) == (3, 4, 0.0)
    assert rehearsal["recovery_s"] > 0
    assert result(run_dir)["burst"]["steps"] == 3
    # told to go, it saved the step at which it stopped
    assert (rehearsal["notice_saved"], rehearsal["notice_durable"]) == (True, True)
    assert 0 < rehearsal["notice_s"] < STOP_WITHIN_S + LEAVE_S
    assert max(int(path.parent.name[-6:]) for path in run_dir.glob("checkpoints/*/manifest.json")) >= 5


def test_without_a_compiler_it_warns_and_trains_eagerly(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    run_dir = tmp_path / "run"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=2, compile=True)) == 0
    (warning,) = events(run_dir, "warning")
    assert warning["code"] == "compile_unavailable"
    assert "no C++ compiler found" in warning["message"]
    assert json.loads((run_dir / "environment.json").read_text())["compile"] is False


def test_the_environment_can_be_asked_for_before_training(
    trainer: Trainer, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer import environment

    assert environment.main([str(finished / "spec.json")]) == 0
    recorded = json.loads((finished / "environment.json").read_text())
    assert json.loads(capsys.readouterr().out) == recorded
    assert recorded["code_hash"]
    assert recorded["data_hash"]
