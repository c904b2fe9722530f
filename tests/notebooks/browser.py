"""Notebooks in a real browser: a server of its own on a free loopback port, and Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PATIENCE_MS = 60_000
SERVE = [sys.executable, "-m", "patron_core.commands", "serve"]
MARKS = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (package: chromium)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own pipes
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A page of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1250, "height": 1400})
        browser.close()


def start(env: dict[str, str], *more: str) -> tuple[subprocess.Popen[str], str]:
    """`patron serve` on a free port, and its link."""
    process = subprocess.Popen([*SERVE, "--port", "0", *more], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    link = next((line.strip() for line in process.stdout if "/login?ticket=" in line), "")
    assert link, process.wait(timeout=20)
    return process, link


@contextmanager
def served(what: Path) -> Iterator[str]:
    """`marimo run` of a notebook or of a folder of them; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), str(what)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    try:
        yield _up(server, f"http://127.0.0.1:{port}", what)
    finally:
        server.terminate()
        server.wait(timeout=20)


def _up(server: subprocess.Popen[bytes], address: str, what: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
            return address
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"marimo run {what.name} did not come up (exit code {server.poll()})")
