"""The server's own lists, and the lab's sentence on what is late: in the words of people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from patron_core.mirror.lag import Lag
from patron_core.server import lists
from patron_core.store.alerts import Alert
from patron_core.store.audit import AuditEntry
from patron_core.ui import lab_view

HOURS_S = 3600.0


def test_the_audit_says_dollars() -> None:
    detail = {"usd_micros": 2_000_000, "max_usd_micros": 50_000, "key": "first"}
    entry: Any = SimpleNamespace(
        id=1, time=0.0, actor="ada", origin="script", verb="deposit", run_id=None, project="lab", outcome="done"
    )
    entry.detail = detail
    page = lists.audit_page([entry]).body.decode()
    assert "amount $2.00, max $0.05, key first" in page
    assert set(vars(entry)) <= {*AuditEntry.__dataclass_fields__}


def test_an_alert_leads_to_its_run() -> None:
    alert = Alert(
        id=1, time=0.0, kind="finished", project="lab", run_id="r1", name="d2 <b>", sentence="Finished its last step.",
        next="patron watch --run r1", due_at=None, deliveries={}, seen_at=None, seen_by=None,
    )  # fmt: skip
    page = lists.alerts_page([alert], may_act=False).body.decode()
    assert "<a href='/watch/?run=r1' target='_self'>d2 &lt;b&gt;</a>" in page


def test_runs_that_lag_for_one_reason_are_one_sentence() -> None:
    late = [Lag(run_id=f"r{n}", name=f"run-{n}", seconds=n * HOURS_S, why=None) for n in range(1, 7)]
    late.append(Lag(run_id="r9", name="other", seconds=9.0, why="refused"))
    found: Any = SimpleNamespace(late=late)
    first, second = lab_view.late(found)
    assert "MLflow is 6.0 h behind on run-6; the record" in first
    assert first.endswith("So it is, by less, on run-1, run-2, run-3 and 2 more.")
    assert "on other" in second
    assert "(refused)" in second
