"""The reference page is the code's own words, and its cheat sheet runs."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from patron_core.commands import reference
from patron_core.commands.reference import CHEAT_SHEET, markdown, members

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "notebooks" / "own" / "lr_study.py"


def test_the_page_is_that_of_the_code() -> None:
    """`patron reference --markdown > notebooks/REFERENCE.md` writes it anew."""
    assert (ROOT / "notebooks" / "REFERENCE.md").read_text(encoding="utf-8").rstrip() == markdown()


def test_everything_public_says_what_it_is() -> None:
    silent = [name for name, member in members() if not inspect.getdoc(member)]
    assert silent == []
    assert {"patron_core.open", "Lab.metrics", "SweepHandle.wait", "Comparison.sentence"} <= set(dict(members()))


def test_it_is_printed_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--markdown"]) == 0
    assert capsys.readouterr().out.rstrip() == markdown()
    assert reference.main(["--json"]) == 0
    assert '"Lab.note": "Into the journal' in capsys.readouterr().out


def calls(source: str) -> set[tuple[str, str]]:
    """(object.method, argument by name) of every call; a call without such arguments has one with no name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            found |= {(name, keyword.arg or "") for keyword in node.keywords} or {(name, "")}
    return found


def test_the_lines_of_the_cheat_sheet_that_spend_are_those_of_the_study() -> None:
    """The study is run by tests/notebooks/test_own.py, and so are the lines that only look."""
    assert len(CHEAT_SHEET.splitlines()) <= 60
    spends = CHEAT_SHEET[CHEAT_SHEET.index("sweep = ") :]
    assert calls(spends) - {("lab.close", "")} <= calls(STUDY.read_text(encoding="utf-8"))
