"""The last word of a process, said once: by the main thread, or by the watching thread when that one is late."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainer.contract import grace
from trainer.contract.exits import EXIT_RESUME
from trainer.contract.layout import newest_checkpoint_name
from trainer.preemption.stop import StopRequest

if TYPE_CHECKING:
    from trainer.session import Session
    from trainer.start import Start

_NO_FIGURES = (
    "step",
    "val_bpb",
    "min_val_bpb",
    "tokens",
    "train_s",
    "mfu",
    "tokens_per_s",
    "core_share",
    "peak_memory_bytes",
)


class Ending:
    """`session` is set once there is one: it knows the figures, and whether a checkpoint is being written."""

    def __init__(self, start: Start, write: Callable[[dict[str, Any]], None]):
        self._run_dir, self._events, self._console = start.run_dir, start.events, start.console
        self._bucket, self._started_at = start.bucket, start.started_at
        self._write = write
        self._turn = threading.Lock()  # never released: there is one last word
        self.session: Session | None = None

    def figures(self) -> dict[str, Any]:
        if self.session is not None:
            return self.session.figures()
        return dict.fromkeys(_NO_FIGURES) | {"wall_s": time.time() - self._started_at, "resumed_step": None}

    def say(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result and close the record. Does not return when the process is being ended already.

        The result, which may be another one when a bucket could not be brought up to date.
        """
        self._turn.acquire()
        return self._conclude(result)

    def end_process(self, request: StopRequest) -> None:
        """The main thread is late: end the process with the last checkpoint, unless it is saying its last word."""
        if self.session is not None:
            self.session.wait_for_save(grace.WAIT_FOR_SAVE_S)
        if not self._turn.acquire(blocking=False):
            return
        writer = threading.Thread(target=self._say_late, args=(request,), daemon=True)
        writer.start()
        # a disk that hangs keeps nobody here; a bucket has its own time, as it has after a stop that went well
        uploads_s = 0.0 if self._bucket is None else grace.UPLOAD_S + grace.LAST_UPLOAD_S
        writer.join(grace.WRITE_S + uploads_s)
        os._exit(EXIT_RESUME)

    def _say_late(self, request: StopRequest) -> None:
        last = newest_checkpoint_name(self._run_dir)
        figures = self.figures()
        message = (
            f"stopped by {request.source} in the midst of something that would have taken too long, after step "
            f"{figures['step'] or 0}, with " + (f"the last checkpoint, {last}" if last else "no checkpoint yet")
        )
        result = {"exit_code": EXIT_RESUME, "reason": request.reason, "message": f"{message}; start again to resume"}
        self._conclude(result | figures)

    def _conclude(self, result: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._bucket is not None:
                result = self._bucket.flush(result)
            self._write(result)
        finally:
            self._events.close()
            self._console.close()
            if self._bucket is not None:
                self._bucket.close()
        return result
