"""`patron serve` as its users and its attackers meet it: a real process, a real browser, raw requests."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import labs
import pytest
from browser import CHROMIUM, FLAGS, MARKS, PATIENCE_MS, SERVE, start
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from patron_core import verbs
from patron_core.lifecycle import post
from patron_core.store import Run, Store, approvals, attempts, leases, ledger
from patron_core.store.tokens import Allowance
from patron_core.ui import theme


@dataclass(frozen=True, kw_only=True)
class Served:
    link: str
    store: Store
    secrets: dict[str, str]
    process: subprocess.Popen[str]
    env: dict[str, str]

    @property
    def base(self) -> str:
        return self.link.split("/login")[0]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def bearer(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secrets[name]}"}


@pytest.fixture(scope="module")
def served(filled: tuple[Path, dict[str, Run]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A lab with a past on a port, with three tokens. Supervisor and mirror count as running."""
    home = tmp_path_factory.mktemp("served")
    source = Store.open(f"sqlite:///{filled[0] / 'patron.db'}")
    with source.read() as conn:
        conn.exec_driver_sql("PRAGMA wal_checkpoint")
    source.close()
    shutil.copy(filled[0] / "patron.db", home / "patron.db")
    store = Store.open(f"sqlite:///{home / 'patron.db'}")
    for each in (post.SUPERVISOR, post.MIRROR):
        leases.acquire(store, each.name, holder="tests", ttl_s=1e6)
    secrets = {}
    for name, scopes in {
        "reader": ("read",),
        "grace": ("run", "spend"),
        "boss": ("admin",),
        "hopper": ("run", "note", "spend"),
    }.items():
        allowance = Allowance(total_usd_micros=1_000_000) if "spend" in scopes else None
        secrets[name] = verbs.make_token(store, name=name, scopes=scopes, allowance=allowance, actor="ada")[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PATRON_", "MLFLOW_"))} | {"PATRON_HOME": str(home)}
    process, link = start(env)
    yield Served(link=link, store=store, secrets=secrets, process=process, env=env)
    process.terminate()
    process.communicate(timeout=20)
    store.close()


@pytest.fixture(scope="module")
def browser(served: Served) -> Iterator[Any]:
    """For it evil.example is this machine, as after a name was rebound."""
    from playwright.sync_api import sync_playwright

    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules])
        yield found
        found.close()


@pytest.fixture
def two(served: Served, browser: Any) -> Iterator[dict[str, Any]]:
    """A page each of two who are signed in with tokens of their own."""
    pages = {}
    for name in ("hopper", "boss"):
        page = pages[name] = browser.new_context().new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{served.base}/login")
        page.get_by_label("Token").fill(served.secrets[name])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{served.base}/")
    yield pages
    for page in pages.values():
        page.context.close()


