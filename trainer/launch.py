"""Train with several processes on this machine, and on others when each starts its own with the same address.

    python -m trainer.launch --nproc N SPEC.json RUN_DIR [options of trainer.train]
    python -m trainer.launch --nproc 8 --nnodes 2 --node-rank 0 --master-addr HOST --master-port 29400 SPEC.json RUN_DIR

Like torchrun, but without torch, and with the exit code that says what happened: that of the process which first ended
badly, 128 + N where signal N killed it (137: SIGKILL), else 0. SIGTERM and SIGINT reach every process; when one ends
badly the others have grace.linger_s() to end by themselves. Without --nproc there are as many as GPUs, at least one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from trainer.contract import grace
from trainer.contract.code import python_module

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Launcher:
    def __init__(self, args: argparse.Namespace, trainer_args: list[str]):
        self._args, self._trainer_args = args, trainer_args
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []  # came before the processes were all there

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        port = self._args.master_port or _free_port()
        for local_rank in range(self._args.nproc):
            self._processes.append(self._start(local_rank, port))
        for early in self._signals:
            self._pass_on(early, None)
        return self._wait()

    def _start(self, local_rank: int, port: int) -> subprocess.Popen[bytes]:
        args = self._args
        threads = max(1, len(os.sched_getaffinity(0)) // args.nproc) if hasattr(os, "sched_getaffinity") else 1
        ranks = {
            "RANK": args.node_rank * args.nproc + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": args.nproc * args.nnodes,
            "MASTER_ADDR": args.master_addr,
            "MASTER_PORT": port,
        }
        environ = {"OMP_NUM_THREADS": str(threads)} | os.environ | {key: str(value) for key, value in ranks.items()}
        return subprocess.Popen(
            [*python_module("trainer.train"), *self._trainer_args],
            env=environ,
            process_group=0,  # a terminal's Ctrl-C comes once, from here
            preexec_fn=_dying_with(os.getpid()),
        )

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if len(self._processes) < self._args.nproc:
            self._signals.append(number)
            return
        self._send(number)

    def _send(self, number: int) -> list[int]:
        """To every process that has not ended. Popen's own way would also reap, which is `_wait`'s to do."""
        alive = [process.pid for process in self._processes if process.returncode is None]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return alive

    def _wait(self) -> int:
        """The exit code of all: that of the first to end badly."""
        first_bad: list[int] = []
        kill = threading.Timer(grace.linger_s(), self._kill)
        kill.daemon = True
        left = {process.pid: process for process in self._processes}
        while left:
            pid, status = os.waitpid(-1, 0)
            process = left.pop(pid, None)
            if process is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            process.returncode = code
            if code and not first_bad:
                first_bad.append(code if code > 0 else 128 - code)
                kill.start()
        kill.cancel()
        return first_bad[0] if first_bad else 0

    def _kill(self) -> None:
        killed = ", ".join(map(str, self._send(signal.SIGKILL)))
        print(f"launch: killed {killed}, which did not end within {grace.linger_s():g} s of the first", file=sys.stderr)


def _dying_with(parent: int) -> Callable[[], None] | None:
    """Run in the child: it is killed when its launcher dies, by whatever means. Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)  # it died before we asked

    return bind


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _num_gpus() -> int:
    """GPUs that this process may use, asked of the driver's files: torch takes seconds to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--nproc", default="gpus", metavar="N", help="processes on this machine, or gpus (the default)")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument("--node-rank", type=int, default=0, metavar="R", help="which of them this is, from 0")
    parser.add_argument("--master-addr", default="127.0.0.1", metavar="HOST", help="where machine 0 can be reached")
    parser.add_argument("--master-port", type=int, metavar="PORT", help="a free port of machine 0 (default: any)")
    args, trainer_args = parser.parse_known_args(argv)
    nproc = str(max(1, _num_gpus())) if args.nproc == "gpus" else args.nproc
    if not nproc.isdigit() or int(nproc) < 1:
        parser.error(f"--nproc {args.nproc} must be at least 1, or gpus")
    args.nproc = int(nproc)
    if not 0 <= args.node_rank < args.nnodes:
        parser.error(f"--node-rank {args.node_rank} must be from 0 to --nnodes - 1 = {args.nnodes - 1}")
    if args.nnodes > 1 and (args.master_port is None or args.master_addr == "127.0.0.1"):
        parser.error("--nnodes above 1 needs --master-addr and --master-port, the same on every machine")
    return args, trainer_args


def main(argv: list[str] | None = None) -> int:
    args, trainer_args = _parse(argv)
    return Launcher(args, trainer_args).run()


if __name__ == "__main__":
    sys.exit(main())
