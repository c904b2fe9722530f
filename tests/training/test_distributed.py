"""Runs over several real processes, with gloo: the numbers of one process, sharded state, and one end for all."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import socket
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from training import PATIENCE_S, ROOT, Trainer, events, losses, result, wait_for

from trainer.contract.exits import EnvironmentDrift
from trainer.contract.ranks import LastWord, WorldSize, torchrun
from trainer.contract.recipe import make_recipe
from trainer.environment import HASHED, check_environment, describe_environment
from trainer.model.gpt import build_model
from trainer.optim.optimizer import Optimizer
from trainer.runtime import distributed
from trainer.runtime.joining import join
from trainer.runtime.world import ALONE, World
from trainer.train import main

STEPS = 12
SAME = 2e-6  # absolute: a few units in the last place of a loss
RANK_TIMEOUT_S = 10  # for a test that hangs a rank; no step takes that long
LAST_WORDS_S = 1.0  # enough on one machine

forkserver = multiprocessing.get_context("forkserver")  # imports torch once, where no thread runs yet
forkserver.set_forkserver_preload(["torch", "torch.distributed", "trainer.session", "trainer.runtime.distributed"])


def be_a_rank(rank: int, size: int, port: int, target: Any, argument: Any) -> None:
    address = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in address.items()}, PATRON_RANK_TIMEOUT_S=str(RANK_TIMEOUT_S))
    distributed.LAST_WORDS_S = LAST_WORDS_S
    torch.set_num_threads(1)
    raise SystemExit(target(argument))


def start_ranks(target: Any, arguments: list[Any]) -> list[ForkServerProcess]:
    """One process for each argument."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = []
    for rank, argument in enumerate(arguments):
        arguments_of_rank = (rank, len(arguments), port, target, argument)
        ranks.append(forkserver.Process(target=be_a_rank, args=arguments_of_rank, daemon=True))
        ranks[-1].start()
    return ranks


def exit_codes(ranks: list[ForkServerProcess]) -> list[int | None]:
    for process in ranks:
        process.join(PATIENCE_S)
    return [process.exitcode for process in ranks]


def start_training(trainer: Trainer, run_dir: Path, spec: dict[str, Any], *options: str) -> list[ForkServerProcess]:
    command = trainer.command(run_dir, spec, *options)
    return start_ranks(main, [command[command.index("trainer.train") + 1 :]] * 2)


def spec_of(trainer: Trainer, **changes: Any) -> dict[str, Any]:
    """Two layers, so that there are value embeddings and stacks; two micro-batches a step."""
    return trainer.spec(**{"depth": 2, "num_steps": STEPS, "batch_tokens": 1024, "device_batch_size": 8, **changes})


def assert_same_losses(run_dir: Path, reference: Path) -> None:
    found, expected = losses(run_dir), losses(reference)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=SAME), f"step {step}"
    bpbs = [[(event["step"], event["val_bpb"]) for event in events(path, "eval")] for path in (run_dir, reference)]
    assert [step for step, _ in bpbs[0]] == [step for step, _ in bpbs[1]]
    assert [bpb for _, bpb in bpbs[0]] == pytest.approx([bpb for _, bpb in bpbs[1]], abs=SAME)


@pytest.fixture(scope="module")
def one(trainer: Trainer) -> Path:
    """The run by one process, uninterrupted."""
    run_dir = trainer.folder / "one-process"
    assert trainer.train_here(run_dir, spec_of(trainer)) == 0
    return run_dir


