"""What makes data: this process, at once, or one beside the training (`beside`), of which this is the near end."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.contract.code import python_module
from trainer.contract.shapes import object_of
from trainer.contract.spec import TrainSpec
from trainer.data.errors import DataError, Unreachable
from trainer.data.files import Progress
from trainer.data.keep import Keep
from trainer.data.making import Maker, OnPhase, Wanted
from trainer.data.sources import open_source

POLL_S = 0.02
STATUS_BYTES = 16_384
MAX_TRIES = 3  # to have made what is missing


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a maker needs to know. `keep` is the place beside the runs, if there is one."""

    spec: TrainSpec
    cache: Path
    revision: str | None = None
    keep: str | None = None

    def maker(self, progress: Progress, on_phase: OnPhase) -> Maker:
        source = open_source(self.spec.data, self.cache, self.revision)
        keep = Keep(self.keep, progress)
        return Maker(self.spec, source, self.cache, keep=keep, progress=progress, on_phase=on_phase)


class Here:
    """Makes what is wanted in this process, all of it at once."""

    def __init__(self, order: Order, wanted: Wanted, *, progress: Progress):
        self.wanted, self.tokenizer_s = wanted, 0.0
        self._maker = order.maker(progress, self._phase)
        self._tries = 0

    def begin(self, row: int) -> None:
        self._maker.make(self.wanted)

    def more(self, row: int) -> None:
        self._tries = _another_try(self._tries)
        self._maker.make(self.wanted)

    def arrived(self) -> None:
        self._tries = 0

    def _phase(self, _name: str, seconds: float) -> None:
        self.tokenizer_s += seconds


class Ahead:
    """Has it made by a process of its own. `look` is called while waiting, and may raise to end the wait.

    Where this process does not `make`, another one of the machine does.
    """

    def __init__(self, order: Order, wanted: Wanted, *, makes: bool, look: Callable[[], None], progress: Progress):
        self.wanted, self.tokenizer_s = wanted, 0.0
        self._order, self._makes, self._look, self._progress = order, makes, look, progress
        self._child: subprocess.Popen[bytes] | None = None
        self._status: Any = None
        self._tries = 0

    def begin(self, row: int) -> None:
        """Have it made from this row on, unless that goes on already."""
        if self._child is None and self._makes:
            self._start(row)

    def more(self, row: int) -> None:
        """One look at what is being made. Raises DataError where it cannot be."""
        self._look()
        if self._child is not None and self._child.poll() is not None:
            error = self._end().get("error")
            if error and (self._tries or not error.get("again")):  # else nobody waited for it: another try may do
                raise _error_of(error)
        if self._child is None and self._makes:
            self._start(row)
        elif self._child is not None and (message := self._said().get("message")):
            self._progress(str(message), self._said().get("fraction"))
        time.sleep(POLL_S)

    def arrived(self) -> None:
        self._tries = 0

    def close(self, wait_s: float = 0.0) -> None:
        """End it; first let it bring up for so long what it has made."""
        if self._child is not None:
            try:
                self._child.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
            self._end()

    def _start(self, row: int) -> None:
        self._tries = _another_try(self._tries)
        wanted = asdict(self.wanted) | {"first_row": max(row, self.wanted.first_row)}
        order: dict[str, Any] = {"spec": self._order.spec.to_dict(), "cache": str(self._order.cache), "wanted": wanted}
        order |= {"revision": self._order.revision, "keep": self._order.keep}
        self._status = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        number = self._status.fileno()
        self._child = subprocess.Popen(
            [*python_module("trainer.data.beside"), str(number), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(number,),
        )

    def _end(self) -> dict[str, Any]:
        """Its last word."""
        assert self._child is not None
        code, said = self._child.wait(), self._said()
        if code and not said.get("error"):
            problem = f"The process that prepares data ended with {code}."
            said["error"] = {"problem": problem, "next": "start again: what it made is kept", "again": True}
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._status.close()
        self._child = None
        return said

    def _said(self) -> dict[str, Any]:
        said = object_of(os.pread(self._status.fileno(), STATUS_BYTES, 0)) or {}
        self.tokenizer_s = float((said.get("phases") or {}).get("tokenizer", self.tokenizer_s))
        return said


def _another_try(tries: int) -> int:
    if tries >= MAX_TRIES:
        raise OSError("token shards changed while they were written, again and again; check the disk")
    return tries + 1


def _error_of(said: dict[str, Any]) -> DataError:
    kind = Unreachable if said.get("again") else DataError
    return kind(str(said.get("problem")), next=str(said.get("next")))
