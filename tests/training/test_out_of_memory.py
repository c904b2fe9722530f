"""Out of memory: the arithmetic as a table, and a real process that may not have what it asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROOT, Trainer, events, result

from trainer.contract.footprint import memory_parts
from trainer.contract.recipe import make_recipe
from trainer.runtime import out_of_memory
from trainer.runtime.out_of_memory import Micro, judge, kind_of, largest_batch_that_fits

GB = 10**9
CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.49 GiB of which 1.20 GiB is free."
)


@pytest.mark.parametrize(
    ("batch_size", "rows", "capacity", "fixed", "needed", "sequence", "fitting"),
    [
        (64, 256, 40, 5, 41, 0.5, 64 // 2),  # 64 need 37, but it held 41: the formula is scaled up to that
        (64, 256, 40, 5, 41, 1.0, 32),  # 5 + 32 = 37 <= 38.4
        (64, 256, 40, 5, 41, 1.1, 16),  # 5 + 35.2 > 38.4
        (256, 256, 40, 5, 41, 0.57, 32),  # it failed early, far below its peak: half of it would fail again
        (8, 256, 40, 5, 300, 1.0, None),  # it asked for far more than the formula knows
        (8, 256, 40, 39, 41, 0.1, None),  # what does not depend on the batch leaves no room
        (1, 256, 40, 5, 41, 40.0, None),  # nothing is smaller than one
        (24, 96, 40, 5, 41, 1.5, 16),  # 5 + 24 x 1.5 = 41: divisors of 96, not only powers of two
        (20, 60, 40, 5, 41, 1.8, 15),
        (7, 7, 40, 5, 60, 8.0, 1),  # a prime number of rows
        (32, 32, 40, 5, 41, 0.01, 16),  # with room for more by the formula, but the failing size is out
    ],
)
def test_the_largest_batch_that_fits(
    batch_size: int, rows: int, capacity: float, fixed: float, needed: float, sequence: float, fitting: int | None
) -> None:
    found = largest_batch_that_fits(
        batch_size=batch_size,
        rows=rows,
        capacity_bytes=capacity * GB,
        fixed_bytes=fixed * GB,
        needed_bytes=needed * GB,
        growing_bytes=lambda size: size * sequence * GB,
    )
    assert found == fitting
    if found is not None:
        assert rows % found == 0
        assert found < batch_size


def test_which_errors_are_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert kind_of(caught.value) == "host_oom"
    assert kind_of(MemoryError()) == "host_oom"
    assert kind_of(RuntimeError("could not create a primitive")) == "host_oom"
    assert kind_of(torch.cuda.OutOfMemoryError(CUDA_MESSAGE)) == "cuda_oom"
    assert kind_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert kind_of(OSError(28, "No space left on device")) is None


class FakeCuda:
    """What a full 40 GB card says of itself."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return int(1.2 * 2**30), int(39.49 * 2**30)

    def memory_reserved(self) -> int:
        return int(38.0 * 2**30)

    def max_memory_allocated(self) -> int:
        return int(37.5 * 2**30)

    def memory_summary(self, *, abbreviated: bool) -> str:
        return "|  PyTorch CUDA memory summary  |"


def depth_10(batch_size: int) -> Micro:
    """The published depth-10 run. It ran out of 40 GB with 64 sequences; without whole logits they take 33 GB."""
    recipe = make_recipe(10, window_pattern="L", batch_tokens=2**19)
    parts = memory_parts(recipe, micro_batch_size=1, item_bytes=2, compiled=True, cpu=False)
    return Micro(
        batch_size=batch_size,
        rows=256,
        recipe=recipe,
        item_bytes=2,
        compiled=True,
        on_cuda=True,
        resting_bytes=int(parts["weights"] + parts["optimizer"]),
    )


@pytest.mark.parametrize(("batch_size", "fitting"), [(64, 32), (128, 64), (256, 64)])
def test_on_cuda_it_advises_what_fits(monkeypatch: pytest.MonkeyPatch, batch_size: int, fitting: int) -> None:
    """Not run on CUDA: the error is real, the card's answers are written down above."""
    monkeypatch.setattr(torch, "cuda", FakeCuda())
    verdict = judge(torch.cuda.OutOfMemoryError(CUDA_MESSAGE), "cuda_oom", depth_10(batch_size))
    assert (verdict["exit_code"], verdict["reason"]) == (76, "cuda_oom")
    assert verdict["memory"]["fitting_device_batch_size"] == fitting
    assert verdict["memory"]["requested_bytes"] == 2 * 2**30
    assert verdict["memory"]["capacity_bytes"] == int(1.2 * 2**30) + 38 * 2**30
    assert f"It would fit with device_batch_size {fitting} instead of {batch_size}" in verdict["message"]
    assert verdict["memory_summary"].startswith("|  PyTorch")
    json.dumps(verdict, allow_nan=False)


