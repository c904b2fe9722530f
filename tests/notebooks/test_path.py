"""The whole path without a shell, pressed in a real browser on a tiny local run: estimate, dryrun, launch, watch,
compare, journal; with double clicks, a reload in the middle, and a second person at the same run."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, notes, runs

pytestmark = MARKS
LONG_MS = 4 * PATIENCE_MS  # a burst, or a training, on a machine that others use too
TINY = {
    "depths": 1, "devices": "local", "steps": 24, "vocab_size": 512, "sequence_len": 64, "batch_tokens": 256,
    "eval_every": 8, "eval_tokens": 512, "tokenizer_chars": 20_000,
}  # fmt: skip


@pytest.fixture
def page() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def corpus(folder: Path) -> Path:
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 7))) for _ in range(200)]
    file = folder / "text.txt"
    file.write_text("\n".join(" ".join(chance.choices(words, k=12)) for _ in range(4000)))
    return file


def test_the_whole_path_is_pressed(page: Any, home: Path, tmp_path: Path) -> None:
    with served(labs.NOTEBOOKS[0].parent) as address:
        asked = {"file": "1_estimate.py", **TINY, "data": f"path:{corpus(tmp_path)}"}
        page.goto(f"{address}/?{urlencode(asked)}")
        page.get_by_role("link", name="Plan this").click(timeout=PATIENCE_MS)
        deposit = page.get_by_role("textbox", name="Deposit first")
        deposit.fill("0.5", timeout=PATIENCE_MS)
        page.get_by_role("button", name="Dryrun now").dblclick()  # typing is followed at once by a press
        page.wait_for_url(re.compile("press="), timeout=PATIENCE_MS)
        page.reload()
        page.get_by_text("A short burst is proving").wait_for(timeout=LONG_MS)
        run_id = re.search(r"run=(\w+)", page.url)[1]
        page.get_by_role("link", name="Fund and launch").wait_for(timeout=LONG_MS)
        page.get_by_role("link", name="Plan another like it").wait_for()

        early = page.context.new_page()  # opened before the run starts
        early.goto(f"{address}/?file=4_watch.py&run={run_id}")
        early.get_by_text("waiting for money").first.wait_for(timeout=PATIENCE_MS)

        page.get_by_role("link", name="Fund and launch").click()
        page.get_by_role("textbox", name="Hold, $").fill("0.4", timeout=PATIENCE_MS)
        page.get_by_role("button", name="Hold the money and launch").dblclick()
        page.get_by_role("link", name="Watch it").click(timeout=LONG_MS)

        early.get_by_text("Finished.").wait_for(timeout=LONG_MS)
        early.locator(".vega-embed canvas, .vega-embed svg, canvas").first.wait_for(timeout=PATIENCE_MS)

        text = page.get_by_placeholder("What do you see?")
        text.press_sequentially("It learns: **down** to the end", timeout=PATIENCE_MS)
        page.get_by_role("button", name="Keep note").dblclick()
        page.locator("strong", has_text="down").wait_for(timeout=PATIENCE_MS)
        assert text.input_value() == ""
        text.press_sequentially("half a thou", timeout=PATIENCE_MS)
        page.reload()
        page.wait_for_function(
            "() => [...document.querySelectorAll('textarea')].some((field) => field.value === 'half a thou')"
        )
        page.get_by_role("link", name="Compare").first.click(timeout=LONG_MS)
        page.get_by_role("link", name="Write it down").click(timeout=PATIENCE_MS)
        page.locator("strong", has_text="down").wait_for(timeout=PATIENCE_MS)

    store = Store.open()
    run = runs.get_run(store, run_id)
    assert run.state is RunState.SUCCEEDED
    assert [a.kind for a in attempts.for_run(store, run_id)] == ["dryrun", "train"]
    held = [line.usd_micros for line in ledger.statement(store, "lab") if line.kind == "hold"]
    assert (len(held), held[0]) == (2, 400_000)
    assert [line.usd_micros for line in ledger.statement(store, "lab") if line.kind == "deposit"] == [500_000]
    assert [note.body for note in notes.list_notes(store, run_id=run_id)] == ["It learns: **down** to the end"]
    store.close()
