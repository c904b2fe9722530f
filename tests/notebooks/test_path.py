"""The path from a proven run to a merged note, pressed in a real browser: typing followed at once by double clicks, a
reload with a draft in the field, a second writer, an address of no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import labs
import pytest
from browser import MARKS, PATIENCE_MS, chromium, served

from patron_core import verbs
from patron_core.store import Run, Store, attempts, ledger, notes

pytestmark = [*MARKS, pytest.mark.timeout(600)]
WRITTEN = "It learns: **down** to the end"


def field_is(page: Any, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.get_by_placeholder("What do you see?")).to_have_value(text, timeout=PATIENCE_MS)


def test_from_a_proven_run_to_a_merged_note(runs: dict[str, Run], store: Store, tmp_path: Path) -> None:
    run = labs.proven(store, depth=2, name="d2-pressed", at=labs.START + 9000)
    labs.prove_here(store, run)
    with served(labs.NOTEBOOKS[0].parent) as address, chromium() as page:
        page.goto(f"{address}/?file=3_launch.py&run={run.id}")
        page.get_by_role("button", name="Hold the money and launch").wait_for(timeout=PATIENCE_MS)
        page.get_by_role("textbox", name="Hold, $").press_sequentially("0.4")
        page.get_by_role("button", name="Hold the money and launch").dblclick()
        page.get_by_role("link", name="Watch it").click(timeout=PATIENCE_MS)
        held = [e.usd_micros for e in ledger.statement(store, "lab") if (e.run_id, e.kind) == (run.id, "hold")]
        assert sorted(held)[1:] == [400_000]  # beside the dryrun's
        assert [a.kind for a in attempts.for_run(store, run.id)] == ["dryrun", "train"]

        text = page.get_by_placeholder("What do you see?")
        text.press_sequentially(WRITTEN, timeout=PATIENCE_MS)
        page.get_by_role("button", name="Keep note").dblclick()
        page.locator("strong", has_text="down").wait_for(timeout=PATIENCE_MS)
        (note,) = notes.list_notes(store, run_id=run.id)
        assert note.body == WRITTEN
        field_is(page, "")
        text.press_sequentially("half a thou")
        page.wait_for_timeout(1000)  # each keystroke is on its way
        page.reload()
        field_is(page, "half a thou")

        page.goto(f"{address}/?file=6_journal.py&run={run.id}")
        page.get_by_role("combobox", name="Open").select_option(index=1, timeout=PATIENCE_MS)
        field_is(page, WRITTEN)
        verbs.write_note(store, project="lab", note_id=note.id, body="theirs", actor="grace")
        page.get_by_placeholder("What do you see?").fill("mine, merged")
        page.get_by_role("button", name="Save").dblclick()
        page.get_by_text("Saved meanwhile").wait_for(timeout=PATIENCE_MS)
        assert verbs.read_note(store, note.id).body == "theirs"
        page.get_by_role("button", name="Both are in it").click()
        page.get_by_text("Saved as revision 3").wait_for(timeout=PATIENCE_MS)
        assert verbs.read_note(store, note.id).body == "mine, merged"

        page.goto(f"{address}/?file=2_dryrun.py&run=nobody")
        page.get_by_text("there is no run").wait_for(timeout=PATIENCE_MS)
        page.get_by_role("link", name="To the lab").wait_for()
        page.get_by_role("button", name="Dryrun now").wait_for()
