"""The way on: what a command says as a button, and the page that it leads to."""

from __future__ import annotations

import html
from urllib.parse import unquote_plus

import pytest

from patron_core.ui import onward

CODE = "patron dryrun --workload https://github.com/o/n@main --entry-point main --yes"
SERVED = {"file": "notebooks/2_dryrun.py"}  # as a folder's gallery


@pytest.mark.parametrize(
    ("command", "words", "query"),
    [
        ("patron launch --run r1 --yes", "Fund and launch", "file=notebooks/3_launch.py&run=r1"),
        ("patron dryrun --run r1 --yes", "Prove it", "file=notebooks/2_dryrun.py&run=r1"),
        (
            "patron dryrun --depth 2 --steps 100 --set a=1 --set b=2 --on sky --spot --yes",
            "Plan this",
            "file=notebooks/2_dryrun.py&depth=2&steps=100&set=a=1&set=b=2&on=sky&spot=true",
        ),
        ("patron compare --runs r1", "Compare", "file=notebooks/5_compare.py&runs=r1"),
        ("patron watch --run r1", "Watch it", "file=notebooks/4_watch.py&run=r1"),
        ("patron lab", "To the lab", "file=notebooks/0_lab.py"),
        (
            "patron lab --project 'a b' --deposit 5 --yes",
            "Put money in",
            "file=notebooks/0_lab.py&project=a b&deposit=5",
        ),
        (
            "patron journal --add 'd2 failed: it hung' --kind failed --run r1",
            "Write down that it failed",
            "file=notebooks/6_journal.py&add=d2 failed: it hung&kind=failed&run=r1",
        ),
    ],
)
def test_a_command_is_a_button_that_carries_what_it_names(command: str, words: str, query: str) -> None:
    shown = onward.buttons(SERVED, command)
    assert html.unescape(shown.split(">")[1].split("<")[0]) == words
    href = html.unescape(shown.split('href="')[1].split('"')[0])
    assert unquote_plus(href) == f"?{query}"
    assert "<code>" in shown


def test_what_has_no_page_is_a_command_alone() -> None:
    assert "<a" not in onward.buttons({}, "patron launch --run r1 --yes")  # served alone
    for command in ("gcloud auth login", "allow more money, or plan fewer runs", "patron settings", "patron", CODE):
        assert "<a" not in onward.buttons(SERVED, command)
    assert onward.buttons(SERVED, "", "patron lab", "patron lab").count("<a") == 1