def proven_run(served: Served, name: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PATRON_HOME", served.env["PATRON_HOME"])
    run = labs.proven(served.store, depth=2, name=name, at=labs.START + 9000)
    return labs.prove_here(served.store, run)


# --- raw requests -----------------------------------------------------------------------------------------------------


def test_nobody_enters_without_a_name_that_is_ours_and_a_key(served: Served) -> None:
    base, reader = served.base, served.bearer("reader")
    with httpx.Client() as client:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer patron_" + "x" * 43}, 401),
            ({"authorization": "Basic cm9vdDpyb290"}, 401),
            ({**reader}, 200),
            ({**reader, "host": "evil.example"}, 403),
            ({**reader, "host": f"evil.example:{served.port}"}, 403),
            ({**reader, "origin": "http://evil.example"}, 403),
            ({**reader, "origin": "null"}, 403),
            ({**reader, "origin": "http://127.0.0.1:1"}, 403),
            ({**reader, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
            ({**reader, "origin": base}, 200),
        ):
            answer = client.get(f"{base}/lab/", headers=headers)
            assert answer.status_code == status, (headers, answer.text)
        secret = served.secrets["reader"]
        for place in (f"/lab/?token={secret}", f"/{secret}", f"/lab/?{secret}"):
            answer = client.get(base + place, headers=reader)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")
        assert client.get(f"{base}/login?ticket=wrong").status_code == 401
        assert client.get(f"{base}/health").json() == {"status": "healthy"}
        assert client.get(f"{base}/nowhere", headers=reader).status_code == 404


def test_the_cookie_is_strict_and_a_change_says_where_it_comes_from(served: Served) -> None:
    with httpx.Client() as client:
        entered = client.get(served.link)
        said = entered.headers["set-cookie"].lower()
        assert entered.status_code == 200
        assert "httponly" in said
        assert "samesite=strict" in said
        assert served.link.partition("ticket=")[2].lower() not in said
        press = f"{served.base}/lab/api/kernel/set_ui_element_value"
        assert client.post(press, json={}).status_code == 403
        assert client.post(press, json={}, headers={"origin": f"http://127.0.0.1:{served.port + 1}"}).status_code == 403
        assert client.post(press, json={}, headers={"origin": served.base}).status_code not in (401, 403)
        cookie = client.cookies[f"patron-{served.port}"]
    forged = ("x" if cookie[0] != "x" else "y") + cookie[1:]
    for value in (forged, cookie[:-1], "."):
        answer = httpx.get(f"{served.base}/lab/", headers={"cookie": f"patron-{served.port}={value}"})
        assert answer.status_code == 401


def test_a_websocket_opens_only_for_our_own_pages(served: Served) -> None:
    cookie = httpx.get(served.link).headers["set-cookie"].partition(";")[0]
    address = f"ws://127.0.0.1:{served.port}/lab/ws?session_id=s_raw"
    for origin in ("null", "http://evil.example", f"http://127.0.0.1:{served.port + 1}", None):
        with pytest.raises(InvalidStatus), connect(address, additional_headers={"cookie": cookie}, origin=origin):
            pass
    with pytest.raises(InvalidStatus), connect(address, origin=served.base):
        pass
    with connect(address, additional_headers={"cookie": cookie}, origin=served.base):
        pass


def test_a_busy_port_is_said_and_sigterm_ends_it_with_a_page_open(served: Served) -> None:
    busy = subprocess.run(
        [*SERVE, "--port", str(served.port), "--json"], capture_output=True, text=True, env=served.env
    )
    assert busy.returncode == 3
    assert f"port {served.port} is taken" in busy.stdout
    beyond = subprocess.run([*SERVE, "--host", "0.0.0.0", "--json"], capture_output=True, text=True, env=served.env)
    assert beyond.returncode == 2
    assert "--behind-proxy" in beyond.stdout
    agent = served.env | {"PATRON_TOKEN": served.secrets["grace"]}
    bounded = subprocess.run([*SERVE, "--port", "0", "--json"], capture_output=True, text=True, env=agent)
    assert (bounded.returncode, "forbidden" in bounded.stdout) == (3, True)
    other, link = start(served.env)
    cookie = httpx.get(link).headers["set-cookie"].partition(";")[0]
    base = link.split("/login")[0]
    with connect(f"ws{base[4:]}/lab/ws?session_id=s_end", additional_headers={"cookie": cookie}, origin=base):
        other.send_signal(signal.SIGTERM)
        other.communicate(timeout=20)
    assert other.returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(base.rpartition(":")[2])))


