"""Trainer processes that cost no import: a process that has imported everything forks one whenever it is asked to.

`python forking.py` reads a JSON list of arguments a line, forks, and prints the process id, then how it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Forkery:
    """Starts one trainer after the other."""

    def __init__(self, env: Mapping[str, str], log: Path):
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=ROOT,
                env=dict(env) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._line() == "ready"

    def start(self, arguments: list[str]) -> int:
        """The process id. `wait` has to be called before the next start."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code; the negative number of the signal that ended it, if one did."""
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def serve() -> None:
    import trainer.runtime.machine
    import trainer.session
    import trainer.train

    trainer.runtime.machine.CPU_PEAK_BUDGET_S = 0.01  # of no interest here, and half of a start
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = trainer.train.main(json.loads(line), owns_process=True)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
