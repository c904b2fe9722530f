"""The samples at the end of a run: one event, bounded, and never a reason for a run to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training import Trainer, events, result

from trainer import session
from trainer.contract.spec import TrainSpec
from trainer.data import Tokenizer, prepare
from trainer.environment import cache_folder
from trainer.sampling.generate import MAX_TOKENS, STOPPED
from trainer.sampling.loading import load_talker
from trainer.sampling.showcase import ENGLISH_PROMPTS, PYTHON_PROMPTS, closing_prompts, closing_samples


@pytest.fixture(scope="module")
def trained(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("showcase") / "run"
    assert trainer.train_here(run_dir, trainer.spec()) == 0
    return run_dir


def test_a_run_ends_with_one_event_of_samples_after_its_last_checkpoint(trained: Path) -> None:
    (sample,) = events(trained, "sample")
    assert sample["step"] == 8
    assert len(sample["prompts"]) == len(sample["texts"]) == len(sample["ends"]) == 3
    assert all(sample["texts"])
    assert sample["tokens_per_s"] > 0
    kinds = [event["kind"] for event in events(trained)]
    assert kinds.index("sample") > max(place for place, kind in enumerate(kinds) if kind == "checkpoint")
    assert kinds[-1] == "end"
    assert events(trained, "warning") == []


def test_prompts_fit_the_source_and_files_of_ones_own_give_theirs(trainer: Trainer, trained: Path) -> None:
    data = prepare(TrainSpec.from_dict(trainer.spec()), cache_folder())
    tokenizer = data.tokenizer()
    assert closing_prompts("stdlib", data, tokenizer) == PYTHON_PROMPTS
    assert closing_prompts("fineweb-edu", data, tokenizer) == closing_prompts("climbmix", data, tokenizer)
    assert closing_prompts("climbmix", data, tokenizer) == ENGLISH_PROMPTS
    own = closing_prompts(f"path:{trainer.corpus}", data, tokenizer)
    corpus = trainer.corpus.read_text()
    assert len(own) == 3
    assert all(prompt.strip() and prompt in corpus for prompt in own)
    assert list(own) == events(trained, "sample")[0]["prompts"]


def test_a_burst_and_a_run_that_was_stopped_have_none(trainer: Trainer, tmp_path: Path) -> None:
    assert trainer.train_here(tmp_path / "burst", trainer.spec(), "--burst", "2") == 0
    assert events(tmp_path / "burst", "sample") == []
    assert trainer.train_here(tmp_path / "stopped", trainer.spec(), "--deadline-s", "0.001") == 75
    assert events(tmp_path / "stopped", "sample") == []


def test_samples_that_fail_are_a_warning_and_the_run_is_complete(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room for a cache")

    monkeypatch.setattr(session, "closing_samples", fail)
    assert trainer.train_here(tmp_path / "run", trainer.spec(num_steps=2)) == 0
    (warning,) = events(tmp_path / "run", "warning")
    assert warning["code"] == "sample_failed"
    assert "no room for a cache" in warning["message"]
    assert result(tmp_path / "run")["reason"] == "completed"


def test_they_are_bounded_in_time_and_by_a_wish_to_stop(trained: Path) -> None:
    talker = load_talker(trained, which=None, device=torch.device("cpu"), warn=pytest.fail)
    prompts = ("the", "cat", "the cat " * 100)  # the last does not fit the context

    def samples(stop_after: int, max_s: float = 100.0) -> list[str] | None:
        asked = iter(range(1000))
        made = closing_samples(
            talker.model, talker.tokenizer, prompts, should_stop=lambda: next(asked) >= stop_after, max_s=max_s
        )
        return made and made["ends"]

    assert samples(stop_after=0) is None
    assert samples(stop_after=3) == [STOPPED]
    assert samples(stop_after=1000) == [MAX_TOKENS, MAX_TOKENS]
    assert samples(stop_after=1000, max_s=0.0) == [STOPPED, STOPPED]  # one token each


def test_they_are_the_same_each_time_and_touch_nothing_that_training_uses(trained: Path) -> None:
    talker = load_talker(trained, which=None, device=torch.device("cpu"), warn=pytest.fail)
    random_state = torch.get_rng_state()
    first, again = (
        closing_samples(talker.model, talker.tokenizer, ["the cat"], should_stop=lambda: False) for _ in range(2)
    )
    assert first is not None
    assert again is not None
    assert first["texts"] == again["texts"]
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_run_keeps_the_tokenizer_that_its_environment_names(trained: Path) -> None:
    environment = json.loads((trained / "environment.json").read_text())
    assert Tokenizer.load(trained / "tokenizer.json").hash == environment["tokenizer_hash"]
