"""This machine's processes and memory, as evidence. Standard library only on Linux, so that the runner starts fast.

A process is named by its pid and its mark. A pid alone is given again to somebody else; the mark is the boot and the
clock tick at which it started, which no change of the wall clock moves.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from trainer.contract.keys import JOB_VARIABLE

_IS_LINUX = sys.platform.startswith("linux")
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 1 << 60  # cgroup v1 writes its absence as a huge number
_PR_SET_PDEATHSIG = 1
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of rusage
_LIBC = ctypes.CDLL(None, use_errno=True) if _IS_LINUX else None


def _psutil() -> Any:
    """Only where there is no /proc: its import costs the runner more than everything else together."""
    return importlib.import_module("psutil")


@cache
def boot_id() -> str:
    if _IS_LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return subprocess.check_output(["sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()


def booted_at() -> float | None:
    """Unix seconds; None where it cannot be told."""
    return _counter(Path("/proc/stat"), "btime")


def mark(pid: int) -> str | None:
    """The mark of a living process; None for a pid that is nobody's, or a zombie's."""
    if _IS_LINUX:
        try:
            # the name in parentheses may hold anything, so count from its end: state, ..., start in ticks since boot
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else f"{boot_id()}:{int(fields[19])}"
    try:
        process = _psutil().Process(pid)
        return None if process.status() == _psutil().STATUS_ZOMBIE else f"{boot_id()}:{process.create_time()}"
    except _psutil().NoSuchProcess:
        return None


def is_alive(pid: int, its_mark: str) -> bool:
    return mark(pid) == its_mark


def send_signal(pid: int, its_mark: str, signum: int) -> bool:
    """False if that process is no more."""
    try:
        if not hasattr(os, "pidfd_open"):
            if not is_alive(pid, its_mark):
                return False
            os.kill(pid, signum)
            return True
        descriptor = os.pidfd_open(pid)  # holds on to the process, so that it stays the one whose mark is checked
        try:
            if not is_alive(pid, its_mark):
                return False
            signal.pidfd_send_signal(descriptor, signum)
            return True
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        return False


def processes_of(key: str) -> list[tuple[int, str]]:
    """(pid, mark) of every living process that carries the job's key, of those that we may look at."""
    wanted = f"{JOB_VARIABLE}={key}"
    found = []
    if _IS_LINUX:
        needle = wanted.encode()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    if needle in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
    else:
        for process in _psutil().process_iter():
            with suppress(_psutil().Error):
                if process.environ().get(JOB_VARIABLE) == key:
                    found.append(process.pid)
    return [(pid, its_mark) for pid in found if pid != os.getpid() and (its_mark := mark(pid)) is not None]


def kill_processes_of(key: str) -> int:
    """SIGKILL every process that carries the key; how many there were."""
    return sum(send_signal(pid, its_mark, signal.SIGKILL) for pid, its_mark in processes_of(key))


def dying_with(parent_pid: int) -> Callable[[], None]:
    """For preexec_fn: a child that is killed with its parent, and that the kernel takes first when memory is short."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent_pid:
                os._exit(1)  # it died before we asked
            with suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
                file.write("500")

    return prepare


def oom_kills() -> int | None:
    """How many processes the kernel killed for memory so far: in our cgroup, or on the machine if there is none."""
    cgroup = _memory_cgroup()
    if cgroup is not None:
        for name in ("memory.events", "memory.oom_control"):  # cgroup v2, v1
            count = _counter(cgroup / name, "oom_kill")
            if count is not None:
                return count
    return _counter(Path("/proc/vmstat"), "oom_kill")


def memory_reading(pid: int) -> dict[str, int]:
    """Bytes: the process, what the machine has left, and the cgroup's use and limit. Only what can be read."""
    reading = {}
    if _IS_LINUX:
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            reading["rss_bytes"] = pages * os.sysconf("SC_PAGE_SIZE")
        available_kib = _counter(Path("/proc/meminfo"), "MemAvailable:")
        if available_kib is not None:
            reading["available_bytes"] = available_kib * 1024
    else:
        with suppress(_psutil().Error):
            reading["rss_bytes"] = _psutil().Process(pid).memory_info().rss
        reading["available_bytes"] = _psutil().virtual_memory().available
    cgroup = _memory_cgroup() or _CGROUPS
    for name in ("memory.current", "memory.usage_in_bytes"):  # cgroup v2, v1
        with suppress(OSError, ValueError):
            reading["cgroup_bytes"] = int((cgroup / name).read_text())
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # v2 writes "max"
            if (limit_bytes := int((cgroup / name).read_text())) < _NO_LIMIT_BYTES:
                reading["cgroup_limit_bytes"] = limit_bytes
    return reading


def _memory_cgroup() -> Path | None:
    """The folder of our memory cgroup, v2 or v1; inside a container its path may be seen only from within."""
    with suppress(OSError):
        for line in reversed(Path("/proc/self/cgroup").read_text().splitlines()):
            _, controllers, path = line.split(":", 2)
            base = _CGROUPS if controllers == "" else _CGROUPS / "memory"
            if controllers == "" or "memory" in controllers.split(","):
                for folder in (base / path.lstrip("/"), base):
                    if (folder / "memory.events").exists() or (folder / "memory.oom_control").exists():
                        return folder
    return None


def _counter(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            fields = line.split()
            if fields and fields[0] == name:
                return int(fields[1])
    return None
