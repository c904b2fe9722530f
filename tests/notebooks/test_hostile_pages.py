"""Hostile words in every field that a person, an agent or a bucket can fill: pages show them, and nothing else."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core.store import Run

pytestmark = MARKS

# each runs, or fetches, where it is obeyed: by HTML, by Markdown, by a table that shows pictures, by a formula
ATTACK = (
    "<img src=http://evil.invalid/a.png onerror=window.ran=1><iframe srcdoc='<script>top.ran=1</script>'></iframe>"
    "<script>window.ran=1</script><svg onload=window.ran=1> ![p](http://evil.invalid/b.png) `c` **b** $x$ "
    "::lucide:rocket:: [l](javascript:window.ran=1) \u202e\x1b[2J"
)
PICTURE = "http://evil.invalid/c.png"


def hostile(field: str) -> str:
    return f"{field}-{ATTACK}"


def poison(home: Path, runs: dict[str, Run], folder: Path) -> None:
    """Past every check of the store: an older Patron, another program, a bucket, a hand in the database."""
    database = sqlite3.connect(home / "patron.db")
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute("UPDATE runs SET name = ? || substr(id, -3), detail = ?", (hostile("name"), hostile("detail")))
    database.execute("UPDATE runs SET actor = ?, run_dir = ?", (hostile("owner"), str(folder)))
    database.execute("UPDATE run_events SET actor = ?", (hostile("actor"),))
    database.execute("UPDATE run_events SET detail = ?", (json.dumps({"detail": hostile("history")}),))
    database.execute("UPDATE transfers SET actor = ?, memo = ?", (hostile("payer"), hostile("memo")))
    database.execute("UPDATE notes SET title = ?, body = ?, actor = ?", (hostile("title"), PICTURE, hostile("author")))
    database.execute("UPDATE notes SET kind = ? WHERE kind = 'failed'", (PICTURE,))
    evidence = {
        "error": hostile("error"),
        "sky_status": hostile("sky"),
        "zone": hostile("zone"),
        "last_word": {"memory": {"device_batch_size": 32, "fitting_device_batch_size": hostile("advice")}},
    }
    database.execute("UPDATE attempts SET evidence = ?, reason = 'cuda_oom'", (json.dumps(evidence),))
    for run in runs.values():
        spec = run.spec | {"data": f"path:/{hostile('corpus')}"}
        database.execute("UPDATE runs SET spec = ? WHERE id = ?", (json.dumps(spec), run.id))
        if run.dryrun:
            dryrun = run.dryrun | {"rehearsal": {hostile("key"): hostile("rehearsed")}}
            database.execute("UPDATE runs SET dryrun = ? WHERE id = ?", (json.dumps(dryrun), run.id))
    database.execute("UPDATE runs SET project = ? WHERE id = ?", (hostile("project"), runs["draft"].id))
    database.execute("UPDATE searches SET question = ?, key = ?", (json.dumps({"x": PICTURE}), hostile("search")))
    database.commit()
    database.close()


def poison_events(run: Run, folder: Path) -> None:
    (folder / "events").mkdir(parents=True)
    (folder / "logs").mkdir()
    attempt = f"{run.id}-train-2"
    lines = [
        {"kind": "start", "num_steps": 400},
        {"kind": "metrics", "step": 5, "metrics": {"train/loss": 2.0, "train/step_s": 0.2, hostile("metric"): 1.0}},
        {"kind": "eval", "step": 6, "val_bpb": 1.9, "val_loss": 3.0},
        {"kind": "warning", "message": hostile("warning")},
        {"kind": "sample", "step": 6, "prompts": [hostile("prompt")], "texts": [PICTURE], "ends": [hostile("end")]},
        {"kind": "phase", "name": hostile("phase")},
    ]
    shared = {"attempt": attempt, "time": labs.START, "step": None}
    text = "".join(json.dumps(shared | {"seq": seq} | line) + "\n" for seq, line in enumerate(lines))
    (folder / "events" / f"{attempt}-000000.jsonl").write_text(text)
    (folder / "logs" / f"{attempt}.log").write_text(f"{hostile('log')}\n{PICTURE}\n")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


PAGES: dict[str, tuple[str, set[str]]] = {  # page: the run in its address, and the fields that must be read there
    "0_lab": ("", {"name", "payer"}),
    "1_estimate": ("", set()),
    "2_dryrun": ("proven", {"name", "error", "key", "rehearsed"}),
    "3_launch": ("proven", {"name"}),
    "4_watch": ("running", {"name", "error", "sky", "advice", "warning", "prompt", "end", "log", "actor", "history"}),
    "5_compare": ("", {"name", "corpus"}),
    "6_journal": ("", {"title", "author"}),
    "7_forecasts": ("", {"name", "corpus"}),
    "search": ("", set()),
    "sweep": ("", set()),
}


def test_every_page_shows_hostile_words_runs_nothing_and_fetches_nothing(
    page: Any, home: Path, runs: dict[str, Run], tmp_path: Path
) -> None:
    poison(home, runs, tmp_path / "run")
    poison_events(runs["running"], tmp_path / "run")
    asked: list[str] = []
    found: dict[str, Any] = {}
    page.on("request", lambda request: asked.append(request.url))
    with served(labs.NOTEBOOKS[0].parent) as address:
        for name, (run, fields) in PAGES.items():
            query = dict.fromkeys(("project", "runs", "key"), hostile("query"))
            query |= {"run": runs[run].id if run else hostile("query")}
            page.goto(f"{address}/?{urlencode({'file': f'{name}.py', **query})}")
            seen = settled(page, fields)
            elsewhere = {url for url in asked if urlsplit(url).netloc not in ("", urlsplit(address).netloc)}
            faults = {
                "not read": missing(seen, fields),
                "hidden marks": set(seen) & {"\u202e", "\x1b"},
                "ran": page.evaluate("window.ran") or set(),
                "fetched": elsewhere,
                "not drawn": "Bad Data" in seen,  # what marimo shows where an element has an argument of a wrong type
                "tags": page.locator("iframe, img[src*=evil], svg[onload], a[href^=javascript]").count(),
            }
            found |= {name: (faults, seen)} if any(faults.values()) else {}
    assert not found


def settled(page: Any, fields: set[str]) -> str:
    """The text of a page once all of it is drawn, with its accordions open."""
    page.get_by_role("heading", level=1).first.wait_for(timeout=PATIENCE_MS)
    end = time.monotonic() + PATIENCE_MS / 1000
    while True:
        page.locator("marimo-accordion button[aria-expanded=false]").evaluate_all("all => all.map(one => one.click())")
        page.wait_for_timeout(500)
        seen = str(page.evaluate(_TEXT))
        if not missing(seen, fields) or time.monotonic() > end:
            return seen


def missing(seen: str, fields: set[str]) -> set[str]:
    return {field for field in fields if f"{field}-<img src=http" not in seen}


# the text of the page and of its shadow roots, with what fields hold
_TEXT = """() => {
    const read = (node) => {
        if (node.nodeType === Node.TEXT_NODE) return node.data;
        if (['SCRIPT', 'STYLE'].includes(node.nodeName)) return '';
        const held = 'value' in node && typeof node.value === 'string' ? node.value + ' ' : '';
        const inner = [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes];
        return held + inner.map(read).join('');
    };
    return read(document.body);
}"""
