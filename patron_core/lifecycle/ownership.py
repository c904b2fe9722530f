"""Whose a run is. A local run belongs to the machine that it was planned on: its processes and job folder are there.

Only that machine's supervisor submits, judges or buries it. Everybody else sees where it runs and when that machine was
last heard, and may wish (pause, cancel, top-up) in the database. Rented runs belong to the lab, and have one lease.
"""

from __future__ import annotations

from pathlib import Path

from patron_core import settings
from patron_core.machines.host import this_host
from patron_core.rundir.files import read_json
from patron_core.store import Store, attempts, calibrations, hosts, runs
from patron_core.store.records import Host, Run, RunSummary

LOCAL = "local"
UNHEARD_S = 300.0  # a machine that is silent for so long may be written off; while it is awake it is heard every 10 s


def is_local(run: RunSummary) -> bool:
    return run.executor == LOCAL


def is_elsewhere(run: RunSummary) -> bool:
    """Whether another machine's supervisor alone may act on it."""
    return is_local(run) and run.host_id is not None and run.host_id != this_host().id


def is_here(store: Store, run: Run) -> bool:
    """Whether it is this machine's. One from before there were hosts is adopted where it is found."""
    if not is_local(run):
        return False
    if run.host_id is None:
        return _is_found_here(store, run) and adopt(store, run)
    return run.host_id == this_host().id


def adopt(store: Store, run: Run) -> bool:
    """Make it this machine's, with what it measured. False where another was first."""
    host = this_host()
    hosts.heard(store, host)
    with store.begin() as conn:
        if runs.adopt(conn, run.id, host_id=host.id):
            calibrations.move(conn, run.id, machine=host.id)
            return True
        return runs.get_run(conn, run.id).host_id == host.id


def _is_found_here(store: Store, run: Run) -> bool:
    """By the job folder of an attempt, or of one that has none its run directory. A database in a file is this
    machine's own, and so is all in it."""
    if store.dialect == "sqlite":
        return True
    jobs = [settings.home() / "jobs" / attempt.id for attempt in attempts.for_run(store, run.id)]
    made = [found for folder in jobs if (found := read_json(folder / "job.json")) is not None]
    if made:
        return any(job.get("host") == this_host().name for job in made)
    return "://" not in run.run_dir and Path(run.run_dir).is_dir()


def words(host: Host | None, verb: str = "runs on") -> str:
    """Of a run of another machine, which runs there or `belongs to` it: which, and when that was last heard."""
    if host is None:
        return "belongs to a machine that this lab never heard of"
    here = this_host()
    place = f"{host.name}, in {host.home}" if (host.name, host.user) == (here.name, here.user) else host.name
    return f"{verb} {place} ({host.user}), last heard {ago(host.silent_s)}"


def ago(seconds: float) -> str:
    """Rounded, for people: just now, 40 s ago, 3 min ago, 5 h ago, 4 days ago."""
    if seconds < 15:
        return "just now"
    for unit, least, name in ((86_400, 172_800, "days"), (3600, 7200, "h"), (60, 120, "min")):
        if seconds >= least:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