def test_two_processes_have_the_losses_of_one_and_leave_one_record(trainer: Trainer, one: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    assert exit_codes(start_training(trainer, run_dir, spec_of(trainer))) == [0, 0]
    assert_same_losses(run_dir, one)
    assert losses(run_dir)[STEPS] < losses(run_dir)[1] - 0.3  # it learnt, with both optimizers
    found = events(run_dir)
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert (found[0]["kind"], found[0]["num_devices"]) == ("start", 2)
    assert json.loads((run_dir / "environment.json").read_text())["num_devices"] == 2
    last_word, alone = result(run_dir), result(one)
    for key in ("exit_code", "reason", "step", "tokens"):
        assert last_word[key] == alone[key]
    assert sorted(path.name for path in run_dir.rglob("*.log")) == ["manual-1.log"]
    for name in ("model", "optimizer"):
        whole, theirs = (torch.load(path / f"checkpoints/step-000012/{name}.pt") for path in (one, run_dir))
        assert {key: value.shape for key, value in theirs.items()} == {key: value.shape for key, value in whole.items()}


def test_a_signal_to_one_rank_stops_all_with_one_checkpoint_and_one_process_goes_on(
    trainer: Trainer, one: Path, tmp_path: Path
) -> None:
    run_dir, spec = tmp_path / "run", spec_of(trainer)
    ranks = start_training(trainer, run_dir, spec)
    until(lambda: bool(events(run_dir, "metrics")), ranks)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert exit_codes(ranks) == [75, 75]
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"]) == (75, "notice")
    assert [event["source"] for event in events(run_dir, "notice")] == ["SIGTERM"]
    assert [path.name for path in run_dir.glob("checkpoints/*")] == [f"step-{last_word['step']:06d}"]
    assert 0 < last_word["step"] < STEPS
    assert trainer.train_here(run_dir, spec) == 0
    assert result(run_dir)["resumed_step"] == last_word["step"]
    assert_same_losses(run_dir, one)


def test_two_processes_go_on_where_one_stopped(trainer: Trainer, tmp_path: Path) -> None:
    """With several micro-batches a rank. Micro-batches of another size would differ by 1e-5: they round differently."""
    one, run_dir = tmp_path / "one", tmp_path / "run"
    spec = spec_of(trainer, eval_every_steps=0, device_batch_size=4)
    assert trainer.train_here(one, spec) == 0
    assert trainer.train_here(run_dir, spec, "--burst", "5") == 0
    assert exit_codes(start_training(trainer, run_dir, spec)) == [0, 0]
    assert result(run_dir)["resumed_step"] == 5
    assert_same_losses(run_dir, one)
    rows = [json.loads((path / "checkpoints/step-000012/state.json").read_text())["loader"] for path in (run_dir, one)]
    assert rows[0] == rows[1]


def test_a_batch_that_cannot_be_divided_is_refused_with_the_numbers(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert exit_codes(start_training(trainer, run_dir, trainer.spec(batch_tokens=3 * 4 * 64))) == [78, 78]
    assert result(run_dir)["reason"] == "bad_spec"
    for part in ("12 sequences", "2 processes", "micro-batches of 4"):
        assert part in result(run_dir)["message"]


def test_a_rank_that_fails_alone_ends_all_with_its_reason(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    commands = [trainer.command(tmp_path / name, trainer.spec(seed=seed)) for name, seed in (("run", 1), ("other", 2))]
    arguments = [[*command[command.index("trainer.train") + 1 :][:1], str(run_dir)] for command in commands]
    assert exit_codes(start_ranks(main, arguments)) == [78, 78]
    assert result(run_dir)["reason"] == "bad_spec"
    assert "rank 1: the spec has hash" in result(run_dir)["message"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_gone_or_hangs_is_named_and_does_not_hang_the_others(
    trainer: Trainer, tmp_path: Path, how: signal.Signals
) -> None:
    run_dir = tmp_path / "run"
    ranks = start_training(trainer, run_dir, trainer.spec(num_steps=250, eval_every_steps=0))
    until(lambda: bool(events(run_dir, "metrics")), ranks)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, how)
    ranks[0].join(PATIENCE_S)
    ranks[1].kill()
    assert exit_codes(ranks) == [137, -signal.SIGKILL]
    assert result(run_dir)["reason"] == events(run_dir)[-1]["reason"] == "lost"
    assert "no word from rank 1 of 2" in result(run_dir)["message"]


def test_torchrun_passes_signals_on_and_what_the_ranks_say_is_how_it_ended(trainer: Trainer, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = torchrun(trainer.command(run_dir, trainer.spec(num_steps=250), "--attempt", "a"))
    environ = trainer.environ(**WorldSize(per_node=2).environ())
    last_word = LastWord("a", None)
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(events(run_dir, "metrics")), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, 75), stderr  # its own says nothing
    assert last_word.exit_code(process.returncode, result(run_dir)) == 75


@pytest.mark.parametrize("world", [WorldSize(per_node=2), WorldSize(nodes=2)], ids=["here", "two machines"])
def test_two_attempts_on_the_same_machines_do_not_meet(world: WorldSize, tmp_path: Path) -> None:
    """Each rank says that it is there, and waits until all of both attempts have."""
    (tmp_path / "rank.py").write_text(
        "import os, pathlib, time\n"
        "here = pathlib.Path(os.environ['MEET'])\n"
        "(here / (os.environ['ATTEMPT'] + os.environ['RANK'])).write_text(os.environ['WORLD_SIZE'])\n"
        "end = time.monotonic() + 60\n"
        "while len(list(here.iterdir())) < 4: assert time.monotonic() < end; time.sleep(0.05)\n"
    )
    (meet := tmp_path / "meet").mkdir()
    command = torchrun([sys.executable, "-m", "rank"])
    starts = []
    for attempt in ("a-train-1", "b-train-1"):
        environ = os.environ | world.environ() | world.rendezvous(attempt) | {"ATTEMPT": attempt, "MEET": str(meet)}
        environ |= {"PET_MASTER_ADDR": "127.0.0.1"} if world.nodes > 1 else {}
        for node in range(world.nodes):
            starts.append(subprocess.Popen(command, cwd=tmp_path, env=environ | {"PET_NODE_RANK": str(node)}))
    assert [start.wait(PATIENCE_S) for start in starts] == [0] * len(starts)
    said = {path.name: path.read_text() for path in meet.iterdir()}
    assert said == dict.fromkeys(["a-train-10", "a-train-11", "b-train-10", "b-train-11"], "2")


def test_of_torchrun_only_what_this_start_said_counts() -> None:
    said = {"attempt": "a", "exit_code": 76}
    assert LastWord("a", None).exit_code(1, said) == 76
    assert LastWord("a", None).exit_code(0, said) == 0
    assert LastWord("a", None).exit_code(-9, said) == -9  # torchrun itself was killed
    for before, last in ((said, said), (None, None), (None, said | {"attempt": "b"}), (None, {"attempt": "a"})):
        assert LastWord("a", before).exit_code(1, last) == 137  # nobody had time for a word
    assert LastWord("a", None).exit_code(1, said | {"exit_code": 0}) == 137  # a burst's, before it was lost


def test_with_another_number_of_processes_may_come_another_number_of_threads(tmp_path: Path) -> None:
    began = dict.fromkeys(HASHED, "as ever") | {"threads": 4, "num_devices": 1, "hash": "0"}
    check_environment(tmp_path, began)
    check_environment(tmp_path, began | {"threads": 2, "num_devices": 2, "hash": "1"})
    for change in ({"threads": 2}, {"threads": 2, "torch": "another", "num_devices": 2}):
        with pytest.raises(EnvironmentDrift, match="threads: was 4, now 2"):
            check_environment(tmp_path, began | change | {"hash": "1"})


def test_a_patch_of_python_is_no_drift_and_a_minor_version_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`uv venv --python 3.11` pins none: a machine after a recovery may have another."""
    machine = SimpleNamespace(
        is_cuda=False, device=SimpleNamespace(type="cpu"), device_name="c", dtype_name="float32", compile=False,
        has_cpu_kernel=True,
    )  # fmt: skip
    data: Any = SimpleNamespace(data_hash="d", tokenizer_hash="t", where="here", source=None)

    def on(version: str) -> dict[str, Any]:
        monkeypatch.setattr(platform, "python_version", lambda: version)
        return describe_environment(cast("Any", machine), data)

    began = on("3.11.7")
    check_environment(tmp_path, began)
    check_environment(tmp_path, on("3.11.14"), expected_hash=began["hash"])
    assert on("3.11.14")["python"] == "3.11.14"  # it is written down all the same
    with pytest.raises(EnvironmentDrift, match=r"python: was '3\.11\.7', now '3\.12\.1'"):
        check_environment(tmp_path, on("3.12.1"))


def until(condition: Any, ranks: list[ForkServerProcess]) -> None:
    """Until the condition holds; fails at once when a rank ends before."""
    while not condition():
        ranks[0].join(0.01)
        assert all(process.is_alive() for process in ranks), exit_codes(ranks)


# The optimizer by itself, over three ranks: shares that are uneven, and one that is empty

RECIPE = make_recipe(2, sequence_len=32, vocab_size=301, dim=32, head_dim=16, batch_tokens=64, num_steps=40)


def optimize(path: str) -> int:
    """Two steps, a reload, one more step: what rank r ends up with goes to PATH-r."""
    world = join()
    torch.save(advance(world), f"{path}-{world.rank}")
    world.agreed_to_end()
    return world.leave(0)


def advance(world: World) -> dict[str, Any]:
    model = build_model(RECIPE, device=torch.device("cpu"), compute_dtype=torch.float32, seed=0)
    optimizer = Optimizer(model, RECIPE, world=world)
    for step in range(3):
        if step == 2:
            saved = {key: value.clone() for key, value in optimizer.state_dict().items()}
            optimizer = Optimizer(model, RECIPE, world=world)
            optimizer.load_state_dict(saved)
        rng = torch.Generator().manual_seed(step)
        for param in model.parameters():  # parts that add up to the same on any number of ranks
            parts = torch.randn((3, *param.shape), generator=rng)
            param.grad = parts.sum(0) if world.size == 1 else parts[world.rank].clone()
        optimizer.step(step)
    own = sum(tensor.numel() for tensor in optimizer._state.values())
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "own": own}


def test_sharded_state_is_a_share_a_rank_and_updates_are_those_of_one_process(tmp_path: Path) -> None:
    assert exit_codes(start_ranks(optimize, [str(tmp_path / "state")] * 3)) == [0, 0, 0]
    alone, ranks = advance(ALONE), [torch.load(tmp_path / f"state-{rank}") for rank in range(3)]
    for rank in ranks:
        assert rank["own"] < 0.42 * alone["own"]
        for name, value in alone["model"].items():
            torch.testing.assert_close(rank["model"][name], value, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(rank["model"][name], ranks[0]["model"][name]), name
    assert ranks[0]["optimizer"].keys() == alone["optimizer"].keys()
    assert not ranks[1]["optimizer"]
    for name, value in alone["optimizer"].items():
        torch.testing.assert_close(ranks[0]["optimizer"][name], value, rtol=1e-4, atol=1e-6, msg=name)
