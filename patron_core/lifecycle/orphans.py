"""Orphans: jobs and clusters at SkyPilot that are this lab's and that no live attempt owns.

A job is this lab's by the lab's random id in its name, or by the key of an attempt, which is random too. What another
lab started is not looked at. How an orphan comes to be: an attempt that was given up while its launch was on its way, a
second launch of one key after a crash, a database that was restored from yesterday.

`patron gc` lists them, and ends them with --yes. A supervisor that starts ends those that this database saw start, and
names the others: a copy of a database has its lab's id, and must end nothing that was started since it was made.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from patron_core.executors.sky_task import ALL_LABS, key_of, prefix
from patron_core.executors.sky_view import TERMINAL
from patron_core.executors.skypilot_client import Client
from patron_core.money import cost_usd_micros, format_usd, from_usd
from patron_core.store import Store, labs
from patron_core.store.schema import attempts as attempts_table


@dataclass(frozen=True, kw_only=True)
class Orphan:
    kind: str  # job, cluster
    name: str
    job_id: int | None
    why: str
    seen: bool  # this database saw it start, or its job end
    seconds: float
    usd_micros: int | None  # None: no price is known

    @property
    def sentence(self) -> str:
        cost = "at an unknown price" if self.usd_micros is None else format_usd(self.usd_micros)
        number = f" {self.job_id}" if self.job_id is not None else ""
        return f"{self.kind}{number} {self.name}: {self.why}; {self.seconds:.0f} s, {cost}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


class Cloud(Protocol):
    def jobs(self, *, name: str, live: bool) -> list[dict[str, Any]]: ...
    def clusters(self, prefix: str) -> list[dict[str, Any]]: ...
    def cancel(self, job_ids: Sequence[int]) -> None: ...
    def down(self, cluster: str) -> None: ...


def find_orphans(store: Store, cloud: Cloud, *, now: float | None = None) -> list[Orphan]:
    """Raises Unavailable where SkyPilot cannot be asked."""
    now = time.time() if now is None else now
    ours = prefix(labs.lab_id(store))
    clusters = cloud.clusters(ours)  # before the jobs: whose job began in between is not among them
    jobs = cloud.jobs(name=ALL_LABS, live=True)
    with store.read() as conn:  # after SkyPilot was asked: a run that was launched meanwhile is not an orphan
        query = sa.select(attempts_table.c.id, attempts_table.c.state, attempts_table.c.usd_micros_per_hour)
        known = {row.id: row for row in conn.execute(query.where(attempts_table.c.executor == "sky"))}
    jobs = [job for job in jobs if str(job["job_name"]).startswith(ours) or key_of(str(job["job_name"])) in known]
    owned = {key for key, row in known.items() if row.state != "ended"}
    prices = {key: int(row.usd_micros_per_hour) for key, row in known.items()}
    return [*_jobs(jobs, owned, prices), *_clusters(clusters, jobs, now=now)]


def end_orphans(cloud: Cloud, orphans: Sequence[Orphan]) -> None:
    job_ids = [orphan.job_id for orphan in orphans if orphan.job_id is not None]
    if job_ids:
        cloud.cancel(job_ids)
    for orphan in orphans:
        if orphan.kind == "cluster":
            cloud.down(orphan.name)


def collect(store: Store, *, only_seen: bool = False, listing: bool = False) -> list[Orphan]:
    """Find them and, unless they are only to be listed, end them; those that were seen, or all. Returns what it found.

    Raises Unavailable where SkyPilot cannot be asked.
    """
    if not uses_sky(store):
        return []
    cloud = Client()
    try:
        orphans = find_orphans(store, cloud)
        if not listing:
            end_orphans(cloud, [orphan for orphan in orphans if orphan.seen or not only_seen])
        return orphans
    finally:
        cloud.close()


def uses_sky(store: Store) -> bool:
    """Whether this lab ever submitted anything to SkyPilot."""
    with store.read() as conn:
        query = sa.select(attempts_table.c.id).where(attempts_table.c.executor == "sky").limit(1)
        return conn.execute(query).first() is not None


def _jobs(jobs: Sequence[Mapping[str, Any]], owned: Collection[str], prices: Mapping[str, int]) -> list[Orphan]:
    found = []
    first_of: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: int(job["job_id"])):
        key = key_of(str(job["job_name"])) or ""
        if str(job["status"]) in TERMINAL or job["status"] == "CANCELLING":
            continue
        first = first_of.setdefault(key, int(job["job_id"]))
        if key in owned and first == job["job_id"]:
            continue
        why = f"a second launch beside job {first}" if key in owned else _why(key, prices)
        seconds = float(job.get("job_duration") or 0.0)
        hourly = prices.get(key)
        found.append(
            Orphan(
                kind="job",
                name=str(job["job_name"]),
                job_id=int(job["job_id"]),
                why=why,
                seen=key in prices,
                seconds=seconds,
                usd_micros=cost_usd_micros(seconds, hourly) if hourly is not None else None,
            )
        )
    return found


def _why(key: str, prices: Mapping[str, int]) -> str:
    return "its attempt has ended" if key in prices else "no attempt of this lab has that name"


def _clusters(clusters: Sequence[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]], *, now: float) -> list[Orphan]:
    """A managed job's cluster is SkyPilot's to end while the job lives; one of our name without a job is nobody's.

    SkyPilot shortens the job's name to 25 characters in the cluster's, and ends it with the job's id.
    """
    alive = {str(job["job_id"]) for job in jobs}
    found = []
    for cluster in clusters:
        if str(cluster["name"]).rpartition("-")[2] in alive:
            continue
        seconds = max(0.0, now - float(cluster.get("launched_at") or now))
        hourly = cluster.get("usd_per_hour")
        found.append(
            Orphan(
                kind="cluster",
                name=str(cluster["name"]),
                job_id=None,
                why="no job of ours runs on it",
                seen=True,
                seconds=seconds,
                usd_micros=cost_usd_micros(seconds, from_usd(hourly)) if hourly else None,
            )
        )
    return found
