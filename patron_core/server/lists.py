"""The server's own lists: alerts, feedback, and who changed what. Forms post to the same address."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from patron_core import verbs
from patron_core.errors import PatronError
from patron_core.server.entry import Visitor
from patron_core.server.pages import form_of, page
from patron_core.store import Store
from patron_core.store.alerts import Alert
from patron_core.store.audit import AuditEntry
from patron_core.store.feedback import Feedback
from patron_core.ui import inert, show, tables

_PAGE: dict[str, Any] = {"include_in_schema": False}
_AT_ONCE = 200
_BACK = '<p><a href="/">Patron</a></p>'


def add_lists(app: FastAPI, store: Store) -> None:
    """The lists at /alerts, /feedback and /audit of whoever passed the gate."""

    @app.get("/alerts", **_PAGE)
    def alerts(request: Request) -> HTMLResponse:
        return _alerts(_caller(store, request))

    @app.post("/alerts", **_PAGE)
    async def on_alerts(request: Request) -> HTMLResponse:
        form = await form_of(request)
        return await run_in_threadpool(_act_on_alerts, _caller(store, request), form)

    @app.get("/feedback", **_PAGE)
    def feedback(request: Request) -> HTMLResponse:
        return _feedback(_caller(store, request))

    @app.post("/feedback", **_PAGE)
    async def on_feedback(request: Request) -> HTMLResponse:
        form = await form_of(request)
        return await run_in_threadpool(_act_on_feedback, _caller(store, request), form)

    @app.get("/audit", **_PAGE)
    def audit(actor: str = "", before: int = 0) -> HTMLResponse:
        found = verbs.audit_log(store, actor=actor or None, before=before or None, limit=_AT_ONCE)
        return audit_page(found, actor=actor)


class _Caller:
    def __init__(self, store: Store, visitor: Visitor, address: str):
        self.store, self.name = store.acting_as(visitor.token, origin=f"page {address}"), visitor.name
        self.is_person = visitor.may("admin")


def _caller(store: Store, request: Request) -> _Caller:
    return _Caller(store, request.state.visitor, request.client.host if request.client else "?")


def _alerts(caller: _Caller, said: str = "") -> HTMLResponse:
    return alerts_page(verbs.list_alerts(caller.store, limit=_AT_ONCE), may_act=caller.is_person, said=said)


def _act_on_alerts(caller: _Caller, form: dict[str, str]) -> HTMLResponse:
    said = ""
    try:
        if "test" in form:
            said = "; ".join(tables.sent(verbs.send_test_alert(caller.store, actor=caller.name)))
        elif form.get("seen", "").isdecimal():
            verbs.see_alerts(caller.store, up_to=int(form["seen"]), actor=caller.name)
    except PatronError as error:
        said = error.message
    return _alerts(caller, said)


def _feedback(caller: _Caller, said: str = "") -> HTMLResponse:
    return feedback_page(verbs.list_feedback(caller.store, limit=_AT_ONCE), may_act=caller.is_person, said=said)


def _act_on_feedback(caller: _Caller, form: dict[str, str]) -> HTMLResponse:
    said = ""
    try:
        if "answer" in form:
            verbs.answer_feedback(caller.store, form["answer"], form.get("word", ""), actor=caller.name)
        else:
            verbs.give_feedback(caller.store, form.get("say", ""), actor=caller.name)
    except PatronError as error:
        said = error.message
    return _feedback(caller, said)


def alerts_page(found: Sequence[Alert], *, may_act: bool, said: str = "") -> HTMLResponse:
    acts = (
        '<form method="post" action="/alerts">'
        f'<button name="seen" value="{found[0].id if found else 0}">Put all away</button>'
        '<button name="test" value="1">Send a test</button></form><br>'
    )
    return page(
        "Patron: alerts",
        f"{_BACK}<h1>Alerts</h1><p>What happened to runs that people are told of, newest first; those that nobody put "
        f"away stand out. {inert.html('{}', said)}</p>{acts if may_act else ''}"
        f"{show.html_table(found, tables.alerts(_watch), empty='Nothing to tell.')}",
    )


def _watch(run_id: str) -> str:
    return "/watch/?" + urlencode({"run": run_id})


def feedback_page(found: Iterable[Feedback], *, may_act: bool, said: str = "") -> HTMLResponse:
    given = inert.joined(_one(each, may_act=may_act) for each in found)
    return page(
        "Patron: feedback",
        f"{_BACK}<h1>Feedback</h1><p>What agents and people say of Patron, and the owner's answers. "
        f"{inert.html('{}', said)}</p>"
        '<form method="post" action="/feedback"><input name="say" size="60" maxlength="10000" required '
        'aria-label="What works, what does not, what is missing" placeholder="What works, what does not?">'
        f"<button>Say it</button></form>{given or '<p>Nobody said anything yet.</p>'}",
    )


def _one(each: Feedback, *, may_act: bool) -> inert.Html:
    about = inert.html(" about {}", each.about) if each.about else ""
    head = inert.html("<h2>{}{}, {}</h2>", each.actor, about, show.moment(each.created_at))
    body = inert.html('<p style="white-space:pre-wrap">{}</p>', each.body)
    if each.answer is not None:
        answer = inert.html("<p><b>{}</b> {}</p>", f"{each.answered_by}:", each.answer)
    elif may_act:
        answer = inert.html(
            '<form method="post" action="/feedback"><input name="word" size="60" maxlength="10000" required '
            'aria-label="Answer" placeholder="Answer"><button name="answer" value="{}">Answer</button></form>',
            each.id,
        )
    else:
        answer = inert.html("<p>Not answered yet.</p>")
    return inert.html('<div class="card" style="margin:1rem 0">{}{}{}</div>', head, body, answer)


def audit_page(entries: Sequence[AuditEntry], *, actor: str = "") -> HTMLResponse:
    cells = (inert.joined(inert.html("<td>{}</td>", cell) for cell in _cells(entry)) for entry in entries)
    rows = inert.joined(inert.html("<tr>{}</tr>", row) for row in cells)
    head = "".join(f"<th>{name}</th>" for name in ("when", "who", "from", "what", "about", "outcome", "with"))
    older = urlencode({"actor": actor, "before": entries[-1].id}) if len(entries) == _AT_ONCE else ""
    return page(
        "Patron: audit",
        f"{_BACK}<h1>Who changed what</h1><p>Every call that changed something, or was refused. Newest first.</p>"
        f'<form action="/audit"><input name="actor" value="{inert.html("{}", actor)}" aria-label="Who" '
        'placeholder="of whom; all"><button>Show</button></form><br>'
        f"<table><tr>{head}</tr>{rows or '<tr><td>Nothing yet.</td></tr>'}</table>"
        + (f'<p><a href="/audit?{inert.html("{}", older)}">Older</a></p>' if older else ""),
    )


def _cells(entry: AuditEntry) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
    about = entry.run_id or entry.project or ""
    said = ", ".join(_detail(name, value) for name, value in entry.detail.items())
    return [when, entry.actor, entry.origin, entry.verb.replace("_", " "), about, entry.outcome, said]


def _detail(name: str, value: Any) -> str:
    """Money in dollars, all else as it is."""
    if name.endswith("usd_micros") and isinstance(value, int):
        return f"{name.removesuffix('usd_micros').strip('_') or 'amount'} {show.usd(value)}"
    return f"{name} {value}"
