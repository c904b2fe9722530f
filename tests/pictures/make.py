"""Pictures of the README, from PATRON_HOME: `python tests/pictures/make.py` after a search; needs chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PICTURES = {"compare.png": ("5_compare.py", 1000), "estimate.png": ("1_estimate.py", 1000)}  # notebook, height


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("chromium is not installed (package: chromium)", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, (notebook, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": 1360, "height": height})
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), NOTEBOOKS / notebook]
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for(f"http://127.0.0.1:{port}/health")
                page.goto(f"http://127.0.0.1:{port}")
                page.wait_for_selector(".vega-embed canvas, .vega-embed svg", timeout=60_000)
                page.wait_for_timeout(2000)  # fonts and the last cells
                page.screenshot(path=HERE / name)
                print(f"{HERE / name}: {(HERE / name).stat().st_size} bytes")
            finally:
                server.terminate()
                server.wait()
        browser.close()
    return 0


def wait_for(address: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"{address} did not answer within {limit_s:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
