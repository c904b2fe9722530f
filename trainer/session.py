"""One process of a run from set-up to its end: machine, checkpoint, data, environment, model, loop, figures."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from trainer.checkpoint.checkpoint import Checkpoint, Checkpointer
from trainer.contract.exits import EXIT_DONE, BadSpec, Stopped
from trainer.contract.files import write_json
from trainer.contract.layout import RESULT, newest_checkpoint_name
from trainer.contract.spec import SpecError, TrainSpec
from trainer.data import PreparedData, StopWaiting
from trainer.data.ahead import Ahead
from trainer.environment import check_device, check_environment, check_same_everywhere, describe_environment
from trainer.loop import TrainingLoop
from trainer.runtime.machine import Machine, find_machine
from trainer.runtime.out_of_memory import Micro, held_bytes
from trainer.sampling.loading import keep_tokenizer
from trainer.sampling.showcase import closing_prompts, closing_samples
from trainer.start import Start
from trainer.supply import Reports, begin, burst_eval_tokens

KEEP_WITHIN_S = 10.0  # for the tokens of a run that is done to come up beside the runs
MEASURED_PHASES = ("data", "tokenizer", "model", "compile", "start")


class Session:
    """`run` trains; `figures` says at any time what is known for result.json."""

    def __init__(self, spec: TrainSpec, start: Start):
        self._spec, self._begun, self._asked, self._started_at = spec, start, start.asked, start.started_at
        self._run_dir, self._world, self._stop = start.run_dir, start.world, start.stop
        self._events, self._console = start.events, start.console
        self._phase_s: dict[str, float] = {}
        self._resumed_step: int | None = None
        self._machine: Machine | None = None
        self._data: PreparedData | None = None
        self._ahead: Ahead | None = None  # once there is data
        self._loop: TrainingLoop | None = None
        self._burst: dict[str, Any] | None = None
        self.micro: Micro | None = None  # once there is a model

    def run(self) -> None:
        try:
            self._run()
            if self._ahead is not None:
                self._ahead.close(KEEP_WITHIN_S)
        finally:
            if self._ahead is not None:
                self._ahead.close()

    def _run(self) -> None:
        spec, world = self._spec, self._world
        self._stop_if_asked("starting")
        self._check_ranks()
        check_device(spec, self._asked.expected_device)
        self._machine = machine = find_machine(spec, self.warn)
        checkpointer = Checkpointer(self._run_dir, keep=spec.checkpoint_keep) if world.is_first else None
        checkpoint = checkpointer.newest_valid(self.warn) if checkpointer else None
        if checkpoint is not None:
            self._check_checkpoint(checkpoint)
        self._stop_if_asked("reading its checkpoint")
        self._report_start(machine)
        self._data = data = self._prepare_data(checkpoint)
        self._check_environment(machine, data)
        with self._phase("model"):
            self._loop = loop = TrainingLoop(
                spec=spec,
                machine=machine,
                data=data,
                checkpointer=checkpointer,
                events=self._events,
                console=self._console,
                stop=self._stop,
                world=world,
            )
            loop.restore(checkpoint)
        self.micro = Micro(
            batch_size=loop.batch_size,
            num_ranks=world.size,
            rows=loop.num_micro_batches * loop.batch_size // world.size,
            recipe=loop.recipe,
            item_bytes=machine.dtype.itemsize,
            compiled=machine.compile,
            on_cuda=machine.is_cuda,
            resting_bytes=held_bytes(machine.is_cuda),
        )
        if loop.position.step < loop.recipe.num_steps:
            self._stop_if_asked("building the model")
            with self._phase("compile"):
                loop.compile()
        self._phase_s["start"] = time.time() - self._started_at
        if self._asked.burst_steps is None:
            loop.run(loop.recipe.num_steps)
            loop.save()
            world.agreed_to_end()
            if world.is_first:
                self._show_samples(loop, data)
            return
        self._run_burst(loop, data, self._asked.burst_steps)
        if self._asked.rehearse:
            if world.is_first:
                self._publish_burst()
            loop.run(loop.recipe.num_steps, only_steps=True)
        world.agreed_to_end()

    def _check_ranks(self) -> None:
        try:
            self._spec.micro_batch_size(self._world.size)
        except SpecError as error:
            raise BadSpec(str(error)) from error
        first = self._world.first_says(self._spec.hash())
        if first != self._spec.hash():
            raise BadSpec(f"the spec has hash {self._spec.hash()}, that of rank 0 has {first}: give all the same file")
        if self._spec.device != "cpu" and torch.cuda.is_available():
            num_gpus, here = torch.cuda.device_count(), self._world.local_rank + 1
            if here > num_gpus:
                raise BadSpec(
                    f"rank {self._world.rank} is process {here} of a machine with {num_gpus} GPUs; start one for each"
                )

    def _check_checkpoint(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state.get("spec_hash") != self._spec.hash():
            raise BadSpec(
                f"{checkpoint.path} was made with another spec (hash {checkpoint.state.get('spec_hash')}, this one "
                f"{self._spec.hash()}); give the run's own spec, or another run directory"
            )
        self._resumed_step = checkpoint.step

    def _report_start(self, machine: Machine) -> None:
        recipe = self._spec.recipe()
        threads = torch.get_num_threads()
        self._events.emit(
            "start",
            step=self._resumed_step,
            resumed_step=self._resumed_step,
            pid=os.getpid(),
            device=machine.device_name,
            dtype=machine.dtype_name,
            threads=threads,
            num_devices=self._world.size,
            num_params=recipe.num_params.total,
            flops_per_token=recipe.flops_per_token,
            num_steps=recipe.num_steps,
            batch_tokens=recipe.batch_tokens,
            peak_flops=machine.peak_flops,
            spec_hash=self._spec.hash(),
        )
        where = "from scratch" if self._resumed_step is None else f"from step {self._resumed_step}"
        devices = machine.device_name if self._world.size == 1 else f"{self._world.size} x {machine.device_name}"
        self._console.say(
            f"depth {recipe.depth}: {recipe.num_params.total:,} parameters, {recipe.num_steps:,} steps of "
            f"{recipe.batch_tokens:,} tokens, {where}, on {devices} in {machine.dtype_name}"
            + ("" if machine.is_cuda else f" with {threads} threads")
        )

    def _prepare_data(self, checkpoint: Checkpoint | None) -> PreparedData:
        reports = Reports(progress=self._report_progress, on_phase=self._record_phase, warn=self.warn)
        row = int(checkpoint.state["loader"]["row"]) if checkpoint else 0
        try:
            data, self._ahead = begin(self._spec, self._begun, row, reports)
        except StopWaiting:
            self._stop_if_asked("preparing data")
            raise
        return data

    def _check_environment(self, machine: Machine, data: PreparedData) -> None:
        environment = describe_environment(machine, data, self._world.size)
        if self._world.is_first:
            check_environment(self._run_dir, environment, self._asked.expected_environment)
            keep_tokenizer(self._run_dir, data.tokenizer_path)
        check_same_everywhere(self._world, environment)

    def _show_samples(self, loop: TrainingLoop, data: PreparedData) -> None:
        """A few texts to read. The run is complete and saved: whatever goes wrong here is a warning."""
        try:
            tokenizer = data.tokenizer()
            values = closing_samples(
                loop.model,
                tokenizer,
                closing_prompts(self._spec.data, data, tokenizer),
                should_stop=lambda: self._stop.requested() is not None,
            )
        except Exception as error:
            self.warn("sample_failed", f"no samples at the end of the run: {type(error).__name__}: {error}")
            return
        if values is not None:
            self._events.emit("sample", step=loop.position.step, **values)

    def _run_burst(self, loop: TrainingLoop, data: PreparedData, steps: int) -> None:
        """A few steps of the run's own schedule and a taste of everything else that takes time."""
        first = loop.position.step
        last = loop.recipe.num_steps - (1 if self._asked.rehearse else 0)  # leaves a step to be killed in
        loop.run(max(first, min(first + steps, last)), only_steps=True)
        result = loop.evaluate(burst_eval_tokens(self._spec, self._world))
        loop.save()
        eval_tokens = min(self._spec.eval_tokens, data.num_val_tokens)
        eval_s_per_token = result.seconds / result.tokens
        save = loop.saves.last
        self._burst = self._speed(loop) | {
            "first_step_s": loop.pace.first_s,
            "peak_memory_bytes": loop.machine.peak_memory_bytes(),
            "eval_s_per_token": eval_s_per_token,
            "eval_s": eval_s_per_token * eval_tokens,
            "checkpoint_s": save.seconds if save else None,
            "checkpoint_stall_s": save.stall_s if save else None,
            "checkpoint_bytes": save.num_bytes if save else None,
            "train_tokens_available": data.num_train_tokens,
            "train_tokens_needed": loop.recipe.train_tokens,
            "val_loss": result.val_loss,
            "val_bpb_burst": result.val_bpb,
            "steps": loop.position.step - first,
            "from_step": first,
            **{f"{name}_s": self._phase_s.get(name, 0.0) for name in MEASURED_PHASES},
        }

    def _publish_burst(self) -> None:
        """The burst's figures, while the process goes on for somebody to kill it."""
        done = {"exit_code": EXIT_DONE, "reason": "completed", "message": "burst done, rehearsing a kill"}
        write_json(self._run_dir / RESULT, done | self.figures() | {"attempt": self._events.attempt})

    @staticmethod
    def _speed(loop: TrainingLoop) -> dict[str, float | None]:
        """Median step of this process, and what follows from it."""
        seconds = loop.pace.settled()
        if not seconds:
            return dict.fromkeys(("step_s", "step_s_iqr", "tokens_per_s", "mfu", "core_share"))
        step_s = statistics.median(seconds)
        quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [0.0, 0.0, 0.0]
        tokens = loop.recipe.batch_tokens
        return {
            "step_s": step_s,
            "step_s_iqr": quartiles[2] - quartiles[0],
            "tokens_per_s": tokens / step_s,
            "mfu": loop.pace.mfu(step_s),
            "core_share": loop.pace.core_share(),
        }

    def _stop_if_asked(self, doing: str) -> None:
        """Before training, when there is nothing new to save."""
        request = self._stop.requested()
        if request is not None:
            last = newest_checkpoint_name(self._run_dir)
            raise Stopped(
                f"stopped by {request.source} while {doing}, with "
                + (f"the last checkpoint, {last}" if last else "no checkpoint yet")
                + "; start again to go on",
                reason=request.reason,
            )

    def wait_for_save(self, timeout_s: float) -> None:
        if self._loop is not None:
            self._loop.saves.wait(timeout_s)

    def figures(self) -> dict[str, Any]:
        loop = self._loop
        figures: dict[str, Any] = {
            "step": loop.position.step if loop else self._resumed_step,
            "val_bpb": loop.position.val_bpb if loop else None,
            "min_val_bpb": loop.position.min_val_bpb if loop else None,
            "val_bpb_bos": loop.position.val_bpb_bos if loop else None,
            "tokens": loop.position.step * loop.recipe.batch_tokens if loop else None,
            "train_s": loop.position.train_s if loop else None,
            "wall_s": time.time() - self._started_at,
            "mfu": None,
            "tokens_per_s": None,
            "core_share": None,
            "peak_memory_bytes": self._machine.peak_memory_bytes() if self._machine else None,
            "resumed_step": self._resumed_step,
        }
        if loop is not None:
            speed = self._speed(loop)
            figures |= {key: speed[key] for key in ("mfu", "tokens_per_s", "core_share")}
        if self._burst is not None:
            figures["burst"] = self._burst
        return figures

    # Reporting

    def _phase(self, name: str) -> _Phase:
        return _Phase(lambda seconds: self._record_phase(name, seconds))

    def _record_phase(self, name: str, seconds: float) -> None:
        self._phase_s[name] = self._phase_s.get(name, 0.0) + seconds
        self._events.emit("phase", name=name, seconds=seconds)

    def _report_progress(self, what: str, fraction: float | None) -> None:
        self._stop_if_asked("preparing data")
        self._console.progress(what if fraction is None else f"{what}: {fraction:.0%}")

    def warn(self, code: str, message: str) -> None:
        self._events.emit("warning", code=code, message=message)
        self._console.say(f"warning: {message}")


class _Phase:
    """Times a block and reports it when the block went well."""

    def __init__(self, report: Callable[[float], None]):
        self._report = report

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._report(time.perf_counter() - self._start)