# --- a real browser ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(*MARKS[0].args, **MARKS[0].kwargs)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestBrowser:
    def test_the_gallery_leads_to_pages_whose_bar_carries_project_and_run(self, served: Served, browser: Any) -> None:
        page = browser.new_context().new_page()
        page.goto(served.link)
        page.wait_for_url(f"{served.base}/")
        assert page.locator(".card").count() == len(labs.NOTEBOOKS)
        page.get_by_role("link", name="Lab").click()
        page.get_by_role("heading", name="Waiting for you").wait_for(timeout=PATIENCE_MS)
        page.goto(f"{served.base}/estimate/?project=lab&run=r1&other=1")
        page.get_by_role("heading", level=1).first.wait_for(timeout=PATIENCE_MS)
        page.get_by_role("navigation", name="Notebooks").get_by_role("link", name="Journal").click()
        page.wait_for_url(f"{served.base}/journal/?project=lab&run=r1")

    def test_who_presses_is_who_pays_and_a_reader_cannot(
        self, served: Served, browser: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = proven_run(served, "d2-two-users", monkeypatch)
        pages = {}
        for name in ("reader", "grace"):
            pages[name] = browser.new_context().new_page()
            pages[name].goto(f"{served.base}/login")
            pages[name].get_by_label("Token").fill(served.secrets[name])
            pages[name].get_by_role("button", name="Sign in").click()
            pages[name].wait_for_url(f"{served.base}/")
            pages[name].goto(f"{served.base}/launch/?run={run.id}")
        pages["reader"].get_by_role("button", name="and launch").click(timeout=PATIENCE_MS)
        pages["reader"].get_by_text("cannot fund and launch").first.wait_for(timeout=PATIENCE_MS)
        assert [a.kind for a in attempts.for_run(served.store, run.id)] == ["dryrun"]
        pages["grace"].get_by_role("button", name="and launch").click(timeout=PATIENCE_MS)
        pages["grace"].get_by_text("is launching").wait_for(timeout=PATIENCE_MS)
        paid = [line.actor for line in ledger.statement(served.store, "lab") if line.run_id == run.id]
        assert paid[0] == "grace"
        told = [(e.actor, e.verb, e.outcome) for e in verbs.audit_log(served.store)]
        assert ("reader", "fund_and_launch", "forbidden") in told
        assert ("grace", "fund_and_launch", "done") in told
        verbs.revoke_token(served.store, "reader", actor="ada")
        assert pages["reader"].goto(f"{served.base}/lab/").status == 401

    def test_two_at_once_see_each_other_and_a_second_press_is_ignored(
        self, served: Served, two: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from playwright.sync_api import Error as PlaywrightError

        run = proven_run(served, "d2-together", monkeypatch)
        hopper, boss = two["hopper"], two["boss"]
        for page in (hopper, boss):
            page.goto(f"{served.base}/launch/?run={run.id}")
            page.get_by_role("button", name="and launch").wait_for()
        hopper.get_by_role("button", name="and launch").dblclick()
        with suppress(PlaywrightError):  # in the same moment; or it is off already
            boss.get_by_role("button", name="aunch").dblclick(timeout=3000)
        for page in (hopper, boss):
            page.get_by_text("is launching").wait_for()
        assert [a.kind for a in attempts.for_run(served.store, run.id)] == ["dryrun", "train"]
        holds = [e for e in ledger.statement(served.store, "lab", run_id=run.id) if e.kind == "hold"]
        assert [e.actor for e in holds if ":dryrun" not in e.key] == ["hopper"]

        for name, page in two.items():
            page.goto(f"{served.base}/watch/?run={run.id}")
            page.get_by_placeholder("What do you see?").fill(f"{name} was here")
        boss.get_by_role("button", name="Keep note").dblclick()
        hopper.locator(".patron-note", has_text="boss was here").wait_for()
        assert hopper.get_by_placeholder("What do you see?").input_value() == "hopper was here"  # a tick takes nothing
        hopper.get_by_role("button", name="Keep note").dblclick()
        boss.locator(".patron-note", has_text="hopper was here").wait_for()
        kept = verbs.read_notes(served.store, project="lab", run_id=run.id)
        assert sorted((note.actor, note.body) for note in kept) == [(n, f"{n} was here") for n in sorted(two)]

    def test_of_two_that_change_a_note_neither_overwrites_the_other(self, served: Served, two: dict[str, Any]) -> None:
        note = verbs.write_note(served.store, project="lab", body="first", title="Together", actor="ada")
        for name, page in two.items():
            page.goto(f"{served.base}/journal/")
            page.get_by_role("combobox", name="Open").select_option(label=f"Together ({note.id})")
            page.get_by_role("heading", name="Revision 1, by ada").wait_for()
            page.get_by_placeholder("What do you see?").fill(f"{name} wrote more")
        two["boss"].get_by_role("button", name="Save").dblclick()
        two["boss"].get_by_text("Saved as revision 2").wait_for()
        hopper = two["hopper"]
        hopper.get_by_role("button", name="Save").dblclick()
        hopper.get_by_text("Saved meanwhile").wait_for()
        hopper.locator(".patron-note", has_text="boss wrote more").first.wait_for()
        assert hopper.get_by_placeholder("What do you see?").input_value() == "hopper wrote more"
        now = verbs.read_note(served.store, note.id)
        assert (now.body, now.revision, now.actor) == ("boss wrote more", 2, "boss")

    def test_a_hold_is_approved_with_a_word_and_an_alert_stands_above(self, served: Served, browser: Any) -> None:
        run = labs.proven(served.store, depth=2, name="d2-dear", at=labs.START + 9500)
        asked = approvals.ask(served.store, run_id=run.id, token="grace", usd_micros=3_000_000, now=labs.START)
        page = browser.new_context().new_page()
        page.goto(served.link)
        page.wait_for_url(f"{served.base}/")
        page.goto(f"{served.base}/lab/")
        word = page.get_by_placeholder("a word for who asked")
        word.fill("a good plan", timeout=PATIENCE_MS)
        page.get_by_role("button", name="Approve").click()
        page.get_by_text("The hold of grace for d2-dear is approved").first.wait_for(timeout=PATIENCE_MS)
        decided = approvals.get(served.store, asked.id)
        assert (decided.state, decided.word) == ("approved", "a good plan")
        page.get_by_role("status").filter(has_text="Alerts (").click(timeout=PATIENCE_MS)
        page.get_by_text("A token asks to hold $3.00").first.wait_for(timeout=PATIENCE_MS)
        page.get_by_role("button", name="Put all away").click()
        page.wait_for_load_state()
        assert verbs.list_alerts(served.store, unseen=True) == []

    def test_theme_and_keyboard(self, served: Served, browser: Any, filled: tuple[Path, dict[str, Run]]) -> None:
        """Pages and curves follow the system's theme and the switch at once; every control is found by Tab."""
        from playwright.sync_api import expect

        page = browser.new_context(color_scheme="dark").new_page()
        page.goto(served.link)
        page.wait_for_url(f"{served.base}/")
        dark, light = (_rgb(theme.THEMES[name].paper) for name in ("dark", "light"))
        assert page.evaluate(_GROUND) == dark
        page.goto(f"{served.base}/watch/?run={filled[1]['finished'].id}")
        board = page.locator(".pb-root[data-theme]").first
        board.locator("canvas").first.wait_for(timeout=PATIENCE_MS)
        expect(board).to_have_attribute("data-theme", "dark")
        expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
        page.emulate_media(color_scheme="light")
        expect(board).to_have_attribute("data-theme", "light")
        switch = page.get_by_label("Theme")
        switch.select_option("projector")
        expect(board).to_have_attribute("data-theme", "projector")
        assert page.evaluate("getComputedStyle(document.documentElement).fontSize") == "20px"
        switch.select_option("dark")
        expect(board).to_have_attribute("data-theme", "dark")
        unreached, unseen = page.evaluate(_CONTROLS), []
        page.evaluate("document.activeElement.blur()")
        for _ in range(3 * len(unreached)):
            page.keyboard.press("Tab")
            who, is_seen = page.evaluate(_FOCUS)
            unseen += [] if is_seen else [who]
            unreached = [each for each in unreached if each != who]
            if not unreached:
                break
        assert (unreached, unseen) == ([], [])
        page.goto(f"{served.base}/alerts")  # it is kept
        assert page.evaluate(_GROUND) == dark
        page.get_by_label("Theme").select_option("light")
        assert page.evaluate(_GROUND) == light

    def test_no_other_page_reaches_it(self, served: Served, browser: Any) -> None:
        """By a name that was rebound; from another port of this machine, which browsers call the same site; and from a
        sandboxed frame, whose origin is null."""
        context = browser.new_context()
        page = context.new_page()
        page.goto(served.link)
        page.wait_for_url(f"{served.base}/")
        page.goto(f"{served.base}/health")
        address = f"ws://127.0.0.1:{served.port}/lab/ws?session_id=s_page"
        assert page.evaluate(_OPENS, address) == "open"  # our own page may: what follows fails for its origin
        rebound = context.new_page()
        assert rebound.goto(f"http://evil.example:{served.port}/launch/").status == 403
        assert rebound.evaluate(_OPENS, address.replace("127.0.0.1", "evil.example")) == "closed"
        with other_port() as other:
            foreign = context.new_page()
            foreign.goto(other)
            assert foreign.evaluate(_OPENS, address) == "closed"
            pressed = foreign.evaluate(_PRESS, f"{served.base}/launch/api/kernel/set_ui_element_value")
            assert pressed == "refused"
            assert foreign.evaluate(_FRAMED, [served.base, address]) == "closed"


class other_port:  # noqa: N801  # used as a context manager
    def __enter__(self) -> str:
        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(b"<!doctype html><title>elsewhere</title>")

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))


