"""A run's saves as its loop sees them: when one is due, those beside training, and the one that training waits for.

Every rank has this object and calls it in the same order; rank 0 alone has a checkpointer, and writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.checkpoint.checkpoint import Checkpointer, CheckpointError, NotFinite, SaveReport, Snapshot
from trainer.checkpoint.saving import BackgroundSaver, SaveSchedule
from trainer.contract.events import EventWriter
from trainer.contract.exits import UserError
from trainer.contract.spec import TrainSpec
from trainer.runtime.console import Console
from trainer.runtime.world import World


class Saves:
    """`take` makes the snapshot of this moment; all ranks have to call it, and that of rank 0 is whole."""

    def __init__(
        self,
        spec: TrainSpec,
        checkpointer: Checkpointer | None,
        *,
        take: Callable[[], Snapshot],
        events: EventWriter,
        console: Console,
        world: World,
    ):
        self._take, self._events, self._console, self._world = take, events, console, world
        self._saver: BackgroundSaver | None = None
        if checkpointer is not None:
            self._saver = BackgroundSaver(checkpointer, on_saved=self._report, on_failed=self._report_failure)
        self._schedule = SaveSchedule(
            every_steps=spec.checkpoint_every_steps, every_s=spec.checkpoint_every_s, now=time.monotonic()
        )
        self._not_finite: NotFinite | None = None  # found by a save in the background

    @property
    def last(self) -> SaveReport | None:
        return self._saver.last if self._saver is not None else None

    @property
    def saved_step(self) -> int | None:
        """The newest step that is safe, as far as this rank knows."""
        return self._saver.saved_step if self._saver is not None else None

    def resumed_at(self, step: int) -> None:
        if self._saver is not None:
            self._saver.saved_step = step

    def save(self, step: int) -> None:
        """Returns when `step`, where training stands, is safe. Raises UserError when that fails, or NotFinite."""
        self.wait()  # of an earlier step, or of this one
        self._raise_if_not_finite()
        if self._world.first_decides(self.saved_step == step):
            return
        snapshot = self._take()
        if self._saver is None:
            return
        try:
            self._saver.save(snapshot)
        except NotFinite:
            raise
        except CheckpointError as error:
            raise UserError(str(error)) from error

    def save_when_due(self, step: int) -> None:
        """Start a periodic save. While another one is being written, it comes later, or training waits for that one.

        Raises NotFinite when an earlier one met a NaN or an infinity.
        """
        self._raise_if_not_finite()
        is_due = self._schedule.is_due(step, self.saved_step, time.monotonic())
        is_writing = self._saver is not None and self._saver.is_writing
        if not self._world.first_decides(is_due and (self._schedule.is_exact or not is_writing)):
            return
        self._schedule.start(time.monotonic())
        began = time.perf_counter()
        snapshot = self._take()  # from many processes it takes a while
        if self._saver is not None:
            self._saver.start(snapshot, began=began)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until nothing is being written, or for so long."""
        if self._saver is not None:
            self._saver.wait(timeout_s)

    def wait_until_copied(self) -> None:
        """Until tensors may change again."""
        if self._saver is not None:
            self._saver.wait_until_copied()

    def _raise_if_not_finite(self) -> None:
        if self._not_finite is not None:
            raise self._not_finite

    def _report(self, step: int, report: SaveReport) -> None:
        self._schedule.learn(report)
        self._events.emit(
            "checkpoint",
            step=step,
            seconds=report.seconds,
            stall_s=report.stall_s,
            bytes=report.num_bytes,
            path=f"checkpoints/{report.path.name}",
        )
        seconds = report.seconds if report.waited_for else report.stall_s
        self._events.emit("phase", step=step, name="checkpoint", seconds=seconds)

    def _report_failure(self, step: int, error: CheckpointError) -> None:
        """A periodic save that fails is a warning: the run is worth more than the checkpoint."""
        if isinstance(error, NotFinite):
            self._not_finite = error
            return
        self._events.emit("warning", step=step, code="checkpoint_failed", message=str(error))
        self._console.say(f"warning: {error}")
