"""What people see: one line on stderr that is kept up to date, and the same lines in RUN_DIR/logs/<attempt>.log."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from trainer.contract.words import printable

TERMINAL_EVERY_S = 1.0
PLAIN_EVERY_S = 5.0


class Console:
    """`say` always prints; `progress` prints when the last one is old enough, over it on a terminal."""

    def __init__(self, log_path: Path | None, *, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._every_s = TERMINAL_EVERY_S if self._is_terminal else PLAIN_EVERY_S
        self._next_at = 0.0
        self._open_line = False
        self._writing = threading.Lock()
        self._log = self._open_log(log_path)

    @classmethod
    def silent(cls) -> Console:
        return cls(None, stream=Path(os.devnull).open("w"))

    def say(self, text: str) -> None:
        self._write(text, keep=True)

    def progress(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + self._every_s
            self._write(text, keep=not self._is_terminal)

    def close(self) -> None:
        if self._open_line:
            self._print("\n")
        if self._log is not None:
            self._log.close()

    def _open_log(self, path: Path | None) -> TextIO | None:
        if path is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and self._stream_is(path):
            return None  # whoever started us already sends stderr there
        return path.open("a", encoding="utf-8", buffering=1)

    def _stream_is(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._stream.fileno()), path.stat())
        except (OSError, ValueError):
            return False

    def _write(self, text: str, *, keep: bool) -> None:
        text = printable(text)  # it may quote a path, a document or another machine
        with self._writing:  # training, its saves and its watch speak from threads of their own
            if self._log is not None:
                self._write_log(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
            clear = "\r\x1b[K" if self._open_line else ""
            self._print(clear + text + ("\n" if keep else ""))
            self._open_line = not keep

    def _write_log(self, line: str) -> None:
        try:
            assert self._log is not None
            self._log.write(line)
        except (OSError, ValueError):
            self._log = None  # a full disk, or closed: neither must stop the run, and stderr still has it

    def _print(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more


def say(text: str) -> None:
    """One line for a person, where no training keeps a line up to date."""
    print(printable(text), file=sys.stderr, flush=True)


def short_duration(seconds: float) -> str:
    """12s, 3m20s, 2h05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
