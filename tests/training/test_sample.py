"""`python -m trainer.sample`: from a run directory, finished or alive, to text on stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROOT, Trainer

from trainer.data import Tokenizer
from trainer.sample import main
from trainer.sampling.generate import next_logits
from trainer.sampling.loading import find_checkpoint, load_talker

Json = dict[str, Any]


@pytest.fixture(scope="module")
def trained(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at several steps."""
    run_dir = tmp_path_factory.mktemp("sample") / "run"
    spec = trainer.spec(checkpoint_every_steps=2, checkpoint_keep=10)
    assert trainer.train_here(run_dir, spec) == 0
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def sampled(capsys: pytest.CaptureFixture[str], run_dir: Path, *options: str) -> Json:
    assert main([str(run_dir), "--json", *options]) == 0
    value: Json = json.loads(capsys.readouterr().out)
    return value


def refused(capsys: pytest.CaptureFixture[str], exit_code: int, run_dir: Path, *options: str) -> Json:
    assert main([str(run_dir), "--json", *options]) == exit_code
    printed = capsys.readouterr()
    error: Json = json.loads(printed.out)["error"]
    assert error["message"] in printed.err
    assert error["next"] in printed.err
    return error


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_command_streams_the_prompt_and_what_follows(trained: Path) -> None:
    command = [sys.executable, "-m", "trainer.sample", str(trained), "--max-tokens", "8", "--temperature", "0"]
    done = subprocess.run(command, cwd=ROOT, input="the cat\n", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the cat")
    assert len(done.stdout) > len("the cat\n")
    assert "step-000008 (val_bpb" in done.stderr
    assert "max tokens; 8 tokens in" in done.stderr


def test_a_run_without_its_cache_can_be_talked_to_on_another_machine(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "nothing"))
    for path in run_dir.iterdir():
        if path.name not in {"spec.json", "tokenizer.json", "checkpoints"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = sampled(capsys, run_dir, "--prompt", "the cat", "--prompt", "dog ran", "--num-samples", "2")
    assert [sample["prompt"] for sample in found["samples"]] == ["the cat", "the cat", "dog ran", "dog ran"]
    assert all(sample["text"] and sample["end"] for sample in found["samples"])
    assert (found["step"], found["dtype"], found["seed"], found["top_k"]) == (8, "float32", 0, 50)


def test_the_same_seed_gives_the_same_texts_and_another_others(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def texts(seed: int) -> list[str]:
        found = sampled(capsys, trained, "--prompt", "the", "--num-samples", "3", "--seed", str(seed))
        return [sample["text"] for sample in found["samples"]]

    assert texts(1) == texts(1) != texts(2)


def test_the_loaded_model_is_the_one_that_was_saved(trained: Path) -> None:
    talker = load_talker(trained, which=None, device=torch.device("cpu"), warn=pytest.fail)
    saved = torch.load(trained / "checkpoints" / "step-000008" / "model.pt", weights_only=True)
    loaded = talker.model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert talker.tokenizer.hash == Tokenizer.load(trained / "tokenizer.json").hash
    assert next_logits(talker.model, torch.tensor([[0, 20, 21]])).isfinite().all()


def test_a_run_in_bfloat16_is_talked_to_in_bfloat16(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trainer.train_here(tmp_path / "run", trainer.spec(dtype="bfloat16", num_steps=2)) == 0
    capsys.readouterr()
    found = sampled(capsys, tmp_path / "run", "--prompt", "the", "--max-tokens", "5")
    assert found["dtype"] == "bfloat16"


def test_several_texts_get_headings(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "the", "--prompt", "dog", "--num-samples", "2", "--max-tokens", "3"]
    assert main([str(trained), *options]) == 0
    out = capsys.readouterr().out
    headings = [line for line in out.splitlines() if line.startswith("===")]
    assert headings == [f"=== prompt {p}, sample {s} ===" for p in (1, 2) for s in (1, 2)]
    assert out.startswith(f"{headings[0]}\nthe")
    assert f"\n{headings[3]}\ndog" in out


def test_another_step_and_the_best_can_be_asked_for(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampled(capsys, run_dir, "--prompt", "the", "--step", "4")["step"] == 4
    scores = {
        path.parent: json.loads(path.read_text())["val_bpb_here"]
        for path in (run_dir / "checkpoints").glob("step-*/state.json")
    }
    best = min((path for path, score in scores.items() if score is not None), key=lambda path: scores[path])
    found = sampled(capsys, run_dir, "--prompt", "the", "--step", "best")
    assert (found["step"], found["val_bpb"]) == (int(best.name[5:]), scores[best])
    error = refused(capsys, 1, run_dir, "--prompt", "the", "--step", "5")
    assert error["code"] == "no_checkpoint"
    assert "2, 4, 6, 8" in error["next"]


def test_a_damaged_checkpoint_is_passed_over_and_left_where_it_is(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run_dir / "checkpoints" / "step-000008" / "model.pt")
    half_made = run_dir / "checkpoints" / ".tmp-step-000010"  # of a trainer that is saving just now
    half_made.mkdir()
    assert main([str(run_dir), "--json", "--prompt", "the"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["step"] == 6
    assert "step-000008 is damaged: the content of model.pt" in printed.err
    assert half_made.exists()
    assert (run_dir / "checkpoints" / "step-000008").exists()
    error = refused(capsys, 1, run_dir, "--prompt", "the", "--step", "8")
    assert error["code"] == "checkpoint_damaged"
    assert "2, 4, 6" in error["next"]


def test_what_only_training_needs_may_be_damaged(run_dir: Path) -> None:
    flip(run_dir / "checkpoints" / "step-000008" / "optimizer.pt")
    assert find_checkpoint(run_dir, None, pytest.fail).step == 8


def test_nothing_to_talk_to_says_what_to_do(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, 1, tmp_path / "none", "--prompt", "the")
    assert error["code"] == "not_a_run"
    assert "spec.json" in error["next"]
    (run_dir / "tokenizer.json").unlink()
    assert sampled(capsys, run_dir, "--prompt", "the")["samples"]  # a run from before: the cache has it
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "nothing"))
    error = refused(capsys, 1, run_dir, "--prompt", "the")
    assert error["code"] == "no_tokenizer"
    assert "trainer.environment" in error["next"]
    (run_dir / "tokenizer.json").write_text("{}")
    assert refused(capsys, 1, run_dir, "--prompt", "the")["code"] == "tokenizer_damaged"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_here_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, 1, trained, "--prompt", "the", "--device", "cuda")
    assert error["code"] == "no_cuda"


def test_text_on_stdin_that_is_not_utf8_is_refused(trained: Path) -> None:
    command = [sys.executable, "-m", "trainer.sample", str(trained), "--json"]
    done = subprocess.run(command, cwd=ROOT, input=b"the \xff", capture_output=True, check=False)
    assert done.returncode == 2
    assert "not UTF-8" in json.loads(done.stdout)["error"]["message"]


def test_a_run_without_a_checkpoint_says_so(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    error = refused(capsys, 1, run_dir, "--prompt", "the")
    assert error["code"] == "no_checkpoint"
    assert "trainer.train" in error["next"]


def test_a_model_of_other_code_is_not_loaded(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads((run_dir / "spec.json").read_text())
    (run_dir / "spec.json").write_text(json.dumps(spec | {"depth": 2}))
    error = refused(capsys, 1, run_dir, "--prompt", "the")
    assert error["code"] == "checkpoint_differs"
    assert "git_commit" in error["next"]


@pytest.mark.parametrize(
    ("prompt", "problem"), [("  ", "empty"), ("the cat " * 60, "context is 64"), ("\udc80", "UTF-8")]
)
def test_a_prompt_that_cannot_be_read_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], prompt: str, problem: str
) -> None:
    error = refused(capsys, 2, trained, "--prompt", prompt)
    assert error["code"] == "bad_prompt"
    assert problem in error["message"]


@pytest.mark.parametrize("option", ["--max-tokens=0", "--temperature=-1", "--top-k=-1", "--num-samples=0", "--step=x"])
def test_bad_arguments_are_named(trained: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(trained), "--prompt", "the", option])
    assert caught.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(trained: Path) -> None:
    command = [sys.executable, "-m", "trainer.sample", str(trained), "--prompt", "the", "--max-tokens", "60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
