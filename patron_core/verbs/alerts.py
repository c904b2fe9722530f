"""Alerts: look at them, put them away, and try out how they are sent."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.lifecycle import telling
from patron_core.states import AlertKind
from patron_core.store import Store, alerts
from patron_core.store.alerts import Alert
from patron_core.verbs.access import asks


def list_alerts(
    store: Store,
    *,
    project: str | None = None,
    kind: str | None = None,
    unseen: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> list[Alert]:
    """Newest first."""
    return alerts.listed(store, project=project, kind=kind, unseen=unseen, before=before, limit=limit)


@asks("admin")
def see_alerts(store: Store, *, up_to: int | None = None, actor: str) -> int:
    """Put away what a person has seen: all up to that one, or all there are. Returns how many that were."""
    if up_to is None:
        newest = alerts.listed(store, limit=1)
        up_to = newest[0].id if newest else 0
    with store.begin() as conn:
        return alerts.see(conn, up_to=up_to, actor=actor, now=time.time())


@asks("admin")
def send_test_alert(store: Store, *, actor: str) -> Alert:
    """One try by each channel, now; `deliveries` says what came of it. Raises Refused where no channel is set."""
    by = telling.channels()
    if not by:
        raise Refused(
            "nobody is told: set PATRON_ALERT_WEBHOOK, or PATRON_ALERT_SMTP and PATRON_ALERT_EMAIL",
            next="patron settings",
        )
    now = time.time()
    with store.begin() as conn:
        sentence = f"{actor} tries out how alerts arrive."
        number = alerts.add(
            conn, kind=AlertKind.TEST, name="this lab", sentence=sentence, next="patron lab", now=now, due_at=None
        )
    made = alerts.get(store, number)
    deliveries, _ = telling.deliver(made, by, now=now)
    alerts.delivered(store, number, deliveries, due_at=None)
    return alerts.get(store, number)