_GROUND = "getComputedStyle(document.body).backgroundColor"
# all that somebody may press, choose or type into and that is on the page, by what it says; shadow roots too
_NAMES = """
const said = (each) => [each.tagName, each.getAttribute("aria-label") || each.getAttribute("title") || each.name || "",
    (each.innerText || each.placeholder || each.value || "").slice(0, 40)].join(" ").replace(/\\s+/g, " ").trim();
const inner = (root) => Array.from(root.querySelectorAll("*")).flatMap(
    (each) => [each, ...(each.shadowRoot ? inner(each.shadowRoot) : [])]);
"""
_CONTROLS = f"""() => {{ {_NAMES}
    const able = "a[href], button, input, select, textarea, summary, [role=button], [role=checkbox], [role=combobox]";
    const there = (each) => each.checkVisibility({{ visibilityProperty: true, opacityProperty: true }})
        && each.getClientRects().length && !each.disabled && !each.closest("[aria-hidden=true], [inert]");
    return [...new Set(inner(document).filter((each) => each.matches(able) && there(each)).map(said))];
}}"""
_FOCUS = f"""() => {{ {_NAMES}
    let at = document.activeElement;
    while (at.shadowRoot && at.shadowRoot.activeElement) at = at.shadowRoot.activeElement;
    const style = getComputedStyle(at);
    const ring = parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none";
    return [said(at), at === document.body || ring || style.boxShadow !== "none"];
}}"""
_OPENS = """(address) => new Promise((done) => {
    const socket = new WebSocket(address);
    socket.onopen = () => { done("open"); socket.close(); };
    socket.onerror = socket.onclose = () => done("closed");
})"""
_PRESS = """(address) => fetch(address, {
    method: "POST", credentials: "include", body: "{}", headers: {"content-type": "application/json"},
}).then((answer) => String(answer.status), () => "refused")"""
_FRAMED = """([base, address]) => new Promise((done) => {
    addEventListener("message", (event) => done(event.data));
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = `<script>
        const socket = new WebSocket(${JSON.stringify(address)});
        socket.onopen = () => parent.postMessage("open", "*");
        socket.onerror = socket.onclose = () => parent.postMessage("closed", "*");
    <\\/script>`;
    document.body.append(frame);
})"""
