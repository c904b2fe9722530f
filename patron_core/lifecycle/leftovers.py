"""Leftovers: what costs money or disk though no run needs it. `patron gc` lists it; nobody else looks for it.

controller   the machine on which SkyPilot keeps its jobs: ended where nobody's job lives on it; the next launch makes
             another
scratch      folders of this machine in which ended runs of a bucket were worked on: what they hold is in the bucket
bucket       what `patron doctor` left beside the runs
checkpoints  of ended runs, in the bucket: removed only where that is asked for too, since only their owner can say that
             nobody wants to look at that model any more. The last one of a run that came to its end stays, all of a
             pinned run, and the record of every run, which is a result, too
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from patron_core import settings
from patron_core.errors import Busy
from patron_core.market import transfer
from patron_core.money import format_usd, from_usd
from patron_core.rundir.rundir import RunDir
from patron_core.states import TERMINAL, RunState
from patron_core.store import Store
from patron_core.store.schema import attempts as attempts_table
from patron_core.store.schema import run_tags
from patron_core.store.schema import runs as runs_table
from patron_core.store.tags import PINNED
from trainer.contract.keys import dryrun_folder, kind_and_number
from trainer.contract.layout import CHECKPOINTS, MANIFEST, checkpoint_name, is_of_checkpoint, scratch_name
from trainer.contract.remote import Remote, RemoteError, is_url, join

DOCTOR = "doctor"  # the folder beside the runs in which `patron doctor` tries things
MOST_RUNS = 1000  # the newest that ended: listing their objects takes a request each


@dataclass(frozen=True, kw_only=True)
class Leftover:
    kind: str  # controller, scratch, bucket, checkpoints
    name: str
    why: str
    num_bytes: float | None = None
    usd_micros_per_hour: int | None = None  # of a machine while it is up
    usd_micros_per_month: int | None = None  # of what is kept
    removable: bool  # by `patron gc --yes`
    keeps_last: bool = False  # of checkpoints: all but the last whole one of the run

    @property
    def sentence(self) -> str:
        size = f"; {self.num_bytes / 1e9:.2f} GB" if self.num_bytes is not None else ""
        month = f", {format_usd(self.usd_micros_per_month)} a month" if self.usd_micros_per_month is not None else ""
        hour = f"; {format_usd(self.usd_micros_per_hour)} an hour while it is up" if self.usd_micros_per_hour else ""
        return f"{self.kind} {self.name}: {self.why}{size}{month}{hour}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


class Site(Protocol):
    def controller(self) -> dict[str, Any]: ...
    def jobs(self, *, live: bool) -> list[dict[str, Any]]: ...
    def down(self, cluster: str) -> None: ...


def find_leftovers(store: Store, site: Site | None, *, checkpoints: bool = False) -> list[Leftover]:
    """`site`: None where SkyPilot was never used. `checkpoints`: those of ended runs are to be removed, too.

    Raises Unavailable or Busy where SkyPilot or a bucket is silent.
    """
    found = [*(_controller(site) if site is not None else ()), *_scratch(store)]
    return [*found, *(_bucket(store, checkpoints=checkpoints) if is_url(settings.runs_place()) else ())]


def remove_leftovers(site: Site | None, found: Sequence[Leftover]) -> None:
    """Those that are removable. Again, it does nothing."""
    for one in found:
        if not one.removable:
            continue
        if one.kind == "controller" and site is not None:
            site.down(one.name)
        elif one.kind == "scratch":
            shutil.rmtree(one.name, ignore_errors=True)
        elif one.kind == "bucket":
            with _asking(one.name):
                remote = Remote(one.name)
                remote.delete(list(remote.sizes()))
        elif one.kind == "checkpoints":
            with _asking(one.name):
                Remote(one.name).delete(list(_unneeded(one.name, keeps_last=one.keeps_last)))


def _controller(site: Site) -> Iterator[Leftover]:
    found = site.controller()
    if found["kind"] != "machine":
        return
    num_jobs = len(site.jobs(live=True))
    why = f"SkyPilot keeps its jobs there, it is {found['status']}"
    why += f", and {num_jobs} live on it" if num_jobs else "; no job lives on it, and its disk is paid for"
    hourly = found.get("usd_per_hour")
    yield Leftover(
        kind="controller",
        name=str(found["name"]),
        why=why,
        usd_micros_per_hour=from_usd(hourly) if hourly else None,
        removable=not num_jobs,
    )


def _scratch(store: Store) -> Iterator[Leftover]:
    base = Path(os.environ.get("PATRON_SCRATCH") or settings.cache() / "runs")
    if not base.is_dir():
        return
    with store.read() as conn:
        columns = (attempts_table.c.id, runs_table.c.run_dir)
        joined = attempts_table.join(runs_table, runs_table.c.id == attempts_table.c.run_id)
        query = sa.select(*columns).select_from(joined).where(runs_table.c.state.in_([str(s) for s in TERMINAL]))
        ended = [(row.id, row.run_dir) for row in conn.execute(query) if is_url(row.run_dir)]
    for place in dict.fromkeys(_worked_on(attempt_id, run_dir) for attempt_id, run_dir in ended):
        folder = base / scratch_name(place)
        if folder.is_dir() and not folder.is_symlink():
            size = float(sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()))
            yield Leftover(kind="scratch", name=str(folder), why="its run has ended", num_bytes=size, removable=True)


def _worked_on(attempt_id: str, run_dir: str) -> str:
    """The run directory of an attempt: a dryrun has one of its own."""
    kind, number = kind_and_number(attempt_id) or ("", 0)
    return join(run_dir, dryrun_folder(number)) if kind == "dryrun" else run_dir


def _bucket(store: Store, *, checkpoints: bool) -> Iterator[Leftover]:
    place = settings.runs_place()
    where_it_is = transfer.bucket_place(place, os.environ) or transfer.Place(cloud="")
    monthly = transfer.storage_usd_micros_per_gb_month(where_it_is)

    def kept(kind: str, where: str, why: str, sizes: Mapping[str, int], **more: bool) -> Iterator[Leftover]:
        size = float(sum(sizes.values()))
        if size:
            cost = transfer.keep_usd_micros(size, transfer.MONTH_S, monthly)
            yield Leftover(kind=kind, name=where, why=why, num_bytes=size, usd_micros_per_month=cost, **more)

    tried = join(place, DOCTOR)
    with _asking(tried):
        yield from kept("bucket", tried, "what `patron doctor` tried", Remote(tried).sizes(), removable=True)
    with store.read() as conn:
        ended = runs_table.c.state.in_([str(state) for state in TERMINAL]) & runs_table.c.run_dir.contains("://")
        ended &= runs_table.c.id.not_in(sa.select(run_tags.c.run_id).where(run_tags.c.tag == PINNED))
        count = conn.scalar(sa.select(sa.func.count()).select_from(runs_table).where(ended)) or 0
        query = sa.select(runs_table.c.run_dir, runs_table.c.state).where(ended)
        rows = conn.execute(query.order_by(runs_table.c.created_at.desc()).limit(MOST_RUNS)).all()
    closed: set[str] = set()  # places of before that are no more, or not ours to ask
    for row in rows:
        finished, beside = row.state == RunState.SUCCEEDED, row.run_dir.rpartition("/")[0]
        why = f"of a run that {'succeeded, without its last' if finished else f'is {row.state}'}"
        if beside in closed:
            continue
        with _asking(row.run_dir):
            try:
                sizes = _unneeded(row.run_dir, keeps_last=finished)
            except RemoteError as error:
                if not error.wrong or beside == place.rstrip("/"):
                    raise
                closed.add(beside)
                why = f"runs lay there before; {error.message}"
                yield Leftover(kind="bucket", name=beside, why=why, removable=False)
                continue
        yield from kept("checkpoints", row.run_dir, why, sizes, removable=checkpoints, keeps_last=finished)
    if count > MOST_RUNS:
        why = f"the newest {MOST_RUNS} of its {count} ended runs were looked at"
        yield Leftover(kind="bucket", name=place, why=why, removable=False)


def _unneeded(run_dir: str, *, keeps_last: bool) -> dict[str, int]:
    """Files of an ended run's checkpoints with their sizes, the manifests first: half removed, none looks whole."""
    found = {name: size for name, size in Remote(run_dir).sizes().items() if is_of_checkpoint(name)}
    if found and keeps_last:
        last = RunDir(run_dir).newest_checkpoint()
        mine = checkpoint_name(last.step) if last is not None else CHECKPOINTS
        found = {name: size for name, size in found.items() if not name.startswith(f"{mine}/")}
    return dict(sorted(found.items(), key=lambda item: not item[0].endswith(f"/{MANIFEST}")))


@contextmanager
def _asking(place: str) -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise Busy(f"{place}: {error.message}", next=error.advice) from error
