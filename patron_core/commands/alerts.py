"""Alerts, newest first: what happened to runs that people are told of. --test sends one by each channel that is set."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core import verbs
from patron_core.ui import show, tables
from patron_core.ui.script import Arguments, open_command


class AlertsArguments(Arguments):
    test: bool = Field(default=False, description="send one now, by each channel (patron settings)")
    seen: bool = Field(default=False, description="put all of them away, as seen")
    unseen: bool = Field(default=False, description="only what was not put away")
    project: str = Field(default="", description="only of this project")
    kind: str = Field(default="", description="only these: " + ", ".join(sorted(verbs.AlertKind)))
    limit: int = Field(default=20, ge=1, le=500, description="at most so many")


def main(argv: Sequence[str]) -> int:
    session = open_command(AlertsArguments, argv, prog="alerts", description=__doc__ or "")
    args, store = session.args, session.open_lab()
    assert store is not None
    if args.test:
        sent = session.call(verbs.send_test_alert, store, actor=session.actor).value
        assert sent is not None
        session.emit(sent.to_dict(), "\n".join(tables.sent(sent)))
        return 3 if any("error" in said for said in sent.deliveries.values()) else 0
    if args.seen:
        count = session.call(verbs.see_alerts, store, actor=session.actor).value
        session.emit({"seen": count}, f"{count} alerts were put away.")
        return 0
    asked = {"project": args.project or None, "kind": args.kind or None, "unseen": args.unseen, "limit": args.limit}
    found = session.call(verbs.list_alerts, store, **asked).value or []
    text = show.text_table(found, tables.alerts()) if found else "Nothing to tell."
    session.emit({"alerts": [alert.to_dict() for alert in found]}, text)
    return 0
