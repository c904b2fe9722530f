"""The two trainers at work on a job, each in its own process: ours through its real loop, upstream as it ships."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.jobs import Job
from tests.bench.upstream import Batch, Upstream
from trainer.checkpoint.checkpoint import Checkpointer
from trainer.contract.devices import peak_flops
from trainer.contract.events import EventWriter
from trainer.contract.spec import TrainSpec
from trainer.data import PreparedData
from trainer.data.feed import Made
from trainer.data.loader import TrainLoader
from trainer.data.prepare import loaded_tokens
from trainer.data.shards import TokenShard
from trainer.loop import TrainingLoop
from trainer.preemption.stop import StopWatch
from trainer.runtime.console import Console
from trainer.runtime.machine import find_machine
from trainer.runtime.world import ALONE

WARM_UP_STEPS = 2
SCHEDULE_STEPS = 10_000  # the steps measured lie at the beginning of a long run
DOCUMENT_TOKENS = 600
HEAD_TOKENS = {"cpu": 256, "cuda": 8192}  # in one bare product with lm_head


def work(job: Job, started: float) -> dict[str, Any]:
    """The job's result. `started` is the perf_counter at the process's beginning."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # its events may still be written
        if job.learn_steps:
            from tests.bench.learning import learn

            return learn(job, Path(folder))
        return {"ours": measure_ours, "upstream": measure_upstream}[job.side](job, Path(folder), started)


def make_spec(job: Job, **changes: Any) -> TrainSpec:
    """The job as a run of our trainer. Raises SpecError where there cannot be one."""
    values = {
        "depth": job.depth,
        "sequence_len": job.sequence_len,
        "vocab_size": job.vocab_size,
        "window_pattern": job.window_pattern,
        "batch_tokens": job.batch_tokens,
        "device_batch_size": job.device_batch_size,
        "num_steps": SCHEDULE_STEPS,
        "seed": job.seed,
        "device": job.device,
        "dtype": job.dtype,
        "compile": job.compile,
        "fp8": job.fp8,
    }
    return TrainSpec.from_dict(values | changes)


def measure_ours(job: Job, folder: Path, started: float) -> dict[str, Any]:
    loop, result = run_ours(job, folder, started)
    if job.eval_batches:
        result["eval"] = measure_evaluation(loop, job.eval_batches) | {
            "third_of_a_step_s_per_token": result["step_s"] / 3 / loop.recipe.batch_tokens
        }
    return result


def run_ours(job: Job, folder: Path, started: float, *, extra_steps: int = 0) -> tuple[TrainingLoop, dict[str, Any]]:
    """The loop after the steps that were measured, with data for `extra_steps` more, and the figures."""
    spec = make_spec(job)  # first: a job that cannot be is refused by what is wrong with it
    loop = training_loop(spec, random_data(replace(job, steps=job.steps + extra_steps), folder), folder)
    built = time.perf_counter()
    loop.compile()
    loop.run(1, only_steps=True)
    first_step_end = time.perf_counter()
    loop.run(WARM_UP_STEPS + job.steps, only_steps=True)
    machine = loop.machine
    return loop, _figures(job, list(loop.pace.seconds)[WARM_UP_STEPS:], started, built, first_step_end) | {
        "device_batch_size": loop.batch_size,
        "dtype": machine.dtype_name,
        "compiled": machine.compile,
        "device": machine.device_name,
        "flops_per_token": loop.recipe.flops_per_token,
        "peak_flops": machine.peak_flops,
        "peak_memory_bytes": machine.peak_memory_bytes(),
    }


def measure_evaluation(loop: TrainingLoop, num_batches: int) -> dict[str, Any]:
    """Seconds a token of an evaluation, and of nothing but its forward pass and matrix products; the best of three.

    The bare pass is compiled without gradients where training is compiled; the head is its products alone.
    """
    rows, sequence_len = loop.batch_size, loop.spec.sequence_len
    num_tokens = num_batches * rows * sequence_len
    weight_VD = loop.model.lm_head.weight.detach().to(loop.machine.dtype)
    size = HEAD_TOKENS[loop.machine.device.type]
    x_BT = torch.randint(0, loop.recipe.vocab_size, (rows, sequence_len), device=loop.machine.device)
    forward = torch.compile(loop.model, dynamic=False) if loop.machine.compile else loop.model

    def arithmetic() -> float:
        loop.machine.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(num_batches):
                for x_CD in forward(x_BT).flatten(0, 1).split(size):
                    x_CD @ weight_VD.T
        loop.machine.synchronize()
        return time.perf_counter() - start

    arithmetic_s = min(arithmetic() for _ in range(4))  # the first compiles
    evaluation_s = min(loop.evaluate(num_tokens).seconds for _ in range(4))
    return {
        "tokens": num_tokens,
        "s_per_token": evaluation_s / num_tokens,
        "arithmetic_s_per_token": arithmetic_s / num_tokens,
        "ratio": evaluation_s / arithmetic_s,
    }


