"""The training loop: steps, evaluations and checkpoints, and an exact resume from any of them.

A step is applied whole or not at all. A request to stop is looked at between micro-batches: the step under way is
dropped, the loader goes back to its beginning, a checkpoint is written. What a resume needs is `Position` plus the
tensors, so an interrupted run and an uninterrupted one are the same run, bit for bit on a CPU with the same number of
threads.

Many processes (`World`) share a step's micro-batches and agree on everything that decides what comes next. Losses are
those of one process up to rounding, and any number of processes can resume.

torch.use_deterministic_algorithms is left off: on a CPU the operations used here are deterministic without it, and on a
GPU it costs speed for a promise that spot machines of mixed kinds cannot keep.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor

from trainer import divergence
from trainer.checkpoint.checkpoint import Checkpoint, Checkpointer, NotFinite, Snapshot
from trainer.checkpoint.saves import Saves
from trainer.contract.events import EventWriter
from trainer.contract.exits import Diverged, Stopped, UserError
from trainer.contract.spec import TrainSpec
from trainer.data import PreparedData
from trainer.divergence import Culprit
from trainer.evaluate import EvalResult, evaluate
from trainer.model.gpt import build_model
from trainer.model.head import head_loss
from trainer.optim.optimizer import Optimizer
from trainer.pace import Pace, Position
from trainer.preemption.stop import StopWatch
from trainer.runtime.attention_choice import choose_attention
from trainer.runtime.console import Console
from trainer.runtime.machine import Machine
from trainer.runtime.transfer import send
from trainer.runtime.world import ALONE, World
from trainer.supply import Supply

COLLECT_GARBAGE_EVERY_STEPS = 5000


class TrainingLoop:
    def __init__(
        self,
        *,
        spec: TrainSpec,
        machine: Machine,
        data: PreparedData,
        checkpointer: Checkpointer | None,
        events: EventWriter,
        console: Console,
        stop: StopWatch,
        world: World = ALONE,
    ):
        self.spec, self.machine, self.data, self.world = spec, machine, data, world
        self.recipe = spec.recipe()
        self.position = Position()
        self.pace = Pace(
            self.recipe,
            machine,
            num_devices=world.size,
            events=events,
            console=console,
            log_every=spec.log_every_steps,
        )
        self.batch_size = spec.micro_batch_size(world.size)
        self.num_micro_batches = self.recipe.batch_tokens // (self.batch_size * spec.sequence_len)
        self._events, self._console, self._stop = events, console, stop
        self.saves = Saves(spec, checkpointer, take=self._snapshot, events=events, console=console, world=world)
        self.model = build_model(
            self.recipe,
            device=machine.device,
            compute_dtype=machine.dtype,
            seed=spec.seed,
            attention=self._choose_attention(),
            fp8=spec.fp8,
        )
        self.optimizer = Optimizer(self.model, self.recipe, compile=machine.compile, world=world)
        self._probe_params = divergence.probe_params(self.model)
        self._forward: Callable[[Tensor], Tensor] = self.model
        self._kernel = machine.head_kernel
        if machine.compile:
            self._forward = torch.compile(self.model, dynamic=False)
        self._token_bytes_V = torch.from_numpy(data.token_bytes).to(machine.device)
        self._supply = Supply(spec, data, world=world, stop=stop, events=events, console=console)
        self._loader_state = self._supply.state()

    def _choose_attention(self) -> dict[int, str | None]:
        """The kernel of each kind of layer, which rank 0 measured."""
        machine = self.machine
        if not (machine.compile and machine.is_cuda):
            return {}
        chosen: dict[int, str | None] = {}
        if self.world.is_first:
            found = choose_attention(self.recipe, machine.device, machine.dtype, self.batch_size)
            chosen = {window: choice.name for window, choice in found.items()}
            self._console.say(f"attention by window, the quickest here: {chosen}")
        return self.world.first_says(chosen)

    # Resuming

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Take over rank 0's checkpoint, or without one its first weights."""
        load = checkpoint.load if checkpoint is not None else lambda _name: {}
        state, rng = self.world.first_says((checkpoint.state if checkpoint else None, load("rng")))
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.load("model"))
        for tensor in self.model.state_dict().values():
            self.world.spread_(tensor)
        if state is None:
            return
        self.optimizer.load_state_dict(load("optimizer"))
        torch.set_rng_state(rng["cpu"])
        if self.machine.is_cuda and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"])
        self.position = Position(**state["position"])
        self._loader_state = dict(state["loader"])
        self._supply.restore(self._loader_state)
        self.saves.resumed_at(self.position.step)

    def compile(self) -> float:
        """Compile forward, head and backward on one batch of zeros; returns seconds. Changes nothing that is saved."""
        if not self.machine.compile:
            return 0.0
        self._console.say("compiling the model; the first time on a machine this can take a minute or more")
        start = time.perf_counter()
        tokens_BT = torch.zeros(self.batch_size, self.spec.sequence_len, dtype=torch.int64)
        self._micro_batch(tokens_BT, tokens_BT)
        self.optimizer.zero_grad()
        self.machine.synchronize()
        return time.perf_counter() - start

    # Training

    def run(self, end_step: int, *, only_steps: bool = False) -> None:
        """Train up to `end_step`. Raises Stopped with a checkpoint written, or Diverged.

        `only_steps` leaves out evaluations and periodic checkpoints, and logs every step: for bursts.
        """
        self.pace.log_every_steps = 1 if only_steps else self.spec.log_every_steps
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection amid a step can pause for half a second
        try:
            while True:
                if not only_steps and self._eval_due(end_step):
                    self._evaluate_and_record()
                if self.position.step >= end_step:
                    if not only_steps:
                        self._evaluate_as_nanochat()
                    return
                if not only_steps:
                    with self._ending_if_not_finite():
                        self.saves.save_when_due(self.position.step)
                self._step()
                if self.position.step % COLLECT_GARBAGE_EVERY_STEPS == 0:
                    gc.collect()
        except Exception:
            self.saves.wait()  # what is being written was good when it was copied
            raise
        finally:
            gc.enable()
            gc.unfreeze()

    def _step(self) -> None:
        self.machine.synchronize()
        start = time.perf_counter()
        loss = torch.zeros((), device=self.machine.device)
        stopping = False
        for _ in range(self.num_micro_batches // self.world.size):
            batch = self._supply.next()
            stopping = batch is None
            if batch is None:
                break
            loss += self._micro_batch(*batch)
        own = torch.stack((loss, divergence.probe(self._probe_params))).tolist()  # one wait for the device
        memory = self.world.by_rank(self.machine.peak_memory_bytes())
        total_loss, gradients, num_stopping, *memory = self.world.sums([*own, stopping, *memory])
        if num_stopping:
            self._save_and_stop()
        mean_loss = total_loss / self.num_micro_batches
        step = self.position.step
        if not math.isfinite(mean_loss + gradients):
            found = self.world.all_say(divergence.trace(self.model, mean_loss))
            culprit = next((culprit for culprit in found if culprit.name), found[0])
            raise self._diverged(culprit, step + 1, f"step {step + 1} was not applied (train/loss {mean_loss:.6g})")
        self.saves.wait_until_copied()  # a save reads what the optimizer changes
        self.optimizer.step(step)
        self.optimizer.zero_grad()
        self.machine.synchronize()
        seconds = time.perf_counter() - start
        self.position.step = step + 1
        self.position.train_s += seconds
        self._loader_state = self._supply.state()
        self.pace.report(step + 1, mean_loss, seconds, round(max(*memory, self.machine.peak_memory_bytes())))

    def _micro_batch(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Forward and backward; gradients are summed over the step's micro-batches."""
        x_BT, targets_N = send(x_BT, self.machine.device), send(y_BT, self.machine.device).flatten()
        x_ND = self._forward(x_BT).flatten(0, 1)
        loss = head_loss(x_ND, self.model.lm_head.weight, targets_N, softcap=self.model.softcap, kernel=self._kernel)
        (loss / self.num_micro_batches).backward()
        return loss.detach()

    def _save_and_stop(self) -> NoReturn:
        """Some rank was asked to stop, and all agreed to. Raises Stopped."""
        request = self._stop.requested()
        assert request is not None
        self.world.agreed_to_end()
        self.optimizer.zero_grad()  # a step under way is dropped; its loader state was never taken over
        outcome = "with a checkpoint of it"
        try:
            self.save()
        except UserError as error:
            outcome = f"but without a checkpoint of it: {error}"
        raise Stopped(
            f"stopped by {request.source} after step {self.position.step}, {outcome}; start again to resume",
            reason=request.reason,
        )

    def _diverged(self, culprit: Culprit, step: int, what_happened: str) -> Diverged:
        """The end of a run that met NaN or infinity in `step`, counted from 1."""
        self.world.agreed_to_end()
        self.saves.wait()
        good_step = self.saves.saved_step
        if good_step == self.position.step and culprit.quantity in divergence.SAVED:
            good_step = None  # restored from it just now: it was there already
        saved = (
            "There is no good checkpoint" if good_step is None else f"The last good checkpoint is of step {good_step}"
        )
        return Diverged(
            f"{what_happened}: {culprit}. {saved}. Start a new run with a lower lr_scale (now {self.spec.lr_scale:g})",
            fields={"divergence": {"step": step} | culprit.to_dict(), "last_checkpoint_step": good_step},
        )

    # Evaluation

    def _eval_due(self, end_step: int) -> bool:
        step, every = self.position.step, self.spec.eval_every_steps
        due = step >= end_step or (every > 0 and step % every == 0)
        return due and self.position.last_eval_step != step

    def evaluate(self, max_tokens: int, *, bos: bool = False) -> EvalResult:
        """Raises Stopped when asked to stop between two micro-batches."""
        batches = self._supply.val_batches(max_tokens, bos=bos) or self._save_and_stop()
        total = max_tokens if bos else min(max_tokens, self.data.num_val_tokens)
        result = evaluate(
            self._forward,
            self.model.lm_head.weight,
            batches,
            self._token_bytes_V,
            softcap=self.model.softcap,
            kernel=self._kernel,
            batch_size=self.batch_size,
            keep_graph=self.machine.compile and not self.spec.fp8,
            world=self.world,
            should_stop=lambda: self._stop.requested() is not None,
            progress=lambda tokens: self._console.progress(f"evaluating: {tokens:,} of {total:,} tokens"),
        )
        return result if result is not None else self._save_and_stop()

    def _evaluate_and_record(self) -> None:
        result, position = self.evaluate(self.spec.eval_tokens), self.position
        if not math.isfinite(result.val_loss):
            culprit = divergence.trace(self.model, result.val_loss, "val_loss")
            raise self._diverged(culprit, position.step, f"the evaluation after step {position.step} failed")
        position.last_eval_step = position.step
        position.val_bpb, position.val_loss = result.val_bpb, result.val_loss
        position.min_val_bpb = min(position.min_val_bpb or math.inf, result.val_bpb)
        self._events.emit("eval", step=position.step, **asdict(result))
        self._events.emit("phase", step=position.step, name="eval", seconds=result.seconds)
        self._console.say(
            f"step {position.step}/{self.recipe.num_steps} | val_bpb {result.val_bpb:.5f} | {result.seconds:.1f} s for "
            f"{result.tokens:,} tokens"
        )

    def _evaluate_as_nanochat(self) -> None:
        """Once, after the last step: val_bpb on the rows that nanochat's published figures are of."""
        tokens, position = self.spec.bos_eval_tokens, self.position
        if not tokens or position.step < self.recipe.num_steps or position.val_bpb_bos is not None:
            return
        result = self.evaluate(tokens, bos=True)
        position.val_bpb_bos = result.val_bpb
        self._events.emit("metrics", step=position.step, metrics={"val/bpb_bos": result.val_bpb})
        self._events.emit("phase", step=position.step, name="eval", seconds=result.seconds)
        self._console.say(f"val_bpb on nanochat's rows {result.val_bpb:.5f} | {result.tokens:,} tokens")

    # Checkpoints

    def save(self) -> None:
        """Returns when this very step is safe. Raises UserError when that fails. All ranks have to call it."""
        with self._ending_if_not_finite():
            self.saves.save(self.position.step)

    @contextmanager
    def _ending_if_not_finite(self) -> Iterator[None]:
        """A save that met NaN or infinity ends the run."""
        try:
            yield
        except NotFinite as error:
            raise self._diverged(error.culprit, error.step, str(error)) from error

    def _snapshot(self) -> Snapshot:
        """All ranks have to call it; that of rank 0 is whole."""
        position = self.position
        here = position.val_bpb if position.last_eval_step == position.step else None
        rng = {"cpu": torch.get_rng_state()}
        if self.machine.is_cuda:
            rng["cuda"] = torch.cuda.get_rng_state()
        state: dict[str, Any] = {
            "position": asdict(position),
            "loader": self._loader_state,
            "val_bpb_here": here,
            "spec_hash": self.spec.hash(),
        }
        files = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": rng}
        return Snapshot(step=position.step, files=files, state=state)
