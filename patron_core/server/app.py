"""All that is on the port, put together: gate, own pages, API, notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from patron_core.errors import InternalError, InvalidInput, NotFound, PatronError
from patron_core.server import pages
from patron_core.server.answers import Answer, error_answer
from patron_core.server.api import add_api
from patron_core.server.apps import notebook_apps
from patron_core.server.bar import navigation
from patron_core.server.entry import COOKIE_S, Entry, Visitor
from patron_core.server.gate import Gate
from patron_core.server.lists import add_lists
from patron_core.server.pages import Notebook
from patron_core.server.skill import skill
from patron_core.server.tools import OverHttp
from patron_core.store import Store
from patron_core.store.tokens import Unauthorised


def build(store: Store, entry: Entry, notebooks: Sequence[Notebook], *, origins: Iterable[str]) -> Gate:
    known = list(origins)
    app = api(store)
    app.router.routes.append(Route("/mcp", endpoint=OverHttp(app), methods=["POST"]))
    _add_pages(app, store, entry, notebooks, secure=all(origin.startswith("https:") for origin in known))
    add_lists(app, store)
    if notebooks:
        app.mount("/", notebook_apps(notebooks, head=navigation(notebooks)))
    return Gate(app, entry, origins=known)


def api(store: Store) -> FastAPI:
    """The API alone; whoever calls it says who asks (`visitor` in the scope's state)."""
    app = FastAPI(
        title="Patron", version=version("patron"), openapi_url="/api/openapi.json", docs_url=None, redoc_url=None
    )
    app.state.store = store
    add_api(app)
    _show_errors_in_one_shape(app)
    return app


def _show_errors_in_one_shape(app: FastAPI) -> None:
    @app.exception_handler(PatronError)
    async def ours(_request: Request, error: PatronError) -> Response:
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return error_answer(InvalidInput(problems, next="GET /api/openapi.json"))

    @app.exception_handler(HTTPException)
    async def of_routing(_request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return error_answer(NotFound("there is nothing at this address", next="GET /skill.md"))
        said = {"code": "invalid_input", "message": str(error.detail), "next": "GET /skill.md", "retryable": False}
        return Answer({"error": said}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> Response:
        return error_answer(InternalError(type(error).__name__, next="look into the server's log"))


def _add_pages(app: FastAPI, store: Store, entry: Entry, notebooks: Sequence[Notebook], *, secure: bool) -> None:
    page: dict[str, Any] = {"include_in_schema": False}

    def signed_in(visitor: Visitor) -> Response:
        answer = pages.entered_page()
        answer.set_cookie(
            entry.cookie_name,
            entry.cookie_for(visitor),
            max_age=int(COOKIE_S),
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

    @app.get("/", **page)
    def gallery(request: Request) -> HTMLResponse:
        return pages.gallery_page(notebooks, who=request.state.visitor.name)

    @app.get("/login", **page)
    def by_link(ticket: str = "") -> Response:
        try:
            return signed_in(entry.by_ticket(ticket)) if ticket else pages.login_page()
        except Unauthorised as error:
            return pages.login_page(error.message)

    @app.post("/login", **page)
    async def by_token(request: Request) -> Response:
        given = (await pages.form_of(request)).get("token", "")
        try:
            return signed_in(await run_in_threadpool(entry.by_token, given.strip()))
        except Unauthorised as error:
            return pages.login_page(error.message)

    @app.post("/logout", **page)
    def out() -> Response:
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(entry.cookie_name)
        return answer

    @app.get("/skill.md", **page)
    def skill_page() -> Response:
        return Response(skill(), media_type="text/markdown; charset=utf-8")

    @app.get("/health", **page)
    def health() -> dict[str, str]:
        return {"status": "healthy"}