def measure_upstream(job: Job, folder: Path, started: float) -> dict[str, Any]:
    trainer = start_upstream(job, SCHEDULE_STEPS)
    next_micro_batches = micro_batches(job, random_data(job, folder))
    built = time.perf_counter()
    synchronize = torch.cuda.synchronize if trainer.device.type == "cuda" else _nothing
    seconds = []
    first_step_end = built
    for number in range(WARM_UP_STEPS + job.steps):
        batches = next_micro_batches()
        synchronize()
        start = time.perf_counter()
        trainer.step(number, batches)
        synchronize()
        end = time.perf_counter()
        seconds.append(end - start)
        if number == 0:
            first_step_end = end
            trainer.settle()
    on_cuda = trainer.device.type == "cuda"
    return _figures(job, seconds[WARM_UP_STEPS:], started, built, first_step_end) | {
        "device_batch_size": job.device_batch_size,
        "dtype": job.dtype,
        "compiled": job.compile,
        "flops_per_token": trainer.flops_per_token,
        "peak_flops": peak_flops(torch.cuda.get_device_name(0), job.dtype) if on_cuda else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_cuda else _peak_resident_bytes(),
    }


def _nothing() -> None:
    pass


def _figures(job: Job, seconds: list[float], started: float, built: float, first_step_end: float) -> dict[str, Any]:
    step_s = statistics.median(seconds)
    return {
        "step_s": step_s,
        "step_s_all": seconds,
        "tokens_per_s": job.batch_tokens / step_s,
        "first_step_s": first_step_end - built,  # compilation, and the step
        "start_s": first_step_end - started,  # imports, model, compilation, and the step
        "threads": torch.get_num_threads(),
    }


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start_upstream(job: Job, num_steps: int) -> Upstream:
    assert job.checkout is not None
    assert job.device_batch_size is not None
    return Upstream(
        Path(job.checkout),
        depth=job.depth,
        sequence_len=job.sequence_len,
        vocab_size=job.vocab_size,
        window_pattern=job.window_pattern,
        batch_tokens=job.batch_tokens,
        num_steps=num_steps,
        device=job.device,
        dtype=job.dtype,
        seed=job.seed,
    )


def training_loop(spec: TrainSpec, data: PreparedData, folder: Path) -> TrainingLoop:
    """Our trainer's real loop; events and checkpoints go to the folder."""
    return TrainingLoop(
        spec=spec,
        machine=find_machine(spec, lambda code, message: print(f"{code}: {message}", file=sys.stderr)),
        data=data,
        checkpointer=Checkpointer(folder, keep=1),
        events=EventWriter(folder, "bench"),
        console=Console(None),
        stop=StopWatch(),
        world=ALONE,
    )


def micro_batches(job: Job, data: PreparedData) -> Callable[[], list[Batch]]:
    """The next step's micro-batches, from our loader for both sides."""
    assert job.device_batch_size is not None
    loader = TrainLoader(data, batch_size=job.device_batch_size, sequence_len=job.sequence_len, seed=job.seed)
    count = job.batch_tokens // (job.device_batch_size * job.sequence_len)
    return lambda: [loader.next() for _ in range(count)]


def random_data(job: Job, folder: Path) -> PreparedData:
    """Random tokens for the steps measured: what they are does not change how long a step takes."""
    largest = 64 if job.device_batch_size is None else job.device_batch_size
    rows = (WARM_UP_STEPS + job.steps) * job.batch_tokens // job.sequence_len + largest * (1 + job.eval_batches)
    num_tokens = rows * (job.sequence_len + 1)
    rng = np.random.default_rng(job.seed)
    shard = _write_shard(folder, rng.integers(9, job.vocab_size, num_tokens, dtype=np.uint32))
    return PreparedData(
        tokenizer_path=folder / "none.json",
        tokenizer_hash="random",
        data_hash="random",
        where={},
        train=Made([shard]),
        val=Made([shard]),
        num_train_tokens=loaded_tokens([shard], job.sequence_len),
        num_val_tokens=loaded_tokens([shard], job.sequence_len),
        token_bytes=np.ones(job.vocab_size, dtype=np.int32),
        bos_id=0,
    )


def _write_shard(folder: Path, tokens: np.ndarray) -> TokenShard:
    tokens_path, offsets_path = folder / "00000.tokens", folder / "00000.offsets"
    tokens.astype("<u4").tofile(tokens_path)
    offsets = np.append(np.arange(0, len(tokens), DOCUMENT_TOKENS), len(tokens)).astype("<i8")
    offsets.tofile(offsets_path)
    return TokenShard(
        tokens_path=tokens_path,
        offsets_path=offsets_path,
        dtype="<u4",
        num_tokens=len(tokens),
        num_documents=len(offsets) - 1,
        tokens_sha256="",
        offsets_sha256="",
    )
