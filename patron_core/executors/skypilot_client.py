"""SkyPilot's SDK behind one door, in a process of its own: importing it takes 2 s and 160 MB, and any call may hang.

`Client` starts `python -m patron_core.executors.skypilot_client` when it is first asked, speaks JSON lines with it, and
bounds every answer in time; a worker that does not answer is killed, and the next call starts another. It ends with us.

Nothing here starts a SkyPilot API server by the way: where none runs, the error says how to start it.
"""

from __future__ import annotations

import atexit
import importlib.util
import io
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from patron_core.errors import Busy, PatronError, Refused, Unavailable

START_S = 30.0  # to import SkyPilot, on a busy machine; on top of a call's own time
QUERY_S = 60.0  # on a busy machine SkyPilot takes half of it to cancel a job
LAUNCH_S = 120.0  # uploads the code
NOT_INSTALLED = Refused(
    "SkyPilot is not installed here; its extras are gcp, aws, lambda, runpod, kubernetes and slurm",
    next="uv sync --extra gcp",
)
_JOB_FIELDS = (
    "job_id", "job_name", "status", "schedule_state", "failure_reason", "details", "recovery_count",
    "last_recovered_at", "job_duration", "submitted_at", "start_at", "end_at", "cloud", "region", "zone",
)  # fmt: skip
_NEXT = {  # what went wrong -> the command that mends it
    "server_down": "sky api start",
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

    def launch(self, task: dict[str, Any], name: str) -> int:
        """The id of the managed job. If it raises, it may have been launched all the same."""
        return int(self.ask("launch", timeout_s=LAUNCH_S, task=task, name=name))

    def is_launching(self, name: str) -> bool:
        """Whether a launch of that name is on its way through the server, and may not be a job yet."""
        return bool(self.ask("is_launching", name=name))

    def cancel(self, job_ids: Sequence[int]) -> None:
        self.ask("cancel", job_ids=list(job_ids))

    def logs(self, job_id: int, lines: int) -> str:
        return str(self.ask("logs", job_id=job_id, lines=lines))

    def clusters(self, prefix: str) -> list[dict[str, Any]]:
        """Clusters whose name begins with `prefix`: name, status, launched_at, usd_per_hour."""
        return list(self.ask("clusters", prefix=prefix))

    def down(self, cluster: str) -> None:
        self.ask("down", cluster=cluster, timeout_s=LAUNCH_S)

    def ask(self, call: str, *, timeout_s: float = QUERY_S, **arguments: Any) -> Any:
        """Raises Unavailable or Refused, saying which command mends it; within `timeout_s` and the time of a start."""
        if importlib.util.find_spec("sky") is None:
            raise NOT_INSTALLED
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
            [sys.executable, "-P", "-m", "patron_core.executors.skypilot_client"],
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
    what = {"bad_task": Refused, "no_resources": Refused, "no_cloud": Unavailable}.get(kind, Busy)
    return what(f"SkyPilot: {message}", next=_NEXT[kind])


# --- the worker


def serve(requests: io.TextIOBase, answers: io.TextIOBase) -> None:
    """Answer until whoever asks is gone."""
    for line in iter(requests.readline, ""):
        asked = json.loads(line)
        call = asked.pop("call")
        try:
            answer = {"value": _CALLS[call](**asked)}
        except Exception as error:  # the process boundary: whatever it was, the other side decides
            kind = _kind(error)
            answer = {"error": kind, "message": _nobody_answers() if kind == "server_down" else _words(error)}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


def _kind(error: Exception) -> str:
    name, names = type(error).__name__, {each.__name__ for each in type(error).__mro__}
    # for some seconds SkyPilot believes in a server that it has seen, and what it raises is its HTTP library's
    if names & {"ApiServerConnectionError", "ConnectionError"} or "LOCAL_API_SERVER" in str(error):
        return "server_down"
    if name == "NoCloudAccessError":
        return "no_cloud"
    if name == "ResourcesUnavailableError":
        return "no_resources"
    return "bad_task" if name in ("InvalidSkyPilotConfigError", "ValueError", "ParserError") else "failed"


def _nobody_answers() -> str:
    from sky.server.common import get_server_url

    return f"no API server answers at {get_server_url()}"


def _words(error: Exception) -> str:
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return " ".join(plain.split())[:500] or type(error).__name__


def _jobs(*, job_ids: list[int] | None, name: str | None, live: bool, yaml: bool) -> list[dict[str, Any]]:
    import sky

    fields = [*_JOB_FIELDS, "user_yaml"] if yaml else list(_JOB_FIELDS)
    request = sky.jobs.queue_v2(
        refresh=False, skip_finished=live, all_users=True, job_ids=job_ids, name_match=name, fields=fields
    )
    records = sky.get(request)[0]
    return [{field: _plain(getattr(record, field, None)) for field in fields} for record in records]


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _launch(*, task: dict[str, Any], name: str) -> int:
    import sky

    job_ids, _ = sky.get(sky.jobs.launch(sky.Task.from_yaml_config(task), name=name))
    return int(job_ids[0])


def _is_launching(*, name: str) -> bool:
    import sky

    requests = sky.api_status(all_status=False, limit=None)
    return any("jobs.launch" in request.name and name in json.dumps(vars(request), default=str) for request in requests)


def _cancel(*, job_ids: list[int]) -> None:
    import sky

    sky.get(sky.jobs.cancel(job_ids=job_ids))


def _logs(*, job_id: int, lines: int) -> str:
    import sky

    output = io.StringIO()
    sky.jobs.tail_logs(job_id=job_id, follow=False, tail=lines, output_stream=output)
    return output.getvalue()


def _clusters(*, prefix: str) -> list[dict[str, Any]]:
    import sky

    found = []
    for cluster in sky.get(sky.status(all_users=True)):
        if cluster["name"].startswith(prefix):
            hourly = None
            with suppress(Exception):  # a catalog without its price must not hide a cluster that burns money
                hourly = cluster["handle"].launched_resources.get_cost(3600)
            found.append(
                {
                    "name": cluster["name"],
                    "status": _plain(cluster["status"]),
                    "launched_at": cluster["launched_at"],
                    "usd_per_hour": hourly,
                }
            )
    return found


def _down(*, cluster: str) -> None:
    import sky

    sky.get(sky.down(cluster))


_CALLS: dict[str, Callable[..., Any]] = {
    "jobs": _jobs,
    "launch": _launch,
    "is_launching": _is_launching,
    "cancel": _cancel,
    "logs": _logs,
    "clusters": _clusters,
    "down": _down,
}

if __name__ == "__main__":
    answers_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # SkyPilot prints; only answers may go where they are read
    serve(sys.stdin, answers_out)  # type: ignore[arg-type]
