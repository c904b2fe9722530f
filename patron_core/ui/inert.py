"""Foreign words, inert: names, notes, reasons, advice, paths, actors, metric names and logs are shown, never obeyed.

The only way into `mo.md`, `mo.Html`, labels, tables and charts. A template is a literal of ours; what is put into it
comes from outside and is encoded, unless this module made it:

    mo.md(inert.md("## {}\\n\\n{}", run.name, seen.sentence))
    mo.Html(inert.page(inert.html("<b>{}</b>", run.name)))

`tests/test_words.py` reads the source and refuses every other way. Pure.
"""

from __future__ import annotations

import functools
import html as _html
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainer.contract.masking import mask
from trainer.contract.words import printable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_CHARS = 4000  # of one foreign value in a page: longer ones are cut, and the cut is seen
_MAX_CHARS_CHART = 120
_MAX_CHARS_TEXT = 200_000  # of a text that is shown as Markdown
_NO_MARKDOWN = ["image", "link", "autolink", "reference", "html_block", "html_inline"]  # they fetch, lead away, or run
_BUTTON = (
    "display:inline-block;padding:.4rem .9rem;margin-right:.7rem;border-radius:.4rem;background:#1f5fa8;color:#fff;"
    "text-decoration:none;font-weight:600"
)
_PLAIN = frozenset(",-")  # mean nothing within a line
_ENTITIES = {sign: f"&#{sign};" for sign in range(0x21, 0x7F) if not chr(sign).isalnum() and chr(sign) not in _PLAIN}


class Html(str):
    """HTML that this module made."""


class Markdown(str):
    """Markdown that this module made."""


def md(template: str, *values: object, **named: object) -> Markdown:
    """Markdown from a literal of ours, with words that begin no tag, link, heading, formula, icon or list."""
    return Markdown(template.format(*map(_md, values), **{name: _md(value) for name, value in named.items()}))


def code(value: object) -> Markdown:
    """A command, an id or a path, in Markdown, as it is to be typed."""
    return Markdown(f"<code>{_md(value)}</code>")


def bullets(values: Iterable[object], *, mark: str = "-") -> Markdown:
    """A list in Markdown, one line a value; `mark` is a literal of ours: "-" or "1."."""
    return Markdown("\n".join(f"{mark} {_md(value)}" for value in values))


def paragraphs(values: Iterable[object]) -> Markdown:
    return Markdown("\n\n".join(map(_md, values)))


def error(shape: Mapping[str, Any], way_on: Markdown | None = None) -> Markdown:
    """The `error` of an error's one shape: what happened, and what to do; or in its place another way on."""
    problems = shape.get("problems") or [shape.get("message")]
    title = str(shape.get("code", "error")).replace("_", " ").capitalize()
    said = bullets(problems) if len(problems) > 1 else paragraphs(problems)
    return md("**{}**\n\n{}\n\n{}", title, said, way_on or md("Next: {}", code(shape.get("next"))))


def link(words: object, href: str | None) -> Markdown:
    """A link in Markdown to an address of our own making. Without one, the words."""
    return (
        Markdown(_md(words)) if href is None else Markdown(f'<a href="{address(href)}" target="_self">{_md(words)}</a>')
    )


def button(words: object, href: str) -> Markdown:
    """A link in Markdown that looks as a button, to another of our pages."""
    return Markdown(f'<a class="patron-next" style="{_BUTTON}" href="{address(href)}" target="_self">{_md(words)}</a>')


def html(template: str, *values: object, **named: object) -> Html:
    """HTML from a literal of ours, with words that begin no tag and end no attribute."""
    return Html(template.format(*map(_as_html, values), **{name: _as_html(value) for name, value in named.items()}))


def joined(parts: Iterable[Html]) -> Html:
    """Pieces of HTML, one after the other; what this module did not make is encoded."""
    return Html("".join(map(_as_html, parts)))


def rendered(text: str) -> Html:
    """Somebody's Markdown as HTML: headings, lists, tables, emphasis and code. Tags, pictures and links stay words."""
    lines = (printable(line) for line in _cut(text, _MAX_CHARS_TEXT).splitlines())
    return Html(_renderer().render("\n".join(lines)))


@functools.cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(_NO_MARKDOWN)


def address(href: str) -> Html:
    """The address of another of our pages, for an attribute: a path, a query or a fragment, so that it never leaves."""
    if not href.startswith(("?", "#", "/")) or href.startswith(("//", "/\\")):
        raise ValueError(f"{href!r} is no path, query or fragment of this server")
    return Html(_html.escape(printable(href, keep=""), quote=True))


def page(made: Html) -> str:
    """HTML of this module as the plain string that `mo.Html` takes: marimo sends a kind of str as an empty object."""
    return str(made)


def terminal(text: str) -> str:
    """Text for a terminal: lines and tabs stay, whatever moves a cursor or hides a word is shown as U+FFFD.

    Secrets are masked: a library's error may quote a URL, and a workload its environment.
    """
    return mask(printable(text))


def vega(value: object) -> str:
    """A word in a chart: one line, cut."""
    return _cut(printable(str(value), keep=""), _MAX_CHARS_CHART)


def _md(value: object) -> str:
    if isinstance(value, Markdown):
        return value
    # a line end could begin a block, and an escape could end one: one line, each sign as its number
    line = " ".join(printable(_cut(str(value), MAX_CHARS)).split())
    first, rest = (f"&#{ord('-')};", line[1:]) if line.startswith("-") else ("", line)
    return first + rest.translate(_ENTITIES)


def _as_html(value: object) -> str:
    return value if isinstance(value, Html) else _html.escape(printable(_cut(str(value), MAX_CHARS)), quote=True)


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"
