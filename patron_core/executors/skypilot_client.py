"""SkyPilot's SDK behind one door, in a process of its own: importing it takes 2 s and 160 MB, and any call may hang.

`Client` starts `python -m patron_core.executors.sky_worker` when it is first asked, speaks JSON lines with it, and
bounds every answer in time; a worker that does not answer is killed, and the next call starts another. It ends with us.

Nothing here starts a SkyPilot API server by the way: where none runs, the error says how to start it.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from patron_core.errors import Busy, OnItsWay, PatronError, Refused, Unavailable

START_S = 30.0  # to import SkyPilot, on a busy machine; on top of a call's own time
QUERY_S = 60.0  # on a busy machine SkyPilot takes half of it to cancel a job
LAUNCH_S = 120.0  # uploads the code
LAUNCH_SEEN_S = 10.0  # of that, for the launch itself; without a controller it goes on for minutes
_NEXT = {  # what went wrong -> the command that mends it
    "server_down": "sky api start",
    "server_away": "sky api info",
    "server_login": "sky api login",
    "waking": "sky status",
    "no_cloud": "sky check",
    "no_resources": "sky show-gpus",
    "bad_task": "correct the file in skypilot/",
    "failed": "sky api status",
}


class Client:
    """One worker for all who ask; calls come one after another."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def jobs(
        self, *, job_ids: Sequence[int] | None = None, name: str | None = None, live: bool = False, yaml: bool = False
    ) -> list[dict[str, Any]]:
        """Managed jobs, by id or by a part of their name: what SkyPilot says of each; `yaml` also as submitted."""
        ids = list(job_ids) if job_ids is not None else None
        return list(self.ask("jobs", job_ids=ids, name=name, live=live, yaml=yaml))

    def launch(self, task: dict[str, Any], name: str) -> int | None:
        """The managed job's id; None while it is on its way. If it raises, it may have been launched all the same."""
        job_id = self.ask("launch", timeout_s=LAUNCH_S, task=task, name=name, wait_s=LAUNCH_SEEN_S)
        return None if job_id is None else int(job_id)

    def launching(self, name: str) -> str:
        """Where a launch of that name is: "launch" on its way through the server, perhaps not a job yet; "controller"
        waiting for SkyPilot's own machine; "" nowhere."""
        return str(self.ask("launching", name=name))

    def abandon(self, name: str) -> bool:
        """End the launches of that name that are on their way; whether there were any."""
        return bool(self.ask("abandon", name=name))

    def cancel(self, job_ids: Sequence[int]) -> None:
        self.ask("cancel", job_ids=list(job_ids))

    def logs(self, job_id: int, lines: int) -> str:
        return str(self.ask("logs", job_id=job_id, lines=lines))

    def clusters(self, prefix: str) -> list[dict[str, Any]]:
        """Clusters whose name begins with `prefix`: name, status, launched_at, usd_per_hour."""
        return list(self.ask("clusters", prefix=prefix))

    def server(self, *, timeout_s: float = QUERY_S) -> dict[str, Any]:
        """sky_worker.site.server: what answers, and its version."""
        return dict(self.ask("server", timeout_s=timeout_s))

    def clouds(self, *, timeout_s: float = QUERY_S) -> list[str]:
        """The clouds that the last `sky check` enabled, in lower case."""
        return list(self.ask("clouds", timeout_s=timeout_s))

    def controller(self, *, timeout_s: float = QUERY_S) -> dict[str, Any]:
        """sky_worker.site.controller: where SkyPilot keeps its jobs."""
        return dict(self.ask("controller", timeout_s=timeout_s))

    def check_feasible(self, task: dict[str, Any], *, timeout_s: float = QUERY_S) -> None:
        """Raises Refused where no enabled cloud offers what the task asks for, by SkyPilot's own catalog."""
        self.ask("check_feasible", task=task, timeout_s=timeout_s)

    def has_quota(self, resources: dict[str, Any], *, timeout_s: float = QUERY_S) -> bool:
        """False where the cloud says that its quota for them is zero; True also where it says nothing."""
        return bool(self.ask("has_quota", resources=resources, timeout_s=timeout_s))

    def down(self, cluster: str) -> None:
        self.ask("down", cluster=cluster, timeout_s=LAUNCH_S)

    def ask(self, call: str, *, timeout_s: float = QUERY_S, **arguments: Any) -> Any:
        """Raises Unavailable or Refused, saying which command mends it; within `timeout_s` and the time of a start."""
        with self._lock:
            if self._worker is None or self._worker.poll() is not None:
                self._start()
                timeout_s += START_S
            answer = self._exchange(call, arguments, timeout_s)
        if "error" in answer:
            raise _error(answer["error"], answer["message"])
        return answer["value"]

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def _start(self) -> None:
        self.close()
        environ = {"SKYPILOT_DISABLE_LOCAL_API_SERVER": "1", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        self._worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "patron_core.executors.sky_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | environ,
            text=True,
            start_new_session=True,  # a Ctrl-C in the notebook is not for it
        )
        atexit.register(self.close)

    def _exchange(self, call: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._worker is not None
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        try:
            self._worker.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self._worker.stdin.flush()
            ready = select.select([self._worker.stdout], [], [], timeout_s)[0]
            line = self._worker.stdout.readline() if ready else ""
        except OSError:
            line, ready = "", [self._worker.stdout]
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        if not ready:
            raise Busy(f"SkyPilot did not answer {call!r} within {timeout_s:.0f} s", next=_NEXT["failed"])
        raise Busy(f"the process that speaks to SkyPilot ended in the middle of {call!r}", next=_NEXT["failed"])


def _error(kind: str, message: str) -> PatronError:
    what = {"bad_task": Refused, "no_resources": Refused, "no_cloud": Unavailable, "waking": OnItsWay}.get(kind, Busy)
    return what(f"SkyPilot: {message}", next=_NEXT[kind])


shared = Client()  # one worker for a process, whoever asks
