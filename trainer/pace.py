"""Where training stands, how fast a process steps, and what is said of each step."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import torch

from trainer.contract.events import EventWriter
from trainer.contract.recipe import Recipe
from trainer.runtime.console import Console, short_duration
from trainer.runtime.machine import Machine
from trainer.runtime.system import SystemSampler

KEPT_STEPS = 1000  # a median of more says nothing else, and a run may have a million


@dataclass(kw_only=True)
class Position:
    """Where training stands; all of it is in a checkpoint."""

    step: int = 0  # completed
    train_s: float = 0.0  # spent stepping, over all attempts, without work that was lost
    last_eval_step: int | None = None
    val_bpb: float | None = None
    val_loss: float | None = None
    min_val_bpb: float | None = None
    val_bpb_bos: float | None = None  # on nanochat's validation stream


class Pace:
    """`seconds` of the last steps of this process, in order; `first_s` of its first."""

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        *,
        num_devices: int,
        events: EventWriter,
        console: Console,
        log_every: int,
    ):
        self._recipe, self._machine, self._num_devices = recipe, machine, num_devices
        self._events, self._console = events, console
        self.log_every_steps = log_every
        self.seconds: deque[float] = deque(maxlen=KEPT_STEPS)
        self.first_s: float | None = None
        self._num_steps = 0
        self._began_at, self._began_cpu_s = time.monotonic(), time.process_time()
        self._system: SystemSampler | None = None  # from the first step on

    def _system_seen(self) -> dict[str, float]:
        """How busy the machine is, now and then; looked at by the process that writes the record."""
        if self._system is None and self._events.attempt:
            self._system = SystemSampler(with_gpus=self._machine.is_cuda)
        return self._system.take() if self._system is not None else {}

    def settled(self) -> list[float]:
        """Without the first two, which compile and warm up, where there are more."""
        early = max(0, len(self.seconds) - self._num_steps + 2)
        return list(self.seconds)[early:] or list(self.seconds)

    def core_share(self) -> float | None:
        """Of the time of the cores that it computes on what this process had: the less, the more others were at work.
        None on a GPU, whose steps do not wait for cores."""
        wall_s = time.monotonic() - self._began_at
        if self._machine.is_cuda or wall_s <= 0:
            return None
        return min(1.0, (time.process_time() - self._began_cpu_s) / wall_s / torch.get_num_threads())

    def mfu(self, seconds: float) -> float | None:
        """Of a step that took so long, over all devices."""
        flops = self._recipe.flops_per_token * self._recipe.batch_tokens
        return self._machine.reached_flops_share(flops / self._num_devices, seconds)

    def report(self, step: int, loss: float, seconds: float, peak_memory_bytes: int) -> None:
        """A step is done: `step` counts it. Its figures go into the record, and where things stand to the console."""
        self.seconds.append(seconds)
        self._num_steps += 1
        tokens, mfu = self._recipe.batch_tokens, self.mfu(seconds)
        if self.first_s is None:
            self.first_s = seconds
            self._events.emit("phase", step=step, name="first_step", seconds=seconds)
        if step % self.log_every_steps == 0 or step == self._recipe.num_steps:
            values = {
                "train/loss": loss,
                "train/tokens_per_s": tokens / seconds,
                "train/step_s": seconds,
                "train/mfu": mfu,
                "train/lr_multiplier": self._recipe.schedule.lr_multiplier(step - 1),
                "train/peak_memory_bytes": peak_memory_bytes,  # of the process that needs most
            }
            self._events.emit("metrics", step=step, metrics=values)
            if seen := self._system_seen():
                self._events.emit("system", step=step, metrics=seen)
        recent = self.settled()[-20:]
        left_s = (self._recipe.num_steps - step) * sum(recent) / len(recent)
        share = f" | MFU {mfu:.1%}" if mfu is not None else ""
        self._console.progress(
            f"step {step}/{self._recipe.num_steps} | loss {loss:.4f} | {tokens / seconds:,.0f} tok/s{share} | "
            f"{short_duration(left_s)} left"
        )
