"""Requests over httpx: sent again only where that is safe, and only while something says that it may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from patron_core.client.calls import ApiError, Calls, Json, Params

TRIES_WAIT_S = (0.5, 1.0, 2.0, 4.0)
RESTING = frozenset({"draft", "awaiting_funding", "funded", "paused", "succeeded", "failed", "cancelled"})
_WAIT_S = 30.0  # of one look for events


def _settings(url: str, token: str, timeout_s: float) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": timeout_s}


def _request(params: Params, body: Json | None, key: str) -> dict[str, Any]:
    given = {name: value for name, value in (params or {}).items() if value not in (None, "")}
    made: dict[str, Any] = {"params": given, "headers": {"idempotency-key": key} if key else {}}
    return made | ({"json": body} if body is not None else {})


def _waits(method: str, key: str) -> Iterator[float | None]:
    """Seconds before each further try; None: there is no other."""
    if method == "GET" or key:
        yield from TRIES_WAIT_S
    yield None


def _answer(response: httpx.Response) -> Json:
    """Raises ApiError."""
    try:
        said = response.json()
    except ValueError:
        said = {}
    if response.is_success and isinstance(said, dict):
        return said
    error = said.get("error") if isinstance(said, dict) else None
    raise ApiError(response.status_code, error or {"code": "unknown", "message": response.text[:300], "next": ""})


class Client(Calls[Json]):
    def __init__(self, url: str, token: str, *, timeout_s: float = 90.0):
        self._http = httpx.Client(**_settings(url, token, timeout_s))

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        body: Json | None = None,
        key: str = "",
    ) -> Json:
        """Raises ApiError, and httpx.TransportError where the outcome is not known: ask again under the same key."""
        for wait_s in _waits(method, key):
            try:
                return _answer(self._http.request(method, path, **_request(params, body, key)))
            except (ApiError, httpx.TransportError) as error:
                if wait_s is None or not getattr(error, "retryable", True):
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def wait(self, run: str, *, until: Collection[str] = RESTING, timeout_s: float = 3600.0) -> Json:
        """The run once it is in one of these states, or as it is when the time is over. It waits for events."""
        end, cursor = time.monotonic() + timeout_s, 0
        while True:
            seen = self.run(run)
            left = end - time.monotonic()
            if seen["state"] in until or left <= 0:
                return seen
            cursor = int(self.events(run=run, cursor=cursor, wait_s=min(_WAIT_S, left), limit=1000)["cursor"])

    def skill(self) -> str:
        return self._http.get("/skill.md").raise_for_status().text

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Calls[Awaitable[Json]]):
    def __init__(self, url: str, token: str, *, timeout_s: float = 90.0):
        self._http = httpx.AsyncClient(**_settings(url, token, timeout_s))

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Params = None,
        body: Json | None = None,
        key: str = "",
    ) -> Json:
        """As of Client."""
        for wait_s in _waits(method, key):
            try:
                return _answer(await self._http.request(method, path, **_request(params, body, key)))
            except (ApiError, httpx.TransportError) as error:
                if wait_s is None or not getattr(error, "retryable", True):
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
