"""An MCP server over stdio: the API's verbs as tools, within the limits of PATRON_TOKEN. HTTP: /mcp of patron serve.

{"mcpServers": {"patron": {"command": "patron", "args": ["mcp"], "env": {"PATRON_TOKEN": "..."}}}}
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from patron_core.server.app import api
from patron_core.server.entry import Visitor
from patron_core.server.tools import over_stdio
from patron_core.store import tokens
from patron_core.ui.script import Arguments, open_command


class McpArguments(Arguments):
    pass


def main(argv: Sequence[str]) -> int:
    session = open_command(McpArguments, argv, prog="mcp", description=__doc__ or "")
    store = session.open_lab()
    assert store is not None
    token = store.token
    if token is None:
        session.say("PATRON_TOKEN is not set: what is asked here is asked as the owner, without limits")

    async def who() -> Visitor:
        """Looked up at each call: a revoked token opens nothing any more."""
        if token is None:
            return Visitor(token=None)
        return Visitor(token=await asyncio.to_thread(tokens.by_id, store, token.id, now=time.time()))

    asyncio.run(over_stdio(api(store), who))
    return 0
