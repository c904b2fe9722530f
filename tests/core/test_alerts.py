"""Alerts: what is worth one, written once; told by webhook and e-mail over real servers, tried again within bounds."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from scripted import ENDED, World

from patron_core import settings, verbs
from patron_core.commands import main
from patron_core.executors.fake import Script
from patron_core.lifecycle import telling
from patron_core.lifecycle.off_forecast import _missed
from patron_core.states import ALERT, AlertKind, EndReason, RunState, alert_of
from patron_core.store import Store, alerts, approvals, runs

PLANTED = "planted-secret-4711"


class Hook(BaseHTTPRequestHandler):
    """Answers what it is told to, and keeps what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), json.loads(body)))  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        self.send_response(answers.pop(0) if answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as a mail needs, without TLS."""

    def handle(self) -> None:
        self.say("220 here")
        for raw in self.rfile:
            word = raw.decode().strip()
            verb = word[:4].upper()
            if verb == "EHLO":
                self.wfile.write(b"250-here\r\n250 AUTH PLAIN\r\n")
            elif verb == "AUTH":
                self.server.logins.append(word)  # type: ignore[attr-defined]
                self.say("235 welcome")
            elif verb == "RCPT" and self.server.full:  # type: ignore[attr-defined]
                self.say("452 the disk is full")
            elif verb == "DATA":
                self.say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.got.append(b"".join(lines).decode())  # type: ignore[attr-defined]
                self.say("250 kept")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 fine")

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    yield from _served(server)


@pytest.fixture
def mailbox() -> Iterator[Any]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)
    yield from _served(server)


def _served(server: Any) -> Iterator[Any]:
    server.got, server.answers, server.logins, server.full = [], [], [], False
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def kinds(store: Store) -> list[tuple[str, str | None]]:
    return [(alert.kind, alert.run_id) for alert in reversed(alerts.listed(store))]


# --- what is worth one ------------------------------------------------------------------------------------------------


def test_each_reason_and_end_has_its_kind_or_none() -> None:
    assert set(ALERT) == set(EndReason)
    told = {alert_of(reason, RunState.FAILED) for reason in EndReason if ALERT[reason]}
    assert told == {AlertKind.FAILED, AlertKind.DIVERGED, None}  # completed and failed: no such end
    assert alert_of(EndReason.COMPLETED, RunState.AWAITING_FUNDING) is None  # a dryrun
    assert alert_of(EndReason.PAUSED, RunState.PAUSED) is None
    assert alert_of(EndReason.LOST, RunState.PAUSED) is AlertKind.PAUSED


def test_a_run_that_is_reclaimed_slow_and_finishes_is_told_of_once_each(world: World) -> None:
    world.machine.script(Script(run_s=30, exit_code=75), ENDED)
    run = world.launched()
    with world.store.begin() as conn:
        runs.set_fields(conn, run.id, now=world.now, estimate={"wall_s": {"low": 10, "mid": 20, "high": 50}})
    world.run_for(300)
    assert world.state(run) is RunState.SUCCEEDED
    assert [kind for kind, _ in kinds(world.store)] == ["reclaimed", "off_forecast", "finished"]
    slow = alerts.listed(world.store, kind="off_forecast")[0]
    assert "at most 50 s were expected" in slow.sentence
    assert slow.next == f"patron watch --run {run.id}"


def test_a_run_whose_money_is_out_is_told_of_and_a_pause_that_was_asked_for_is_not(world: World) -> None:
    poor, asked = world.launched(held_s=60.0), world.launched()
    world.run_for(20)
    verbs.pause(world.store, asked.id, actor="ada", now=world.now)
    world.run_for(120)
    assert (world.state(poor), world.state(asked)) == (RunState.PAUSED, RunState.PAUSED)
    assert kinds(world.store) == [("paused", poor.id)]


def test_what_waits_for_a_person_is_told_of(world: World) -> None:
    run = world.funded()
    approvals.ask(world.store, run_id=run.id, token="agent", usd_micros=9_000_000, now=world.now)
    (alert,) = alerts.listed(world.store)
    assert (alert.kind, alert.run_id, alert.sentence) == (
        "approval_wanted", run.id, "A token asks to hold $9.00 for it.",
    )  # fmt: skip
    assert alert.next.startswith("patron approve --id a")


def test_a_loss_outside_its_interval_is_off_its_forecast() -> None:
    said = {"val_bpb": {"low": 1.0, "mid": 1.1, "high": 1.2}, "wall_s": {"high": 100}}
    assert dict(_missed(said, machine_s=99, val_bpb=1.15)) == {}
    assert set(dict(_missed(said, machine_s=101, val_bpb=1.3))) == {"wall_s", "val_bpb"}
    assert set(dict(_missed(said, machine_s=1, val_bpb=0.9))) == {"val_bpb"}
    assert dict(_missed({}, machine_s=1, val_bpb=None)) == {}


# --- telling ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(sqlite_store: Store, hook: Any, mailbox: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Any, Any]:
    monkeypatch.setenv("PATRON_ALERT_WEBHOOK", f"http://127.0.0.1:{hook.server_address[1]}/{PLANTED}")
    monkeypatch.setenv("PATRON_ALERT_SMTP", f"smtp://ada:{PLANTED}@127.0.0.1:{mailbox.server_address[1]}")
    monkeypatch.setenv("PATRON_ALERT_EMAIL", "ada@example.org, bob@example.org")
    return sqlite_store, hook, mailbox


def one(store: Store, name: str = "a run", now: float = 100.0) -> int:
    with store.begin() as conn:
        return alerts.add(
            conn, kind=AlertKind.DIVERGED, sentence="It is no number.", name=name, next="patron lab", now=now
        )


def test_webhook_and_mail_get_it_once_and_a_name_obeys_nothing(told: tuple[Store, Any, Any]) -> None:
    store, hook, mailbox = told
    number = one(store, name="x`\r\nBcc: eve@example.org <!channel> @everyone [click](http://evil.example)")
    assert telling.tell_next(store, now=100.0)
    assert not telling.tell_next(store, now=1000.0)
    ((headers, body),) = hook.got
    assert body["text"] == body["content"] == f"Patron: diverged: {body['message']}"
    assert body["allowed_mentions"] == {"parse": []}
    assert (headers["X-Template"], headers["X-Message"]) == ("1", "{{.message}}")
    code = body["message"].split("`")
    assert len(code) == 3, "the name is all inside its marks"
    assert "<!channel>" not in body["message"]
    (mail,) = mailbox.got
    assert "To: ada@example.org, bob@example.org" in mail
    assert "\nBcc:" not in mail
    assert mailbox.logins
    assert {name: said["tries"] for name, said in alerts.get(store, number).deliveries.items()} == {
        "webhook": 1,
        "email": 1,
    }


def test_what_fails_is_tried_again_alone_and_not_for_ever(
    told: tuple[Store, Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store, hook, mailbox = told
    number = one(store)
    hook.answers, mailbox.full = [503, 200], True
    now, looks = 100.0, 0
    while (found := alerts.get(store, number)).due_at is not None:
        now, looks = found.due_at, looks + 1
        assert telling.tell_next(store, now=now)
        assert not telling.tell_next(store, now=now)  # not before its time
    assert found.deliveries["webhook"] == {"tries": 2, "sent_at": 110.0}
    assert found.deliveries["email"]["given_up"]
    assert (len(hook.got), looks) == (2, 1 + len(telling.RETRY_AFTER_S))
    refused = one(store, now=now)
    hook.answers, mailbox.full = [404], False
    telling.tell_next(store, now=now)
    assert alerts.get(store, refused).deliveries["webhook"] == {
        "tries": 1, "error": "it answers 404", "given_up": True,
    }  # fmt: skip
    said = caplog.text + json.dumps([alert.to_dict() for alert in alerts.listed(store)])
    assert PLANTED not in said


def test_a_channel_that_breaks_does_not_have_the_other_told_again(
    told: tuple[Store, Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, hook, mailbox = told
    monkeypatch.setenv("PATRON_ALERT_FROM", f"Ada\nBcc: {PLANTED}@example.org")
    number = one(store)
    assert telling.tell_next(store, now=100.0)
    assert not telling.tell_next(store, now=101.0 + alerts.CLAIM_S)
    assert (len(hook.got), len(mailbox.got)) == (1, 0)
    assert alerts.get(store, number).deliveries["email"]["error"] == "it cannot be sent (ValueError)"
    assert PLANTED not in caplog.text


def test_a_sender_that_died_is_followed_by_another_and_two_never_send_one(told: tuple[Store, Any, Any]) -> None:
    store, hook, _ = told
    one(store)
    assert alerts.claim(store, now=100.0) is not None  # and dies
    assert alerts.claim(store, now=101.0) is None
    assert telling.is_to_tell(store, now=101.0)
    assert telling.tell_next(store, now=101.0 + alerts.CLAIM_S)
    assert len(hook.got) == 1
    one(store, now=0.0)
    assert not telling.tell_next(store, now=1.0 + alerts.MAX_AGE_S)  # too old to be news


def test_only_the_kinds_that_are_wanted_are_sent(told: tuple[Store, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store, hook, _ = told
    monkeypatch.setenv("PATRON_ALERT_KINDS", "paused, finished")
    one(store)
    assert telling.tell_next(store, now=100.0)
    assert hook.got == []
    assert not telling.is_to_tell(store, now=100.0)


def test_no_workload_inherits_where_alerts_go(told: tuple[Store, Any, Any]) -> None:
    assert PLANTED not in json.dumps(settings.for_workloads())


def test_the_command_tests_lists_and_puts_away(
    told: tuple[Store, Any, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hook, mailbox = told
    monkeypatch.setattr("patron_core.lifecycle.supervisor.ensure_running", lambda store: None)

    def patron(*argv: str) -> tuple[int, Any]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", sys.stdout)  # a command with --json keeps it for itself
            code = main([*argv, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, answer = patron("alerts", "--test")
    assert (code, set(answer["deliveries"])) == (0, {"webhook", "email"})
    assert (len(hook.got), len(mailbox.got)) == (1, 1)
    hook.answers = [403]
    code, answer = patron("alerts", "--test")
    assert (code, answer["deliveries"]["webhook"]["error"]) == (3, "it answers 403")
    assert [alert["kind"] for alert in patron("alerts")[1]["alerts"]] == ["test", "test"]
    assert patron("alerts", "--seen")[1]["seen"] == 2
    assert alerts.listed(store, unseen=True) == []
