"""Training begins with the first shard; the rest is made beside it. Work is counted, not timed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mirror import HELD_OUT, Mirror
from training import WORDS, Trainer, events, losses, result, wait_for

from trainer.contract.exits import EXIT_DONE, EXIT_RESUME
from trainer.contract.layout import data_place
from trainer.contract.remote import Remote
from trainer.contract.spec import TrainSpec
from trainer.data import StopWaiting, Tokenizer, Unreachable, prepare
from trainer.data.ahead import Ahead, Order
from trainer.data.loader import TrainLoader
from trainer.data.making import Wanted
from trainer.data.prepare import horizon_rows, prepare_beside
from trainer.train import main

REVISION = "0123456789abcdef" * 2 + "01234567"


def num_steps(run_dir: Path) -> int:
    """On record by now; a segment may be closed while it is read."""
    with suppress(FileNotFoundError):
        return len(losses(run_dir))
    return 0


def texts(seed: int, count: int = 600) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=60)) + "." for _ in range(count)]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Three training parts of about 70 steps each, and the held-out one."""
    parts = {index: texts(index) for index in (0, 1, 2, HELD_OUT)}
    with Mirror(tmp_path / "mirror", parts, REVISION).serving() as server:
        monkeypatch.setenv("PATRON_CLIMBMIX_URL", f"{server.url}/resolve/main")
        yield server


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Documents that were tokenised in this process, in a shard of some twenty."""
    monkeypatch.setattr("trainer.data.shards.SHARD_TOKENS", 2000)
    monkeypatch.setattr("trainer.data.shards.BATCH_CHARS", 1000)
    counts: list[int] = []
    encode = Tokenizer.encode_documents

    def counting(self: Tokenizer, documents: Any, dtype: np.dtype) -> Iterator[np.ndarray]:
        counts.append(len(documents))
        return encode(self, documents, dtype)

    monkeypatch.setattr(Tokenizer, "encode_documents", counting)
    return counts


def test_what_is_tokenised_before_the_first_step_does_not_grow_with_the_horizon(
    trainer: Trainer, tmp_path: Path, encoded: list[int]
) -> None:
    """A burst's rows, a resume's rows, and no others; the same documents whatever the horizon."""
    work = {}
    for steps in (20, 200):
        spec = TrainSpec.from_dict(trainer.spec(num_steps=steps))
        encoded.clear()
        data = prepare(spec, tmp_path / str(steps), wanted=Wanted(end_row=16, val_rows=1))
        work[steps] = sum(encoded)
    assert work[20] == work[200] < 200
    assert data.num_train_tokens > 200 * 512  # of the source, estimated

    encoded.clear()
    spec = TrainSpec.from_dict(trainer.spec(num_steps=220))
    prepare(spec, tmp_path / "200", wanted=Wanted(first_row=16, end_row=32, val_rows=1))
    assert sum(encoded) < 300  # goes on where it stopped


def test_a_resume_makes_its_own_rows_anew_and_none_before(trainer: Trainer, tmp_path: Path, encoded: list[int]) -> None:
    spec = TrainSpec.from_dict(trainer.spec(num_steps=40))
    whole = prepare(spec, tmp_path)
    every = sum(encoded)
    later = TrainLoader(whole, batch_size=4, sequence_len=64, seed=1)
    later.restore({"row": 200, "seed": 1, "sequence_len": 64})
    expected = later.next()[0]
    for shard in whole.train.known:
        shard.remove()
    encoded.clear()
    wanted = Wanted(first_row=200, end_row=horizon_rows(spec), val_rows=1)
    data = prepare(spec, tmp_path, wanted=wanted)
    assert 0 < sum(encoded) < 0.6 * every
    assert not data.train.known[0].is_here()
    again = TrainLoader(data, batch_size=4, sequence_len=64, seed=1)
    again.restore({"row": 200, "seed": 1, "sequence_len": 64})
    assert again.next()[0].equal(expected)


def test_training_begins_while_the_rest_is_still_to_come_and_is_the_same_run(
    trainer: Trainer, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trainer.spec(data="climbmix", num_steps=110, eval_every_steps=0, eval_tokens=128)
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "cache"))
    cache = {"PATRON_CACHE": str(tmp_path / "cache")}
    mirror.held = {"shard_00001.parquet", "shard_00002.parquet"}
    process = trainer.start(tmp_path / "beside", spec, env=cache)
    wait_for(lambda: num_steps(tmp_path / "beside") >= 40, process)
    assert num_steps(tmp_path / "beside") < 110  # the rest needs the part that is held
    mirror.passing.set()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_DONE, stderr
    source = json.loads((tmp_path / "beside" / "environment.json").read_text())["data_source"]
    assert source == {"url": f"{mirror.url}/resolve/main", "revision": REVISION}

    assert trainer.train_here(tmp_path / "before", spec) == EXIT_DONE
    assert losses(tmp_path / "before") == losses(tmp_path / "beside")
    assert sorted(mirror.asked) == ["shard_00000.parquet", "shard_00001.parquet", f"shard_{HELD_OUT:05d}.parquet"]


def _makers(cache: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "trainer.data.beside" in words and str(cache) in words:
            found.append(int(path.parent.name))
    return found


def test_a_trainer_that_is_killed_takes_its_maker_along_and_the_next_goes_on(
    trainer: Trainer, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trainer.spec(data="climbmix", num_steps=110, eval_every_steps=0, eval_tokens=128, checkpoint_every_steps=10)
    cache = tmp_path / "cache"
    monkeypatch.setenv("PATRON_CACHE", str(cache))
    mirror.held = {"shard_00001.parquet"}
    process = trainer.start(tmp_path / "run", spec, env={"PATRON_CACHE": str(cache)})
    wait_for(lambda: num_steps(tmp_path / "run") >= 40 and bool(_makers(cache)), process)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while _makers(cache):
        assert time.monotonic() < end, "the maker outlived its trainer"
        time.sleep(0.05)

    held = trainer.start(tmp_path / "run", spec, env={"PATRON_CACHE": str(cache)})
    wait_for(lambda: bool(_makers(cache)), held)
    held.send_signal(signal.SIGTERM)  # also while it waits for data
    _, stderr = held.communicate(timeout=60)
    assert held.returncode == EXIT_RESUME, stderr
    mirror.passing.set()
    assert trainer.train_here(tmp_path / "run", spec) == EXIT_DONE
    assert len(losses(tmp_path / "run")) == 110


def test_a_source_that_does_not_answer_ends_a_start_with_try_again(
    trainer: Trainer, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.refused = True
    monkeypatch.setattr("trainer.data.download.RETRY_DELAYS_S", ())
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "cache"))
    assert trainer.train_here(tmp_path / "run", trainer.spec(data="climbmix")) == EXIT_RESUME
    said = result(tmp_path / "run")
    assert said["reason"] == "source_unreachable"
    assert "503" in said["message"]


def test_a_source_that_goes_away_later_leaves_a_checkpoint(
    trainer: Trainer, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.held = {"shard_00001.parquet"}
    monkeypatch.setenv("PATRON_CACHE", str(tmp_path / "cache"))
    more = Ahead.more

    def gone(self: Ahead, row: int) -> None:
        if row > 0:
            raise Unreachable("the hub is dead.", next="try again later")
        more(self, row)

    monkeypatch.setattr(Ahead, "more", gone)
    spec = trainer.spec(data="climbmix", num_steps=110, eval_every_steps=0, eval_tokens=128)
    assert trainer.train_here(tmp_path / "run", spec) == EXIT_RESUME
    said = result(tmp_path / "run")
    assert said["reason"] == "source_unreachable"
    assert 0 < said["step"] < 110
    assert list((tmp_path / "run" / "checkpoints").glob(f"step-{said['step']:06d}/manifest.json"))
    assert any("the hub is dead" in event["message"] for event in events(tmp_path / "run", "warning"))


def test_whoever_waits_can_be_asked_to_stop(trainer: Trainer, mirror: Mirror, tmp_path: Path) -> None:
    mirror.held = {f"shard_{HELD_OUT:05d}.parquet"}
    asked: list[int] = []

    def look() -> None:
        asked.append(1)
        if len(asked) > 20:
            raise StopWaiting

    order = Order(spec=TrainSpec.from_dict(trainer.spec(data="climbmix")), cache=tmp_path / "cache")
    with pytest.raises(StopWaiting):
        prepare_beside(order, Wanted(end_row=8), look=look)
    assert not _makers(tmp_path / "cache")


def test_the_next_machine_finds_what_was_made_beside_the_runs(
    trainer: Trainer, mirror: Mirror, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine has an empty disk; the source is there for the first one only, and for what was damaged."""
    spec = trainer.spec(data="climbmix", num_steps=80, eval_every_steps=0, eval_tokens=128)

    def train(machine: str, run: str) -> int:
        monkeypatch.setenv("PATRON_CACHE", str(tmp_path / machine))
        monkeypatch.setenv("PATRON_SCRATCH", str(tmp_path / machine / "scratch"))
        command = trainer.command(tmp_path / f"{machine}-unused", spec)
        return main([command[3], f"{bucket}/runs/{run}"])

    def found(run: str) -> dict[int, float]:
        remote = Remote(f"{bucket}/runs/{run}")
        lines = [line for name in remote.sizes("events") for line in (remote.get(name) or b"").splitlines()]
        metrics = [event for line in lines if (event := json.loads(line))["kind"] == "metrics"]
        return {event["step"]: event["metrics"]["train/loss"] for event in metrics}

    assert train("one", "first") == EXIT_DONE
    kept = Remote(data_place(f"{bucket}/runs/first"))
    names = set(kept.sizes())
    assert {name.split("/")[0] for name in names} == {"sources", "tokenizers", "tokens"}
    assert json.loads(kept.get("sources/climbmix.json") or b"")["revision"] == REVISION

    mirror.refused = True
    asked = len(mirror.asked)
    assert train("two", "second") == EXIT_DONE
    assert len(mirror.asked) == asked
    assert found("second") == found("first")
    assert len(found("first")) == 80

    mirror.refused = False
    tokens = [name for name in names if name.endswith(".tokens")]
    for name, size in kept.sizes().items():  # as long as before, and others: an id that no tokenizer has, for instance
        if name.endswith(".tokens"):
            kept.put(name, b"\xff" * size)
        elif name.startswith("tokenizers/"):
            kept.put(name, b"{}")
    assert train("three", "third") == EXIT_DONE
    assert found("third") == found("first")
    assert all(b"\xff" * 8 not in (kept.get(name) or b"") for name in tokens)  # and mended there


def test_the_place_of_what_runs_share() -> None:
    places = {
        "s3://bucket/runs/r1": "s3://bucket/runs/.data",
        "s3://bucket/runs/r1/dryrun-2": "s3://bucket/runs/.data",
        "s3://bucket/r1": "s3://bucket/.data",
        "gs://bucket": "gs://bucket/.data",
        "/home/me/runs/r1/": "/home/me/runs/.data",
        "run": "./.data",
    }
    assert {run_dir: data_place(run_dir) for run_dir in places} == places
