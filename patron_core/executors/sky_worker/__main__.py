"""The worker: one question a line on stdin, one answer a line on stdout, both JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from patron_core.executors.sky_worker import jobs, site

_CALLS: dict[str, Callable[..., Any]] = {
    "jobs": jobs.jobs,
    "launch": jobs.launch,
    "launching": jobs.launching,
    "abandon": jobs.abandon,
    "cancel": jobs.cancel,
    "logs": jobs.logs,
    "clusters": jobs.clusters,
    "down": jobs.down,
    "server": site.server,
    "clouds": site.clouds,
    "controller": site.controller,
    "check_feasible": site.check_feasible,
    "has_quota": site.has_quota,
}


def serve(requests: io.TextIOBase, answers: io.TextIOBase) -> None:
    """Answer until whoever asks is gone."""
    for line in iter(requests.readline, ""):
        asked = json.loads(line)
        call = asked.pop("call")
        try:
            answer = {"value": _CALLS[call](**asked)}
        except Exception as error:  # the process boundary: whatever it was, the other side decides
            kind = _kind(error)
            answer = {"error": kind, "message": _nobody_answers() if kind.startswith("server_") else _words(error)}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


def _kind(error: Exception) -> str:
    name, names = type(error).__name__, {each.__name__ for each in type(error).__mro__}
    # for some seconds SkyPilot believes in a server that it has seen, and what it raises is its HTTP library's
    if names & {"ApiServerConnectionError", "ConnectionError"} or "LOCAL_API_SERVER" in str(error):
        return "server_down" if site.is_local() else "server_away"
    if "ApiServerAuthenticationError" in names:
        return "server_login"
    if name == "NoCloudAccessError":
        return "no_cloud"
    if name == "Waking":
        return "waking"
    if name == "ResourcesUnavailableError":
        return "no_resources"
    return "bad_task" if name in ("InvalidSkyPilotConfigError", "ValueError", "ParserError") else "failed"


def _nobody_answers() -> str:
    return f"no API server answers at {site.server_url()}"


def _words(error: Exception) -> str:
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return " ".join(plain.split())[:500] or type(error).__name__


if __name__ == "__main__":
    answers_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # SkyPilot prints; only answers may go where they are read
    serve(sys.stdin, answers_out)  # type: ignore[arg-type]
