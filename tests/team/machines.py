"""Machines on one machine: each has its own host name, boot id, processes and home. Linux, as root.

They share network, clock and PostgreSQL. A closed lid is SIGSTOP to all processes of one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSTEAD = Path(__file__).parent / "instead"
# asked line by line; what it is asked is Python, and the answer is the value of its last line
_SHELL = """
import json, sys
from patron_core import verbs
from patron_core.errors import PatronError
for line in sys.stdin:
    *body, last = json.loads(line).splitlines()
    try:
        exec("\\n".join(body), globals())
        said = {"value": eval(last, globals())}
    except PatronError as error:
        said = error.to_dict() | {"exit_code": error.exit_code}
    print(json.dumps(said, default=str), flush=True)
"""
_INIT = """
import os, signal, subprocess, sys, time
name, home, place, boot_id = sys.argv[1:]
subprocess.run(["hostname", name], check=True)
subprocess.run(["mount", "--bind", home, place], check=True)
subprocess.run(["mount", "--bind", boot_id, "/proc/sys/kernel/random/boot_id"], check=True)
print("up", flush=True)
while True:  # as an init does, it buries the dead
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""


def why_not() -> str | None:
    """Why there can be no such machine here; None where there can."""
    if sys.platform != "linux" or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "machines on one machine need Linux and util-linux"
    command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "hostname", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces: {done.stderr.strip()}"


class Refused(Exception):
    """What a verb said no with."""

    def __init__(self, said: dict[str, Any]):
        super().__init__(said["error"]["message"])
        self.error, self.exit_code = said["error"], said["exit_code"]


class Machine:
    """`folder` is for this machine alone; its home is at `folder.parent / "home"`, as on all machines there."""

    def __init__(self, folder: Path, name: str, *, user: str, environ: dict[str, str]):
        self.name, self.home = name, folder.parent / "home"
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin",
            "HOME": str(self.home),
            "USER": user,
            "LOGNAME": user,
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(INSTEAD),
            "TEAM_WORKLOAD": str(INSTEAD / "workload.py"),
            **environ,
        }
        (folder / "home").mkdir(parents=True)
        self.home.mkdir(exist_ok=True)
        (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self.inside = folder / "home"  # its home, seen from here
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        paths = [name, str(folder / "home"), str(self.home), str(folder / "boot_id")]
        self._init = subprocess.Popen(
            [*unshare, sys.executable, "-c", _INIT, *paths], stdout=subprocess.PIPE, text=True
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == "up\n"
        (self._pid,) = map(int, Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split())
        self._space = Path(f"/proc/{self._pid}/ns/pid").readlink()
        self._shells: dict[str, subprocess.Popen[str]] = {}

    def start(self, command: list[str], *, checkout: Path = ROOT, **environ: str) -> subprocess.Popen[str]:
        enter = ["nsenter", "-t", str(self._pid), "-m", "-u", "-p", "--", "env", "-C", str(self.home), "-i"]
        wanted = self.environ | environ
        if checkout != ROOT:
            wanted["PYTHONPATH"] = f"{checkout}:{wanted['PYTHONPATH']}"
        pairs = [f"{key}={value}" for key, value in wanted.items()]
        return subprocess.Popen(
            [*enter, *pairs, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, code: str, *, checkout: Path = ROOT, home: str = "") -> Any:
        """The value of the code's last line, in a process of that machine that has `verbs` and `store`."""
        key = f"{checkout} {home}"
        if key not in self._shells:
            environ = {"PATRON_HOME": str(self.home / home)} if home else {}
            self._shells[key] = self.start([sys.executable, "-c", _SHELL], checkout=checkout, **environ)
            self.ask("store = verbs.open_lab()\nNone", checkout=checkout, home=home)
        shell = self._shells[key]
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(json.dumps(code) + "\n")
        shell.stdin.flush()
        line = shell.stdout.readline()
        if not line:
            raise AssertionError(shell.stderr.read() if shell.stderr else code)
        said = json.loads(line)
        if "error" in said:
            raise Refused(said)
        return said["value"]

    def script(self, *words: str) -> tuple[int, dict[str, Any]]:
        """`patron` with --json: its exit code and its answer."""
        process = self.start([str(Path(sys.executable).parent / "patron"), *words, "--json"])
        out, _err = process.communicate(timeout=120)
        return process.returncode, json.loads(out)

    def processes(self) -> list[int]:
        """Of this machine, by their numbers here; without its init."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                if pid != self._pid and (entry / "ns/pid").readlink() == self._space:
                    found.append(pid)
        return found

    def at_work(self, module: str) -> list[int]:
        """Those that run a module."""
        found = []
        for pid in self.processes():
            with suppress(OSError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def close_lid(self) -> None:
        self._signal(signal.SIGSTOP)

    def open_lid(self) -> None:
        self._signal(signal.SIGCONT)
        for shell in self._shells.values():  # its nsenter, which is no process of that machine, stopped with it
            shell.send_signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def lose(self) -> None:
        """All of it is gone at once, as without power."""
        for shell in self._shells.values():
            shell.kill()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._init.wait(10)
        for shell in self._shells.values():
            shell.wait(10)
            for stream in (shell.stdin, shell.stdout, shell.stderr):
                with suppress(OSError):
                    stream.close() if stream else None
        if self._init.stdout:
            self._init.stdout.close()


def until(holds: Any, what: str, limit_s: float = 120.0) -> Any:
    """The first true answer."""
    end = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found
