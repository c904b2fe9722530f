"""Alerts: what people are told without having asked. Each is written in the transaction of the event that it tells of,
so that none is lost and none is told twice; sending it (lifecycle/telling.py) is another matter.

An alert says a run's name and a sentence of ours: nothing that a workload, a log or an error wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.money import format_usd
from patron_core.states import SENTENCE, AlertKind, EndReason, RunState, alert_of
from patron_core.store.engine import Store, reading
from patron_core.store.schema import runs
from patron_core.store.schema_of_words import alerts
from trainer.contract.masking import mask

MAX_AGE_S = 3600.0  # what could not be told by then is told by the pages alone
CLAIM_S = 120.0  # for one try of all channels; a process that died in it is followed by another after that


@dataclass(frozen=True, kw_only=True)
class Alert:
    id: int
    time: float
    kind: str
    project: str | None
    run_id: str | None
    name: str
    sentence: str
    next: str
    due_at: float | None
    deliveries: dict[str, dict[str, Any]]
    seen_at: float | None
    seen_by: str | None

    @property
    def title(self) -> str:
        return f"{self.kind.replace('_', ' ').capitalize()}: {self.name}"

    def to_dict(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in Alert.__dataclass_fields__ if name not in ("id", "run_id")}
        return {"alert": self.id, "run": self.run_id, "title": self.title} | shown


def tell(
    conn: Connection,
    run_id: str,
    *,
    kind: str,
    new: RunState | None,
    reason: EndReason | None,
    detail: Mapping[str, Any],
    now: float,
) -> None:
    """For each event of a run, in its transaction: write the alert that it is worth, if any."""
    found, sentence = _worth(kind, new, reason, detail)
    if found is None:
        return
    run = conn.execute(sa.select(runs.c.project, runs.c.name).where(runs.c.id == run_id)).one()
    approving = found is AlertKind.APPROVAL_WANTED
    next_ = f"patron approve --id {detail.get('approval')} --yes" if approving else f"patron watch --run {run_id}"
    add(
        conn,
        kind=found,
        project=run.project,
        run_id=run_id,
        name=run.name,
        sentence=sentence,
        next=next_,
        now=now,
    )


def _worth(
    kind: str, new: RunState | None, reason: EndReason | None, detail: Mapping[str, Any]
) -> tuple[AlertKind | None, str]:
    if kind == "approval_asked":
        return AlertKind.APPROVAL_WANTED, f"A token asks to hold {format_usd(int(detail['usd_micros']))} for it."
    if kind == AlertKind.OFF_FORECAST:
        return AlertKind.OFF_FORECAST, str(detail["sentence"])
    found = None if new is None else alert_of(reason, new)
    return found, SENTENCE[reason] if reason else ""


def add(
    conn: Connection,
    *,
    kind: AlertKind,
    sentence: str,
    name: str,
    next: str,
    now: float,
    project: str | None = None,
    run_id: str | None = None,
    due_at: float | None = -1.0,
) -> int:
    """Returns its id. `due_at`: when it is to be sent; by default at once, None: never."""
    values: dict[str, Any] = {
        "kind": kind.value,
        "project": project,
        "run_id": run_id,
        "name": mask(name),
        "sentence": mask(sentence),
    }
    values |= {"next": next, "time": now, "due_at": now if due_at == -1.0 else due_at, "deliveries": {}}
    made = conn.execute(sa.insert(alerts).values(**values).returning(alerts.c.id)).first()
    return 0 if made is None else int(made.id)


def get(store: Store | Connection, alert_id: int) -> Alert:
    with reading(store) as conn:
        return _alert(conn.execute(sa.select(alerts).where(alerts.c.id == alert_id)).one())


def listed(
    store: Store | Connection,
    *,
    project: str | None = None,
    kind: str | None = None,
    unseen: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> list[Alert]:
    """Newest first; `before` is the id of the last one of the page before."""
    query = sa.select(alerts).order_by(alerts.c.id.desc()).limit(limit)
    if project is not None:
        query = query.where(alerts.c.project == project)
    if kind is not None:
        query = query.where(alerts.c.kind == kind)
    if unseen:
        query = query.where(alerts.c.seen_at.is_(None))
    if before is not None:
        query = query.where(alerts.c.id < before)
    with reading(store) as conn:
        return [_alert(row) for row in conn.execute(query)]


def see(conn: Connection, *, up_to: int, actor: str, now: float) -> int:
    """Somebody has seen all up to that one. Returns how many that were."""
    waiting = (alerts.c.id <= up_to) & alerts.c.seen_at.is_(None)
    return conn.execute(sa.update(alerts).where(waiting).values(seen_at=now, seen_by=actor)).rowcount


def is_due(store: Store, *, now: float) -> bool:
    """Whether one is to be sent, now or in a while."""
    query = sa.select(alerts.c.id).where(alerts.c.due_at.is_not(None), alerts.c.time > now - MAX_AGE_S).limit(1)
    with store.read() as conn:
        return conn.execute(query).first() is not None


def claim(store: Store, *, now: float) -> Alert | None:
    """The oldest that is due: for CLAIM_S nobody else sends it."""
    due = (alerts.c.due_at <= now) & (alerts.c.time > now - MAX_AGE_S)
    with store.read() as conn:
        found = conn.execute(sa.select(alerts).where(due).order_by(alerts.c.id).limit(1)).first()
    if found is None:
        return None
    mine = (alerts.c.id == found.id) & (alerts.c.due_at == found.due_at)
    with store.begin() as conn:
        claimed = conn.execute(sa.update(alerts).where(mine).values(due_at=now + CLAIM_S)).rowcount == 1
    return _alert(found) if claimed else None


def delivered(store: Store, alert_id: int, deliveries: Mapping[str, Any], *, due_at: float | None) -> None:
    with store.begin() as conn:
        values = {"deliveries": dict(deliveries), "due_at": due_at}
        conn.execute(sa.update(alerts).where(alerts.c.id == alert_id).values(**values))


def _alert(row: Row[Any]) -> Alert:
    return Alert(**row._mapping)
