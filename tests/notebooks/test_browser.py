"""Notebooks as apps in a real browser: what is drawn, and that a double click launches once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import labs
import pytest

from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger
from patron_core.store import runs as store_runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PATIENCE_MS = 60_000

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (package: chromium)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own pipes
]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1250, "height": 1400})
        browser.close()


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Serve a notebook on a free loopback port; gives its address."""
    servers: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> str:
        notebook = next(path for path in labs.NOTEBOOKS if path.stem == name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), str(notebook)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
        servers.append(server)
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while time.monotonic() < end and server.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                return address
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.1)
        raise RuntimeError(f"marimo run {notebook.name} did not come up (exit code {server.poll()})")

    yield start
    for server in servers:
        server.terminate()
        server.wait(timeout=20)


def test_estimate_draws_a_table_and_a_chart_and_follows_the_form(
    page: Any, serve: Callable[[str], str], home: Path
) -> None:
    page.goto(serve("1_estimate"))
    page.get_by_role("cell", name="over budget").wait_for(timeout=PATIENCE_MS)
    page.locator(".vega-embed canvas, .vega-embed svg").first.wait_for(timeout=PATIENCE_MS)
    budget = page.get_by_role("textbox", name="Budget, min")
    budget.fill("300")
    budget.press("Enter")
    page.get_by_role("cell", name="over budget").wait_for(state="detached", timeout=PATIENCE_MS)
    assert not (home / "patron.db").exists()


def test_a_double_click_holds_and_launches_once(
    page: Any, serve: Callable[[str], str], runs: dict[str, Run], store: Store, tmp_path: Path
) -> None:
    run = labs.proven(store, depth=2, name="d2-clicked", at=labs.START + 9000)
    labs.prove_here(store, run)
    page.goto(f"{serve('3_launch')}/?run={run.id}")
    button = page.get_by_role("button", name="and launch")
    button.wait_for(timeout=PATIENCE_MS)
    button.dblclick()
    page.get_by_text("is launching").wait_for(timeout=PATIENCE_MS)
    assert button.count() == 0
    assert [a.id for a in attempts.for_run(store, run.id) if a.kind == "train"] == [f"{run.id}-train-1"]
    holds = [line for line in ledger.statement(store, "lab") if line.run_id == run.id and line.kind == "hold"]
    assert len(holds) == 2  # the dryrun's, and one for training
    assert store_runs.get_run(store, run.id).state is RunState.LAUNCHING
