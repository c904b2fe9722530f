"""Telling people: an alert by webhook and by e-mail, tried again within bounds, by the supervisor beside its ticks.

One request of JSON that Slack (`text`), Discord (`content`) and ntfy (its templates, asked for by headers) understand.
A name is foreign: it goes out as inline code, in which nothing is a link or a mention. Nothing secret goes out: an
alert holds none, and an address of a webhook or a mail server, which is one, is in no error and no log.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

from patron_core import settings
from patron_core.errors import InvalidInput, PatronError
from patron_core.states import AlertKind
from patron_core.store import Store, alerts
from patron_core.store.alerts import Alert
from trainer.contract.words import printable

TIMEOUT_S = 10.0
RETRY_AFTER_S = (10.0, 60.0, 300.0, 900.0)  # then it is given up, and stands in the pages
_PASSES = (408, 425, 429)  # of HTTP's 4xx: the same request may do later
_LOOK_EVERY_S = 1.0
_NTFY = {"X-Template": "1", "X-Title": "{{.title}}", "X-Message": "{{.message}}"}

log = logging.getLogger("patron.alerts")
Send = Callable[[Alert], None]


class NotDelivered(Exception):
    """Why, without an address; `again`: whether another try may do."""

    def __init__(self, why: str, *, again: bool = True):
        super().__init__(why)
        self.again = again


def channels() -> dict[str, Send]:
    """How people are told here, by the settings. Raises InvalidInput."""
    webhook, smtp, addresses = settings.alert_webhook(), settings.alert_smtp(), settings.alert_email()
    found: dict[str, Send] = {}
    if webhook:
        if urlsplit(webhook).scheme not in ("http", "https") or not urlsplit(webhook).netloc:
            raise InvalidInput(["PATRON_ALERT_WEBHOOK: no URL of http or https"], next="patron settings")
        found["webhook"] = lambda alert: by_webhook(webhook, alert)
    if smtp or addresses:
        if not smtp or not addresses or urlsplit(smtp).scheme not in ("smtp", "smtps") or not urlsplit(smtp).hostname:
            problem = "e-mail needs both PATRON_ALERT_SMTP=smtp://USER:PASSWORD@HOST:587 and PATRON_ALERT_EMAIL"
            raise InvalidInput([problem], next="patron settings")
        found["email"] = lambda alert: by_email(smtp, addresses, alert)
    return found


def is_to_tell(store: Store, *, now: float) -> bool:
    """Whether somebody has to send something from here."""
    try:
        return bool(channels()) and alerts.is_due(store, now=now)
    except InvalidInput:
        return False


def keep_telling(store: Store) -> None:
    """For a thread of its own: send what is due, whatever fails."""
    said = ""
    while True:
        try:
            if tell_next(store):
                continue
            said = ""
        except PatronError as error:
            if error.message != said:
                said = error.message
                log.warning("alerts: %s; next: %s", error.message, error.next)
        except Exception:  # a poll boundary
            log.exception("alerts: unexpected")
        time.sleep(_LOOK_EVERY_S)


def tell_next(store: Store, *, now: float | None = None) -> bool:
    """Send the oldest alert that is due. False: there is none, or no channel. Raises InvalidInput for the settings."""
    by = channels()
    now = time.time() if now is None else now
    alert = alerts.claim(store, now=now) if by else None
    if alert is None:
        return False
    kinds = settings.alert_kinds()
    is_wanted = not kinds or alert.kind in kinds or alert.kind == AlertKind.TEST
    deliveries, due_at = deliver(alert, by, now=now) if is_wanted else ({}, None)
    alerts.delivered(store, alert.id, deliveries, due_at=due_at)
    return True


def deliver(alert: Alert, by: Mapping[str, Send], *, now: float) -> tuple[dict[str, dict[str, Any]], float | None]:
    """Once by each channel that has not had it. What came of it, and when to try again; None: it is over."""
    deliveries, waits = dict(alert.deliveries), []
    for name, send in by.items():
        before = deliveries.get(name, {})
        tries = int(before.get("tries", 0)) + 1
        if before.get("sent_at") or before.get("given_up"):
            continue
        try:
            send(alert)
            deliveries[name] = {"tries": tries, "sent_at": now}
        except NotDelivered as error:
            over = not error.again or tries > len(RETRY_AFTER_S)
            deliveries[name] = {"tries": tries, "error": str(error), "given_up": over}
            log.warning("alert %s by %s: %s%s", alert.id, name, error, "; given up" if over else "")
            if not over:
                waits.append(RETRY_AFTER_S[tries - 1])
        except Exception as fault:  # another try would end alike, and who was told must not be told again with it
            deliveries[name] = {
                "tries": tries,
                "error": f"it cannot be sent ({type(fault).__name__})",
                "given_up": True,
            }
            log.error("alert %s by %s: unexpected %s; given up", alert.id, name, type(fault).__name__)
    return deliveries, now + min(waits) if waits else None


def message(alert: Alert) -> str:
    name = "`{}`".format(_one_line(alert.name).replace("`", "'"))
    return f"{name} {_one_line(alert.sentence)}\nnext: {_one_line(alert.next)}"


def payload(alert: Alert) -> dict[str, Any]:
    title, said = f"Patron: {alert.kind.replace('_', ' ')}", message(alert)
    whole = f"{title}: {said}"
    return {
        "text": whole,
        "content": whole,
        "allowed_mentions": {"parse": []},
        "title": title,
        "message": said,
        "kind": alert.kind,
        "project": alert.project,
        "run": alert.run_id,
        "name": alert.name,
        "time": alert.time,
    }


def by_webhook(url: str, alert: Alert) -> None:
    """Raises NotDelivered."""
    import httpx

    try:
        answer = httpx.post(url, json=payload(alert), headers=_NTFY, timeout=TIMEOUT_S, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotDelivered(f"it does not answer ({type(error).__name__})") from None
    if not answer.is_success:
        again = answer.status_code >= 500 or answer.status_code in _PASSES
        raise NotDelivered(f"it answers {answer.status_code}", again=again)


def by_email(url: str, addresses: list[str], alert: Alert) -> None:
    """Raises NotDelivered."""
    server, is_tls = urlsplit(url), url.startswith("smtps:")
    mail = EmailMessage()
    mail["Subject"] = f"Patron: {alert.kind.replace('_', ' ')}: {_one_line(alert.name)[:100]}"
    mail["From"], mail["To"] = settings.alert_from() or addresses[0], ", ".join(addresses)
    mail["Date"], mail["Message-ID"] = formatdate(alert.time), make_msgid(domain="patron.invalid")
    mail.set_content(f"{message(alert)}\nproject: {alert.project or ''}\n")
    context = ssl.create_default_context()
    try:
        port = server.port or (465 if is_tls else 587)
        host = server.hostname or ""
        opened = (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
            if is_tls
            else smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        )
        with opened as smtp:
            smtp.ehlo()
            if not is_tls and smtp.has_extn("starttls"):
                smtp.starttls(context=context)
                smtp.ehlo()
                is_tls = True
            if server.username:
                if not is_tls and host not in ("localhost", "127.0.0.1", "::1"):
                    raise NotDelivered("it has no TLS, where a password would be read on its way", again=False)
                smtp.login(unquote(server.username), unquote(server.password or ""))
            smtp.send_message(mail)
    except smtplib.SMTPResponseException as error:
        raise NotDelivered(f"it answers {error.smtp_code}", again=error.smtp_code < 500) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NotDelivered(f"it does not take it ({type(error).__name__})") from None


def _one_line(text: str) -> str:
    """Without what begins a mention in Slack."""
    return printable(" ".join(text.split()), keep="").replace("<", "‹").replace(">", "›")
