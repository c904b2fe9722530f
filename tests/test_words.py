"""Words are words: no page is built from a foreign string but through `patron_core.ui.inert`. Read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "notebooks").glob("*.py"), *(ROOT / "patron_core" / "ui").rglob("*.py")])
MAKERS = {
    "md", "html", "code", "bullets", "paragraphs", "link", "error", "joined", "button", "page", "address", "terminal",
    "vega", "rendered",
}  # fmt: skip
TEMPLATES = {"md", "html"}  # their first argument is a literal
INERT_TABLES = {"inert_frame"}  # marimo's own table takes these: words without addresses, drawn as inert HTML
HTML_MAKERS = {  # made by inert.html
    "show.html_table", "show.facts_table", "price_view.price_table", "notes.note_cards", "notes.threads",
    "notes.revisions",
}  # fmt: skip
RENDERED = {"mo.md", "mo.Html", "mo.plain_text", "mo.callout"}  # what they are given is obeyed
LABELS = {"label", "placeholder", "submit_button_label", "clear_button_label", "tooltip"}  # mo.stat shows text
FORBIDDEN = {
    "mo.ui.table": "it fetches pictures that a cell names; use show.html_table, or run_table.element",
    "mo.iframe": "it runs what it is given",
    "mo.image": "it fetches",
    "mo.as_html": "it obeys strings of rich objects",
    "mo.ui.anywidget": "it runs scripts",
    "mo.ui.dataframe": "it fetches pictures that a cell names",
    "mo.ui.data_explorer": "it fetches pictures that a cell names",
}


def name_of(node: ast.expr) -> str:
    """`mo.ui.table` of its node; empty for what is no dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    inner = name_of(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


def is_inert(node: ast.expr) -> bool:
    """A literal, or what a maker of inert words returns; of a choice, each side."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.IfExp):
        return is_inert(node.body) and is_inert(node.orelse)
    if isinstance(node, ast.BoolOp):
        return all(map(is_inert, node.values))
    if not isinstance(node, ast.Call):
        return False
    called = name_of(node.func)
    if called.startswith("inert."):
        return called.removeprefix("inert.") in MAKERS
    of_method = isinstance(node.func, ast.Attribute) and node.func.attr == "error_markdown"
    return called in HTML_MAKERS or called in RENDERED or of_method


def is_inert_table(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) in INERT_TABLES


def faults(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "mo.ui.table"]
    allowed = {id(call.func) for call in calls if call.args and is_inert_table(call.args[0])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and name_of(node) in FORBIDDEN and id(node) not in allowed:
            yield f"line {node.lineno}: {name_of(node)}: {FORBIDDEN[name_of(node)]}"
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        yield from (f"line {node.lineno}: {called}: {what}" for what in call_faults(called, node))


def call_faults(called: str, node: ast.Call) -> Iterator[str]:
    first = node.args[0] if node.args else None
    if (
        called.startswith("inert.")
        and called.removeprefix("inert.") in TEMPLATES
        and not isinstance(first, ast.Constant)
    ):
        yield "the template is no literal"
    if called in {"inert.Markdown", "inert.Html", "Markdown", "Html"}:
        yield "only patron_core/ui/inert.py calls words inert"
    if called in RENDERED and (first is None or not is_inert(first)):
        yield f"rendered without inert: {ast.unparse(first) if first else 'nothing'}"
    if called == "mo.Html" and isinstance(first, ast.Call) and name_of(first.func) in {"inert.html", "inert.joined"}:
        yield "marimo sends it as an empty object; use inert.page"
    if not called.startswith("mo."):
        return
    for keyword in node.keywords:
        if called != "mo.stat" and keyword.arg in LABELS and not is_inert(keyword.value):
            yield f"{keyword.arg} without inert: {ast.unparse(keyword.value)}"
    for argument in node.args:
        if isinstance(argument, ast.JoinedStr):
            yield f"a bare f-string: {ast.unparse(argument)}"
        if called == "mo.accordion" and isinstance(argument, ast.Dict | ast.DictComp):
            keys = argument.keys if isinstance(argument, ast.Dict) else [argument.key]
            yield from (f"a heading without inert: {ast.unparse(key)}" for key in keys if key and not is_inert(key))
        if called in {"mo.vstack", "mo.hstack"} and isinstance(argument, ast.List):
            strings = (ast.JoinedStr, ast.BinOp)
            yield from (f"a string: {ast.unparse(item)}" for item in argument.elts if isinstance(item, strings))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_page_is_built_from_a_bare_string(path: Path) -> None:
    if path.name != "inert.py":
        assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        'mo.Html(inert.html("<b>{}</b>", run.name))',
        'mo.md(f"## {run.name}")',
        'mo.md("## " + run.name)',
        'mo.md("## {}".format(run.name))',
        "mo.md(run.name)",
        'mo.md(run.name if run else "")',
        'mo.md(inert.md(f"## {run.name}"))',
        'mo.md(inert.md("## " + run.name))',
        "mo.md(inert.Markdown(run.name))",
        'mo.Html("<b>%s</b>" % run.name)',
        'mo.ui.button(label=f"Launch {run.name}")',
        "mo.ui.button(label=run.name)",
        'mo.accordion({run.name: mo.md("x")})',
        'mo.accordion({run.name: mo.md("x") for run in runs})',
        "mo.ui.table(frame)",
        "mo.callout(run.name)",
        'mo.vstack([f"{run.name}"])',
        "mo.plain_text(tail)",
    ],
)
def test_what_obeys_a_foreign_word_is_found(source: str) -> None:
    assert list(faults(source))


SAYS = {"json.dumps", "to_json", "printable", "inert.terminal"}  # what a terminal obeys is no part of these


def raw_prints(source: str) -> Iterator[str]:
    """Prints and writes of more than a literal to a stream of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and name_of(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}:
            for said in node.args:
                is_said = isinstance(said, ast.Call) and name_of(said.func) in SAYS
                if not isinstance(said, ast.Constant) and not is_said:
                    yield f"line {node.lineno}: {ast.unparse(said)}"


CHECKED = {  # lines that are checked where they are made, numbers of ours, and paths of this checkout
    "patron_core/ui/script.py": 3,
    "patron_core/executors/staging.py": 1,
    "patron_core/lifecycle/supervisor.py": 1,
}


def test_a_terminal_gets_no_control_characters() -> None:
    found = {}
    for path in [*(ROOT / "patron_core").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        if "examples" in path.parts:  # it runs as code of others does: what it prints is made printable
            continue
        if raw := list(raw_prints(path.read_text(encoding="utf-8"))):
            found[path.relative_to(ROOT).as_posix()] = raw
    assert {name: len(raw) for name, raw in found.items()} == CHECKED, found


def test_text_reaches_html_only_in_one_file() -> None:
    """Whoever encodes by himself forgets something."""
    for path in sorted((ROOT / "patron_core").rglob("*.py")):
        if path.name != "inert.py":
            assert not any(
                isinstance(node, ast.Import) and any(alias.name == "html" for alias in node.names)
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            ), path