def test_a_model_that_is_too_large_at_any_batch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", FakeCuda())
    recipe = make_recipe(40)
    micro = Micro(
        batch_size=8, rows=256, recipe=recipe, item_bytes=2, compiled=True, on_cuda=True, resting_bytes=36 * GB
    )
    verdict = judge(torch.cuda.OutOfMemoryError(CUDA_MESSAGE), "cuda_oom", micro)
    assert verdict["memory"]["fitting_device_batch_size"] is None
    assert "Not even one sequence of 2048 tokens" in verdict["message"]
    assert "smaller depth" in verdict["message"]


def test_a_cuda_error_in_a_run_ends_it_with_76(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.loop import TrainingLoop

    def fail(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError(CUDA_MESSAGE)

    monkeypatch.setattr(TrainingLoop, "_micro_batch", fail)
    run_dir = tmp_path / "run"
    assert trainer.train_here(run_dir, trainer.spec()) == 76
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"], last_word["step"]) == (76, "cuda_oom", 0)
    assert last_word["message"].startswith("out of CUDA memory: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "OutOfMemoryError" in last_word["traceback"]
    assert events(run_dir)[-1]["reason"] == "cuda_oom"


# Reaches for its limit only when torch is there and the data is prepared, as a machine does that is too small.
LIMITED = """
import resource, sys
from trainer import session, train
from trainer.runtime import out_of_memory
import torch
loop_class, extra_bytes = session.TrainingLoop, int(sys.argv.pop(1))

def limited(**parts):
    made = loop_class(**parts)
    limit = out_of_memory._process_bytes("VmSize") + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return made

session.TrainingLoop = limited
sys.exit(train.main())
"""


def train_within(trainer: Trainer, run_dir: Path, spec: dict[str, Any], extra_bytes: int) -> int:
    """Exit code of a training process that may have so much more address space than its model and optimizer take."""
    arguments = trainer.command(run_dir, spec)[3:]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(extra_bytes), *arguments],
        cwd=ROOT,
        env=trainer.environ(MALLOC_ARENA_MAX="1"),  # each thread of its own takes 64 MiB of addresses, and no memory
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode in (0, 76), done.stderr
    return done.returncode


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS, which only Linux enforces")
def test_a_process_that_may_not_have_more_says_what_would_fit_and_that_fits(trainer: Trainer, tmp_path: Path) -> None:
    spec = trainer.spec(num_steps=2, batch_tokens=32768, device_batch_size=512, eval_every_steps=0, eval_tokens=64)
    assert trainer.train_here(tmp_path / "warm", spec | {"device_batch_size": 8}, "--burst", "1") == 0
    extra_bytes = 300 * 2**20
    assert train_within(trainer, tmp_path / "large", spec, extra_bytes) == 76
    last_word = result(tmp_path / "large")
    assert (last_word["exit_code"], last_word["reason"]) == (76, "host_oom")
    assert "can't allocate memory" in last_word["message"]
    assert "VmPeak" in last_word["memory_summary"]
    assert "RLIMIT_AS" in last_word["memory_summary"]
    memory = last_word["memory"]
    assert memory["device_batch_size"] == 512
    fitting = memory["fitting_device_batch_size"]
    assert fitting in (32, 64, 128, 256)
    assert f"device_batch_size {fitting} instead of 512" in last_word["message"]
    assert train_within(trainer, tmp_path / "smaller", spec | {"device_batch_size": fitting}, extra_bytes) == 0


def test_before_there_is_a_model_it_says_so_without_advice() -> None:
    verdict = judge(MemoryError(), "host_oom", None)
    assert verdict["exit_code"] == 76
    assert verdict["message"].startswith("out of main memory: MemoryError")
    assert verdict["memory"]["in_use_bytes"] > 10**7
    assert out_of_memory.held_bytes(False) > 10**7
