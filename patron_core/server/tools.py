"""The API as tools of an MCP server, over stdio (`patron mcp`) and over HTTP (`/mcp` of `patron serve`).

Each tool is one route: its name, sentence and schema are the route's, and a call is a request to it, in this process,
as whoever asks. So there are no other verbs, limits or errors than the API's. What is for a person is no tool.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI

from patron_core.errors import InvalidInput, PatronError
from patron_core.server.api import Operation, operations
from patron_core.server.api.common import KEY
from patron_core.server.entry import Visitor
from patron_core.server.skill import skill

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

_INSTRUCTIONS = (
    "Patron trains language models within a budget. Call `skill` first: the loop, states, limits, and what never to do."
)
_SKILL = "The page that says how everything here is used; read it first"
_NO_TOOLS = frozenset({"stream", "download"})  # their answers are no JSON
Who = Callable[[], Awaitable[Visitor]]  # raises PatronError for a token that opens nothing any more


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One route: how its arguments become a request."""

    method: str
    path: str
    summary: str
    schema: dict[str, Any]
    places: dict[str, str]  # argument -> path, query, header, body


def tools(app: FastAPI) -> dict[str, Tool]:
    """Every route that is a tool, by its name."""
    described = app.openapi()
    found = {}
    for each in operations():
        if each.name not in _NO_TOOLS and not each.for_a_person:
            found[each.name] = _tool(each, described["paths"][each.path][each.method.lower()], described)
    return found


def _tool(route: Operation, operation: dict[str, Any], described: dict[str, Any]) -> Tool:
    properties: dict[str, Any] = {}
    required: list[str] = []
    places: dict[str, str] = {}
    for each in operation.get("parameters", []):
        name = "key" if each["name"] == KEY else each["name"]
        properties[name] = each["schema"] | ({"description": each["description"]} if "description" in each else {})
        places[name] = each["in"]
        required += [name] if each.get("required") else []
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        body = _resolved(content["schema"], described)
        properties |= body["properties"]
        places |= dict.fromkeys(body["properties"], "body")
        required += body.get("required", [])
    schema = _resolved({"type": "object", "properties": properties, "required": required}, described)
    return Tool(method=route.method, path=route.path, summary=route.summary, schema=schema, places=places)


def _resolved(schema: Any, described: dict[str, Any]) -> Any:
    """Without references, and without titles, which say a name again."""
    if isinstance(schema, list):
        return [_resolved(each, described) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(described["components"]["schemas"][schema["$ref"].rpartition("/")[2]], described)
    return {
        name: _resolved(value, described)
        for name, value in schema.items()
        if name != "title" or not isinstance(value, str)
    }


async def call(
    app: FastAPI, tool: Tool, arguments: Mapping[str, Any], visitor: Visitor, origin: str
) -> tuple[int, str]:
    """(status, JSON) of the route, as that visitor."""
    import httpx

    unknown = sorted(set(arguments) - set(tool.places))
    if unknown:
        problems = [f"{name}: unknown; allowed {', '.join(tool.places)}" for name in unknown]
        raise InvalidInput(problems, next="call the tool skill")
    by_place: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}, "body": {}}
    for name, value in arguments.items():
        by_place[tool.places[name]][name] = value
    path = tool.path
    for name, value in by_place["path"].items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    has_body = "body" in tool.places.values()
    transport = httpx.ASGITransport(app=_as_visitor(app, visitor), client=(origin, 0))
    async with httpx.AsyncClient(transport=transport, base_url="http://patron", timeout=None) as client:
        answer = await client.request(
            tool.method,
            path,
            params={name: value for name, value in by_place["query"].items() if value is not None},
            headers={KEY: str(by_place["header"]["key"])} if "key" in by_place["header"] else {},
            json=by_place["body"] if has_body else None,
        )
    return answer.status_code, answer.text


def _as_visitor(app: FastAPI, visitor: Visitor) -> Any:
    async def entered(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["visitor"] = visitor
        await app(scope, receive, send)

    return entered


def server(app: FastAPI, known: Mapping[str, Tool], who: Who, *, origin: str) -> Server[Any]:
    """An MCP server for one caller."""
    import mcp_types as types
    from mcp.server.lowlevel import Server

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        listed = [types.Tool(name="skill", description=_SKILL, input_schema={"type": "object", "properties": {}})]
        listed += [
            types.Tool(name=name, description=tool.summary, input_schema=tool.schema) for name, tool in known.items()
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            visitor = await who()
            if params.name == "skill":
                status, text = 200, skill()
            elif params.name in known:
                status, text = await call(app, known[params.name], params.arguments or {}, visitor, origin)
            else:
                raise InvalidInput([f"there is no tool {params.name!r}"], next="call the tool skill")
        except PatronError as error:
            status, text = 400, json.dumps(error.to_dict())
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=status >= 400)

    return Server(
        "patron",
        version=version("patron"),
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


class OverHttp:
    """The endpoint /mcp, behind the gate. Stateless: each request is answered by itself, as whoever sent it."""

    def __init__(self, app: FastAPI):
        self._app = app
        self._known: dict[str, Tool] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        logging.getLogger("mcp").setLevel(logging.WARNING)
        if self._known is None:
            self._known = tools(self._app)
        visitor: Visitor = scope["state"]["visitor"]

        async def who() -> Visitor:
            return visitor  # the gate has just looked

        address = (scope.get("client") or ("?",))[0]
        serves = server(self._app, self._known, who, origin=f"mcp {address}")
        manager = StreamableHTTPSessionManager(serves, stateless=True, json_response=True)
        async with manager.run():
            await manager.handle_request(scope, receive, send)


async def over_stdio(app: FastAPI, who: Who) -> None:
    """Until stdin ends."""
    from mcp.server.stdio import stdio_server

    serves = server(app, tools(app), who, origin="mcp stdio")
    async with stdio_server() as (reading, writing):
        await serves.run(reading, writing, serves.create_initialization_options())
