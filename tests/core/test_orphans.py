"""Orphans at SkyPilot: what is one, what it cost, and that a living run's job never is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from patron_core.executors.sky_task import prefix
from patron_core.lifecycle import orphans
from patron_core.states import EndReason
from patron_core.store import Run, Store, attempts

HOURLY = 3_600_000


@dataclass
class Cloud:
    """Jobs and clusters as the client gives them, and what was ended."""

    found: list[dict[str, Any]] = field(default_factory=list)
    machines: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    downed: list[str] = field(default_factory=list)

    def jobs(self, *, name: str, live: bool) -> list[dict[str, Any]]:
        return [job for job in self.found if name in job["job_name"]]

    def clusters(self, prefix: str) -> list[dict[str, Any]]:
        return [cluster for cluster in self.machines if cluster["name"].startswith(prefix)]

    def cancel(self, job_ids: Sequence[int]) -> None:
        self.cancelled += job_ids

    def down(self, cluster: str) -> None:
        self.downed.append(cluster)


def job(job_id: int, name: str, status: str = "RUNNING", duration_s: float = 100.0) -> dict[str, Any]:
    return {"job_id": job_id, "job_name": name, "status": status, "job_duration": duration_s}


def attempt_of(store: Store, run: Run, *, ended: bool) -> str:
    with store.begin() as conn:
        sky = attempts.create(conn, run, kind="train", usd_micros_per_hour=HOURLY, price={}, now=1.0)
        attempts.submitted(conn, sky.id, handle={"key": sky.id}, now=2.0)
        if ended:
            attempts.ended(conn, sky.id, reason=EndReason.CANCELLED, exit_code=None, evidence={}, now=3.0)
    return sky.id


def test_what_no_live_attempt_owns_is_ended_with_its_cost(store: Store, make_run: Callable[..., Run]) -> None:
    assert not orphans.uses_sky(store)
    living = attempt_of(store, make_run(store, executor="sky"), ended=False)
    ended = attempt_of(store, make_run(store, executor="sky"), ended=True)
    assert orphans.uses_sky(store)
    cloud = Cloud(
        found=[
            job(1, prefix() + living),
            job(2, prefix() + living),
            job(3, prefix() + ended),
            job(4, prefix() + "r9-train-1"),
            job(5, prefix() + ended, status="CANCELLING"),
            job(6, prefix() + ended, status="FAILED"),
            job(7, "patron-otherlab-" + ended),
            job(8, "somebody-elses"),
        ],
        machines=[
            {"name": f"{prefix()}{living}"[:22] + "-4k-1", "launched_at": 0.0, "usd_per_hour": 3.6},
            {"name": f"{prefix()}gone-9", "launched_at": 900.0, "usd_per_hour": 3.6},
            {"name": "patron-otherlab-x", "launched_at": 0.0, "usd_per_hour": 3.6},
        ],
    )
    found = orphans.find_orphans(store, cloud, now=1000.0)
    assert [(orphan.job_id, orphan.why, orphan.usd_micros) for orphan in found] == [
        (2, "a second launch beside job 1", 100_000),
        (3, "its attempt has ended", 100_000),
        (4, "no attempt of this lab has that name", None),
        (None, "no job of ours runs on it", 100_000),
    ]
    assert found[1].sentence == f"job 3 {prefix()}{ended}: its attempt has ended; 100 s, $0.10"
    assert cloud.cancelled == []
    orphans.end_orphans(cloud, found)
    assert (cloud.cancelled, cloud.downed) == ([2, 3, 4], [f"{prefix()}gone-9"])


def test_nothing_is_ended_where_there_are_none(store: Store) -> None:
    cloud = Cloud()
    orphans.end_orphans(cloud, orphans.find_orphans(store, cloud))
    assert (cloud.cancelled, cloud.downed) == ([], [])
