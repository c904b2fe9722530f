"""Foreign words come out as they are read, and as nothing else: in Markdown, in HTML and on a terminal."""

from __future__ import annotations

import html
import io
import re

import marimo as mo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patron_core.errors import Refused
from patron_core.ui import inert, show
from patron_core.ui.script import Arguments, Session

HOSTILE = (
    "<img src=x onerror=alert(1)> <iframe srcdoc='<script>1</script>'> [a](javascript:alert(1)) ![i](http://e/x.png) "
    "$x^2$ `c` **b** ::lucide:rocket:: https://evil.example/x www.evil.example a@evil.example &lt;b&gt; \\(x\\)"
    "\n# head\n    code\n```py\nx\n```\n1. one\n| a | b |\n|--|--|\n[^1] --- {: .x} </code></span>"
)
TAG = re.compile(r"<(/?[a-z0-9-]+)")


def tags(page: str) -> set[str]:
    return {name.lstrip("/") for name in TAG.findall(page)}


def words_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


@given(st.one_of(st.text(), st.sampled_from([HOSTILE]), st.text("<>&`*_[]()!#-+.|~^=:$\\/@{}'\"0a \n", max_size=40)))
@settings(max_examples=150, deadline=None)
def test_markdown_shows_any_word_as_it_is_and_makes_nothing_of_it(word: str) -> None:
    page = mo.md(inert.md("## {}\n\nsee {}", word, inert.code(word))).text
    assert tags(page) <= {"span", "h2", "code"}
    seen = " ".join(inert.terminal(word).split())
    assert words_of(page) == " ".join(f"{seen} see {seen}".split())


def test_a_note_is_rendered_and_its_tags_pictures_and_links_stay_words() -> None:
    page = inert.rendered("# Seen\n\n- **two**: `x<y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert tags(page) == {"h1", "ul", "li", "strong", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert "x&lt;y" in page
    hostile = inert.rendered(f"{HOSTILE}\n\n[x]: javascript:alert(1)\n\n[x] \u202e **b**")
    assert not tags(hostile) & {"a", "img", "iframe", "script", "svg"}
    assert "\u202e" not in hostile
    assert "[a](javascript:alert(1))" in words_of(hostile)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_html_shows_any_word_as_it_is(word: str) -> None:
    page = inert.html("<b title='{}'>{}</b>", word, word)
    assert tags(page) == {"b"}
    assert html.unescape(page.removesuffix("</b>").rpartition(">")[2]) == inert.terminal(word)


def test_a_word_at_the_start_of_a_line_begins_no_block() -> None:
    for word in ("# head", "- item", "1. item", "> quote", "    code", "---", "===", "| a |", "/// note"):
        page = mo.md(inert.md("{}\n\n{}", word, inert.paragraphs(["a", word]))).text
        assert tags(page) == {"span"}, (word, page)


def test_what_was_made_inert_is_not_encoded_twice() -> None:
    assert inert.md("{}", inert.md("*{}*", "a*b")) == "*a&#42;b*"
    assert inert.html("{}", inert.html("<b>{}</b>", "<")) == "<b>&lt;</b>"
    assert inert.html("{}", inert.md("*{}*", "<b>")) == "*&amp;#60;b&amp;#62;*"  # of the other kind: foreign


def test_marimo_gets_plain_strings() -> None:
    """A kind of str reaches the browser as an empty object: the page says that something went wrong."""
    assert type(mo.md(inert.md("{}", "a")).text) is str
    columns = [show.Column("name", str)]
    tables = (show.html_table(["a"], columns), show.html_table([], columns), show.facts_table([("a", "b")]))
    assert {type(made) for made in (*tables, inert.page(inert.html("a")))} == {str}


def test_a_page_points_only_at_pages_of_ours() -> None:
    for href in (
        "javascript:alert(1)",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "data:text/html,x",
    ):
        with pytest.raises(ValueError, match="of this server"):
            inert.link("watch", href)
        with pytest.raises(ValueError, match="of this server"):
            show.html_table([href], [show.Column("run", lambda row: show.Mark("watch", href=row))])
    assert 'href="?run=a&quot;b"' in inert.link("watch", '?run=a"b')
    assert 'href="/watch/?run=a"' in inert.link("watch", "/watch/?run=a")


def test_a_word_of_a_million_signs_is_cut_and_says_so() -> None:
    assert len(inert.md("{}", "a" * 10**6)) == inert.MAX_CHARS
    assert inert.md("{}", "a" * 10**6).endswith("…")


@pytest.mark.parametrize(
    "sign",
    ["\x1b", "\x07", "\x9b", "\x00", "\r", "\x08", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\x7f"],
    ids=ascii,
)
def test_a_terminal_gets_nothing_that_it_obeys(sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    session = Session(Arguments(), is_script=True, out=out)
    session.emit({}, f"a{sign}b\tc\nd")
    session.say(f"a{sign}b")
    session.status(f"a{sign}b")
    with pytest.raises(SystemExit):
        session.fail(Refused(f"a{sign}b", next=f"do{sign}it"))
    with pytest.raises(SystemExit):
        session.call(_fail, sign)
    table = show.text_table([f"a{sign}b\nc"], [show.Column("name", str, "left")])
    said = out.getvalue() + capsys.readouterr().err + table
    assert sign not in said
    assert out.getvalue() == "a\ufffdb\tc\nd\n"
    assert "a\ufffdb⏎c" in table


def _fail(sign: str) -> None:
    raise RuntimeError(f"a{sign}b")
