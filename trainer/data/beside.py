"""The process that makes data beside the training. Not a thread: tokenising would take the interpreter from the steps.

It lives no longer than whoever started it: its standard input ends with that process, however that ends. It says how
far it is, and why it failed, in a small file without a name that both have open.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from trainer.contract.spec import TrainSpec
from trainer.data.ahead import STATUS_BYTES, Order
from trainer.data.errors import DataError, Unreachable
from trainer.data.making import Wanted

NICENESS = 10
SAY_EVERY_S = 0.25


class _Status:
    def __init__(self, descriptor: int):
        self._descriptor, self._values, self._said_at = descriptor, dict[str, Any](), 0.0

    def progress(self, message: str, fraction: float | None = None) -> None:
        self._values |= {"message": message, "fraction": fraction}
        if time.monotonic() >= self._said_at + SAY_EVERY_S:
            self.write()

    def phase(self, name: str, seconds: float) -> None:
        self._values["phases"] = self._values.get("phases", {}) | {name: seconds}
        self.write()

    def error(self, error: DataError) -> None:
        problem = error.problem[: STATUS_BYTES // 4]
        self._values["error"] = {"problem": problem, "next": error.next, "again": isinstance(error, Unreachable)}
        self.write()

    def write(self) -> None:
        os.pwrite(self._descriptor, json.dumps(self._values).encode().ljust(STATUS_BYTES), 0)
        self._said_at = time.monotonic()


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal goes to all; the trainer says what it means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    status, order = _Status(int(argv[0])), json.loads(argv[1])
    spec = TrainSpec.from_dict(order["spec"])
    made = Order(spec=spec, cache=Path(order["cache"]), revision=order["revision"], keep=order["keep"])
    try:
        made.maker(status.progress, status.phase).make(Wanted(**order["wanted"]))
    except DataError as error:
        status.error(error)
        return 1
    except OSError as error:
        status.error(DataError(f"{error}.", next="see that the disk has room, then start again: what is made is kept"))
        return 1
    status.write()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
