"""The server's own pages: the gallery, signing in. Its lists are in lists.py, the bar above all in bar.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse

from patron_core.server import switch
from patron_core.ui import inert, theme
from patron_core.ui.commands import name_of

_STYLE = (
    theme.css()
    + """
* { box-sizing: border-box }
body { margin: 0; background: var(--p-paper); color: var(--p-ink); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem }
h1 { font-size: 1.75rem; margin: 0 0 .25rem } h2 { font-size: 1.05rem; margin: 0 0 .35rem }
p { margin: 0 0 1rem; color: var(--p-quiet) } a { color: var(--p-accent) }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); margin: 1.5rem 0 2rem }
.card { display: block; padding: 1.1rem 1.2rem; border: 1px solid var(--p-line); border-radius: .6rem;
  background: var(--p-card); color: inherit; text-decoration: none }
.card:hover { border-color: var(--p-accent) }
:focus-visible { outline: 2px solid var(--p-accent); outline-offset: 2px }
.card p { margin: 0; font-size: .92rem } .step { color: var(--p-accent); font-size: .8rem; letter-spacing: .04em }
input, button, select { font: inherit; padding: .55rem .8rem; border: 1px solid var(--p-line); border-radius: .4rem;
  background: var(--p-card); color: inherit } button { cursor: pointer } form { display: flex; gap: .6rem }
.patron-look { float: right; font-size: .85rem; padding: .25rem .5rem }
table { border-collapse: collapse; font-size: .88rem; width: 100% }
td, th { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--p-line); vertical-align: top }
"""
)


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """A notebook of the lab, by what it says of itself."""

    file: Path
    path: str  # where it is served: /watch
    title: str  # Watch
    purpose: str  # the rest of its first line


def _word(text: str) -> str:
    return str(inert.html("{}", text))


def notebooks_in(folder: Path) -> list[Notebook]:
    """In the order of the loop: the numbered ones, then the others."""
    files = sorted(folder.glob("*.py"), key=lambda file: (not file.stem[0].isdigit(), file.stem))
    return [_described(file) for file in files if not file.stem.startswith("_")]


def _described(file: Path) -> Notebook:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem
    title, _, purpose = said.partition("\n")[0].partition(": ")
    return Notebook(
        file=file,
        path=f"/{name_of(file)}",
        title=name_of(file).replace("_", " ").capitalize(),
        purpose=purpose or title,
    )


def gallery_page(found: Sequence[Notebook], *, who: str) -> HTMLResponse:
    cards = "".join(
        f'<a class="card" href="{note.path}/"><span class="step">{_step(note)}</span>'
        f"<h2>{_word(note.title)}</h2><p>{_word(_sentence(note.purpose))}</p></a>"
        for note in found
    )
    return page(
        "Patron",
        f"<h1>Patron</h1><p>Estimate, prove, fund, launch, watch, compare, note. You are {inert.html('{}', who)}.</p>"
        f'<div class="cards">{cards}</div>'
        '<p>For programs: <a href="/skill.md">skill.md</a>, <a href="/api/openapi.json">the API</a>. '
        '<a href="/alerts">Alerts</a>. <a href="/feedback">Feedback</a>. <a href="/audit">Who changed what</a>.</p>'
        '<form method="post" action="/logout"><button>Sign out</button></form>',
    )


def login_page(problem: str = "") -> HTMLResponse:
    said = f"<p>{_word(problem)}.</p>" if problem else ""
    return page(
        "Patron: sign in",
        f"<h1>Sign in</h1>{said}<p>Open the link that <code>patron serve</code> printed, or give a token.</p>"
        '<form method="post" action="/login"><input type="password" name="token" aria-label="Token" autofocus '
        'autocomplete="off" required size="48"><button>Sign in</button></form>',
        status=401 if problem else 200,
    )


def entered_page() -> HTMLResponse:
    """Goes on by itself. Not a redirect: after a link from elsewhere a browser would keep the strict cookie back."""
    return page(
        "Patron", '<h1>Signed in</h1><p><a href="/">Go on</a></p>', head='<meta http-equiv="refresh" content="0;url=/">'
    )


def _step(note: Notebook) -> str:
    number = re.match(r"\d+", note.file.stem)
    return f"step {number[0]}" if number and number[0] != "0" else "start here" if number else "all at once"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


async def form_of(request: Request) -> dict[str, str]:
    """What was posted by a form, by field."""
    return {name: values[0] for name, values in parse_qs((await request.body()).decode("utf-8", "replace")).items()}


def page(title: str, body: str, *, head: str = "", status: int = 200) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width">{head}<style>{_STYLE}</style>{switch.ALONE}'
        f"<main>{body}</main></html>",
        status_code=status,
        headers={
            "cache-control": "no-store",
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
            f"script-src {switch.ALONE_SOURCE}",
        },
    )
