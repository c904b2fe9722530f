"""A token does not act with what the owner of this account has for git: a real git, and a real server that asks who."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import foreign
import pytest

from patron_core import verbs
from patron_core.errors import Unavailable
from patron_core.machines.target import Target
from patron_core.store import Store
from patron_core.store.tokens import Allowance
from patron_core.workloads.asking import CodeQuestion
from patron_core.workloads.sources import snapshot

WHO = f"Basic {base64.b64encode(b'owner:planted').decode()}"
CERTIFICATE = "a certificate"
HELPER = '[credential]\n\thelper = "!f() { echo username=owner; echo password=planted; }; f"\n'


class Asking(SimpleHTTPRequestHandler):
    """The files of a folder; below /private only for the owner."""

    seen: list[str]

    def do_GET(self) -> None:
        who = self.headers.get("authorization")
        self.seen += [who] if who else []
        self.seen += [CERTIFICATE] if self.connection.getpeercert() else []  # type: ignore[attr-defined]
        if self.path.startswith("/private") and who != WHO:
            self.send_response(401)
            self.send_header("www-authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of two repositories, by https; the account has a helper and a header, each of which opens the private one."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = foreign.write(tmp_path / "code", {"MLproject": foreign.MLPROJECT, "train.py": "print(1)\n"})
    foreign.commit(made)
    for name in ("private", "public"):
        foreign.git(tmp_path, "clone", "--quiet", "--bare", str(made), str(tmp_path / "served" / name))
        foreign.git(tmp_path / "served" / name, "update-server-info")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    Asking.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Asking, directory=str(tmp_path / "served"))) as serves:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        tls.load_verify_locations(tmp_path / "cert.pem")
        tls.verify_mode = ssl.CERT_OPTIONAL
        serves.socket = tls.wrap_socket(serves.socket, server_side=True)
        threading.Thread(target=serves.serve_forever, daemon=True).start()
        account = foreign.write(tmp_path / "account", {".gitconfig": HELPER})
        header = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"}
        told = {"GIT_CONFIG_VALUE_0": f"Authorization: {WHO}", "GIT_SSL_NO_VERIFY": "1", "HOME": str(account)}
        told |= {"GIT_SSL_CERT": str(tmp_path / "cert.pem"), "GIT_SSL_KEY": str(tmp_path / "key.pem")}
        for name, value in (header | told).items():
            monkeypatch.setenv(name, value)
        yield f"https://127.0.0.1:{serves.server_port}"
        serves.shutdown()


@pytest.mark.parametrize("without", ["helper", "header"])
def test_the_owner_has_two_ways_in(server: str, without: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if without == "header":
        monkeypatch.delenv("GIT_CONFIG_COUNT")
    else:
        (tmp_path / "account" / ".gitconfig").unlink()
    assert "train.py" in snapshot(f"{server}/private").files
    assert set(Asking.seen) == {WHO, CERTIFICATE}


def test_a_token_has_neither(server: str, sqlite_store: Store) -> None:
    limits = Allowance(total_usd_micros=1_000_000)
    made = {"name": "agent", "scopes": ("run", "spend"), "allowance": limits, "actor": "ada"}
    token, _ = verbs.make_token(sqlite_store, **made)  # type: ignore[arg-type]
    store = sqlite_store.acting_as(token, origin="test")

    def plan(where: str) -> None:
        verbs.plan_code(
            store, question=CodeQuestion(where=where), target=Target(executor="sky", device="H100"), actor="agent"
        )

    snapshot(f"{server}/private")  # what the owner fetched lies here
    Asking.seen.clear()
    with pytest.raises(Unavailable, match="without the git credentials of this account") as refused:
        plan(f"{server}/private")
    assert refused.value.next == "ask a person to plan it"
    assert Asking.seen == []
    assert "train.py" in snapshot(f"{server}/public", as_nobody=True).files
    assert Asking.seen == []
