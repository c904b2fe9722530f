"""Managed jobs and clusters, as SkyPilot's server knows them.

Without consolidation mode SkyPilot keeps its jobs on a machine of its own, the jobs controller. It is made by the first
launch, in up to ten minutes, and stopped after ten idle ones. While there is none SkyPilot raises ClusterNotUpError:
that there are no jobs, or, where the controller has stopped, that those it had are over and their ends are on its disk.
"""

from __future__ import annotations

import io
import json
import time
from contextlib import suppress
from typing import Any

FIELDS = (
    "job_id", "job_name", "status", "schedule_state", "failure_reason", "details", "recovery_count",
    "last_recovered_at", "job_duration", "submitted_at", "start_at", "end_at", "cloud", "region", "zone",
)  # fmt: skip
POLL_S = 0.5
_launches: dict[str, str] = {}  # job name -> the request by which this process launches it
_waking: list[str] = []  # the request that starts a stopped controller


class Waking(Exception):
    pass


def jobs(*, job_ids: list[int] | None, name: str | None, live: bool, yaml: bool) -> list[dict[str, Any]]:
    """Raises Waking while a stopped controller is being started: what ended on it can only be read there."""
    import sky

    fields = [*FIELDS, "user_yaml"] if yaml else list(FIELDS)
    asked: dict[str, Any] = {"all_users": True, "job_ids": job_ids, "name_match": name, "fields": fields}
    try:
        records = sky.get(sky.jobs.queue_v2(refresh=False, skip_finished=live, **asked))[0]
        _waking.clear()
    except sky.exceptions.ClusterNotUpError as error:
        if live or plain(error.cluster_status) != "STOPPED":
            return []  # none yet, or its first machine is being made; one that stopped had nothing left to do
        _wake(asked)
    return [{field: plain(getattr(record, field, None)) for field in fields} for record in records]


def _wake(asked: dict[str, Any]) -> None:
    """Raises Waking; once at a time, since it takes minutes and nobody waits for it here."""
    import sky

    if not _waking or is_over(_waking[0]):
        _waking[:] = [sky.jobs.queue_v2(refresh=True, skip_finished=False, **asked)]
    raise Waking("its jobs controller had stopped and is being started, which takes some minutes")


def launch(*, task: dict[str, Any], name: str, wait_s: float) -> int | None:
    """The job's id; None where after `wait_s` the launch is still on its way. Again under the same name it waits on, or
    raises how that launch failed."""
    import sky

    if name not in _launches:
        _launches[name] = sky.jobs.launch(sky.Task.from_yaml_config(task), name=name)
    end = time.monotonic() + wait_s
    while not is_over(_launches[name]):
        if time.monotonic() > end:
            return None
        time.sleep(POLL_S)
    job_ids, _ = sky.get(_launches.pop(name))
    return int(job_ids[0])


def is_over(request_id: str) -> bool:
    import sky

    found = sky.api_status(request_ids=[request_id])
    return not found or found[0].status not in ("PENDING", "RUNNING", "WAITING")


def launching(*, name: str) -> str:
    """Where a launch under that name is: "" where none is under way, "controller" where that machine comes first."""
    if not _requests(name):
        return ""
    import sky

    try:
        sky.get(sky.jobs.queue_v2(refresh=False, job_ids=[0], fields=["job_id", "status"]))
    except sky.exceptions.ClusterNotUpError:
        return "controller"
    return "launch"


def abandon(*, name: str) -> bool:
    """End the launches under that name that are under way; whether there were any."""
    import sky

    found = _requests(name)
    if found:
        sky.get(sky.api_cancel([request.request_id for request in found], all_users=True, silent=True))
    _launches.pop(name, None)
    return bool(found)


def _requests(name: str) -> list[Any]:
    import sky

    return [
        request
        for request in sky.api_status(all_status=False, limit=None)
        if "jobs.launch" in request.name and name in json.dumps(vars(request), default=str)
    ]


def cancel(*, job_ids: list[int]) -> None:
    import sky

    sky.get(sky.jobs.cancel(job_ids=job_ids))


def logs(*, job_id: int, lines: int) -> str:
    import sky

    output = io.StringIO()
    sky.jobs.tail_logs(job_id=job_id, follow=False, tail=lines, output_stream=output)
    return output.getvalue()


def clusters(*, prefix: str) -> list[dict[str, Any]]:
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
                    "status": plain(cluster["status"]),
                    "launched_at": cluster["launched_at"],
                    "usd_per_hour": hourly,
                }
            )
    return found


def down(*, cluster: str) -> None:
    import sky

    sky.get(sky.down(cluster))


def plain(value: Any) -> Any:
    return getattr(value, "value", value)
