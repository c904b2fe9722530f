"""The tools of the MCP server, through the official client: over HTTP behind the gate, and over a process's stdio."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from serving import Lab, count_as_supervised, serving

from patron_core import verbs
from patron_core.server.api import operations
from patron_core.server.skill import skill
from patron_core.server.tools import tools
from patron_core.store import Store, ledger

USD = 1_000_000
FOR_PERSONS = {
    "deposit",
    "decide",
    "make_token",
    "revoke",
    "list_tokens",
    "see_alerts",
    "send_test_alert",
    "answer_feedback",
}
NO_JSON = {"stream", "download"}


@pytest.fixture
def lab(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    count_as_supervised(sqlite_store, monkeypatch)
    verbs.deposit(sqlite_store, usd_micros=100 * USD, key="first", actor="ada")
    with serving(sqlite_store) as found:
        yield found


@asynccontextmanager
async def over_http(lab: Lab, secret: str) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{lab.base}/mcp", http_client=http)) as client,
    ):
        yield client


async def ask(client: Client, tool: str, **arguments: Any) -> tuple[bool, dict[str, Any]]:
    """(went well, what was answered)."""
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    return not result.is_error, json.loads(content.text)


def test_tools_are_the_routes_less_what_is_for_persons(lab: Lab) -> None:
    from patron_core.server.app import api

    names = [name for name, *_ in operations()]
    assert len(set(names)) == len(names)
    assert set(names) - set(tools(api(lab.store))) == FOR_PERSONS | NO_JSON


def test_an_agent_works_over_http_within_its_limits(lab: Lab) -> None:
    secret = lab.token("agent", "run", "spend", "note", total_usd_micros=1000)
    reader = lab.token("reader", "read")

    async def work() -> None:
        async with over_http(lab, secret) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert {"skill", "plan", "fund", "read_metrics"} <= set(listed)
            assert "deposit" not in listed
            assert set(listed["fund"].input_schema["required"]) == {"run", "key"}
            (page,) = (await client.call_tool("skill", {})).content
            assert page.text == skill()
            plan = {"spec": {"depth": 1, "num_steps": 40}, "name": "first", "key": "plan"}
            _, made = await ask(client, "plan", **plan)
            assert (await ask(client, "plan", **plan))[1]["run"] == made["run"]
            went, said = await ask(client, "plan", **plan | {"spec": {"depth": 2}})
            assert (went, said["error"]["code"]) == (False, "conflict")
            went, said = await ask(client, "dryrun", run=made["run"], key="burst")
            assert (went, said["error"]["code"]) == (False, "beyond_allowance")
            went, said = await ask(client, "deposit", usd_micros=1, key="d")
            assert (went, said["error"]["code"]) == (False, "invalid_input")
            went, said = await ask(client, "show_run", run=made["run"], colour="red")
            assert "colour: unknown" in said["error"]["message"]
            assert (await ask(client, "show_run", run="../wallet"))[1]["error"]["code"] == "not_found"
            went, said = await ask(client, "list_runs", state=["draft"], limit=5)
            assert [run["actor"] for run in said["runs"]] == ["agent"]
        async with over_http(lab, reader) as client:
            went, said = await ask(client, "cancel", run=made["run"])
            assert (went, said["error"]["code"]) == (False, "forbidden")

    anyio.run(work)
    assert ledger.wallet(lab.store, "lab").held_usd_micros == 0
    log = {(entry.verb, entry.origin) for entry in verbs.audit_log(lab.store, actor="agent")}
    assert ("plan", "api mcp 127.0.0.1") in log
    assert httpx.post(f"{lab.base}/mcp", json={}).status_code == 403
    bearer = {"authorization": f"Bearer {secret}"}
    assert httpx.post(f"{lab.base}/mcp", json={}, headers=bearer | {"origin": "http://evil.example"}).status_code == 403
    assert httpx.get(f"{lab.base}/mcp", headers=bearer).status_code == 405


def test_over_stdio_a_token_that_is_revoked_opens_nothing_any_more(lab: Lab) -> None:
    secret = lab.token("agent", "note")
    env = {name: value for name, value in os.environ.items() if name != "PATRON_DATABASE_URL"}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "patron_core.commands", "mcp"], env=env | {"PATRON_TOKEN": secret}
    )

    async def work() -> None:
        async with Client(stdio_client(command)) as client:
            assert (await ask(client, "me"))[1]["name"] == "agent"
            went, note = await ask(client, "write_note", body="over stdio", key="n")
            assert (went, note["actor"]) == (True, "agent")
            verbs.revoke_token(lab.store, "agent", actor="ada")
            went, said = await ask(client, "me")
            assert (went, said["error"]["code"]) == (False, "unauthorised")

    anyio.run(work)
