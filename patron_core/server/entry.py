"""Who enters: the link that a start prints, a token, and the cookie that a browser gets for either.

The cookie is signed with a secret in PATRON_HOME, so that a restart signs nobody out. It names a token, never holds
one; whether that token still opens anything is looked up at each request.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from patron_core import settings
from patron_core.store import Store, tokens
from patron_core.store.tokens import Token, Unauthorised

COOKIE_S = 7 * 86_400.0
_OWNER = "owner"
_SECRET_FILE = "server-secret"
_NEXT = "open the link that patron serve printed, or sign in with a token"


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Somebody who may enter. Without a token it is the owner, who started the server."""

    token: Token | None

    @property
    def name(self) -> str:
        return owner_name() if self.token is None else self.token.name

    @property
    def token_id(self) -> str:
        """Empty for the owner."""
        return "" if self.token is None else self.token.id

    def may(self, scope: str) -> bool:
        return self.token is None or self.token.may(scope)


class Entry:
    """The doors of one server. `ticket` opens them for its owner for as long as the server runs."""

    def __init__(self, store: Store, *, port: int):
        self.ticket = secrets.token_urlsafe(24)
        self.cookie_name = f"patron-{port}"  # cookies know no ports
        self._store = store
        self._secret = _server_secret()

    def by_ticket(self, ticket: str) -> Visitor:
        """Raises Unauthorised."""
        if not hmac.compare_digest(ticket.encode(), self.ticket.encode()):
            raise Unauthorised("this link is of an earlier start", next=_NEXT)
        return Visitor(token=None)

    def by_token(self, secret: str) -> Visitor:
        """Raises Unauthorised."""
        return Visitor(token=tokens.by_secret(self._store, secret, now=time.time()))

    def by_cookie(self, cookie: str) -> Visitor:
        """Raises Unauthorised."""
        body, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            raise Unauthorised("not signed in", next=_NEXT)
        said = json.loads(base64.urlsafe_b64decode(body))
        if said["until"] < time.time():
            raise Unauthorised("signed in too long ago", next=_NEXT)
        if said["who"] == _OWNER:
            return Visitor(token=None)
        return Visitor(token=tokens.by_id(self._store, said["who"], now=time.time()))

    def cookie_for(self, visitor: Visitor) -> str:
        said = {"who": visitor.token.id if visitor.token else _OWNER, "until": time.time() + COOKIE_S}
        body = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
        return f"{body}.{self._sign(body)}"

    def _sign(self, body: str) -> str:
        return hmac.new(self._secret, f"{self.cookie_name}:{body}".encode(), hashlib.sha256).hexdigest()


def owner_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, in a container
        return "owner"


def _server_secret() -> bytes:
    """Made once, for its owner's eyes; whole or not at all, however many start at once."""
    settings.make_home()
    file = settings.home() / _SECRET_FILE
    if not file.exists():
        mine = file.with_name(f"{_SECRET_FILE}.{secrets.token_hex(4)}")
        mine.touch(mode=0o600)
        mine.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):
            os.link(mine, file)
        mine.unlink()
    return file.read_bytes()
