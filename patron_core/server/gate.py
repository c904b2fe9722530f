"""The gate in front of everything on the port: which name, from which page, who. HTTP and WebSocket alike.

What it keeps out: a page at a name that was pointed at this machine (Host), a page of another port, of another site or
in a sandboxed frame (Origin, Sec-Fetch-Site), a token in an address, where it would end in logs and histories, and a
body without end. Whoever passes is in the scope's state as `visitor`, and in marimo's `meta` for the notebooks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote, urlsplit

from patron_core.errors import Busy, InvalidInput, PatronError, Refused
from patron_core.server import pages
from patron_core.server.answers import error_answer
from patron_core.server.entry import Entry, Visitor
from patron_core.store.tokens import Unauthorised, looks_like_one

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_S = 30.0  # for all of a body to arrive
LOOK_AGAIN_S = 5.0  # at the token of somebody who has a WebSocket open
OPEN_TO_ALL = frozenset({"/health", "/login", "/favicon.ico"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = [
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


class WrongPlace(Refused):
    """From a page, or at a name, that is not ours."""

    code = "wrong_place"


class Gate:
    def __init__(self, app: App, entry: Entry, *, origins: Iterable[str]):
        """`origins`: scheme, host and port at which this server is known, such as http://127.0.0.1:8700."""
        self._app = app
        self._entry = entry
        self._origins = frozenset(origin.lower() for origin in origins)
        self._hosts = frozenset(urlsplit(origin).netloc for origin in self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_place(scope, headers)
            check_address(scope)
            visitor = await asyncio.to_thread(self._visitor, headers)
            if visitor is None and scope["path"] not in OPEN_TO_ALL:
                raise Unauthorised("not signed in", next="send Authorization: Bearer TOKEN (patron token make)")
            body = receive if scope["type"] == "websocket" else await whole_body(scope, receive, headers)
        except PatronError as error:
            return await _turn_away(error, scope, headers, receive, send)
        scope.setdefault("state", {})["visitor"] = visitor
        if visitor is not None:
            scope["meta"] = {
                "patron_token": visitor.token.id if visitor.token else "",
                "patron_address": _client(scope),
            }
        if scope["type"] == "websocket":
            return await self._app(scope, receive, self._while_valid(headers, send))
        return await self._app(scope, body, _with_headers(send))

    def _check_place(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raises WrongPlace."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if host not in self._hosts:
            raise WrongPlace(f"this lab is not known as {host!r}", next="patron serve --help")
        site = headers.get("sec-fetch-site", "none")
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
        foreign = site not in ("same-origin", "none") and not navigates
        if (origin is not None and origin.lower() not in self._origins) or foreign:
            raise WrongPlace(
                f"a page of {origin or 'another place'!r} may not call this lab", next="open the lab itself"
            )
        is_api = "authorization" in headers
        changes = scope["type"] == "websocket" or scope.get("method") not in _SAFE
        if changes and origin is None and not is_api and scope["path"] != "/login":
            raise WrongPlace(
                "a call that changes something says where it comes from", next="send Authorization or Origin"
            )

    def _visitor(self, headers: dict[str, str]) -> Visitor | None:
        """None: somebody unknown. Raises Unauthorised for a token or cookie that opens nothing."""
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind:
            if kind.lower() != "bearer":
                raise Unauthorised(f"Authorization of the kind {kind!r}", next="send Authorization: Bearer TOKEN")
            return self._entry.by_token(secret.strip())
        cookie = _cookie(headers.get("cookie", ""), self._entry.cookie_name)
        try:
            return self._entry.by_cookie(cookie) if cookie else None
        except Unauthorised:
            return None

    def _while_valid(self, headers: dict[str, str], send: Send) -> Send:
        """A WebSocket outlives no token: it is looked up again every few seconds, before something is sent."""
        seen = time.monotonic()

        async def checked(message: Message) -> None:
            nonlocal seen
            if message["type"] == "websocket.send" and time.monotonic() - seen > LOOK_AGAIN_S:
                seen = time.monotonic()
                try:
                    visitor = await asyncio.to_thread(self._visitor, headers)
                except Busy:
                    visitor = Visitor(token=None)  # asked again in a moment
                except PatronError:
                    visitor = None
                if visitor is None:
                    message = {"type": "websocket.close", "code": 4401}
            await send(message)

        return checked


def check_address(scope: Scope) -> None:
    """Raises InvalidInput for a token in the path or the query."""
    query = scope.get("query_string", b"").decode("latin-1")
    if looks_like_one(f"{unquote(scope['path'])} {unquote(query)}"):
        raise InvalidInput(
            ["a token in an address ends in logs and histories: revoke it"], next="send Authorization: Bearer TOKEN"
        )


async def whole_body(scope: Scope, receive: Receive, headers: dict[str, str]) -> Receive:
    """All of the body, which is short and comes soon, to be received again. Raises TooLarge, TooSlow."""
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise TooLarge(f"a body of {declared} bytes; allowed {MAX_BODY_BYTES}", next="send less")
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_S):
            more = scope["method"] not in _SAFE
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return receive
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > MAX_BODY_BYTES:
                    raise TooLarge(f"a body of more than {MAX_BODY_BYTES} bytes", next="send less")
                more = message.get("more_body", False)
    except TimeoutError:
        raise TooSlow(f"the body did not come within {BODY_S:.0f} s", next="send it again") from None
    if not parts:
        return receive
    first = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


class TooLarge(Refused):
    code = "too_large"


class TooSlow(Busy):
    code = "too_slow"


def _client(scope: Scope) -> str:
    return str((scope.get("client") or ("?",))[0])


def _cookie(text: str, name: str) -> str:
    try:
        morsel = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _with_headers(send: Send) -> Send:
    async def added(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return added


async def _turn_away(error: PatronError, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4403})
        return
    wants_page = "text/html" in headers.get("accept", "") and not scope["path"].startswith("/api/")
    answer = pages.login_page(error.message) if wants_page and isinstance(error, Unauthorised) else error_answer(error)
    await answer(scope, receive, _with_headers(send))
