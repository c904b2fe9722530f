"""Pictures of the pages of `patron serve`, from PATRON_HOME; needs chromium.

python tests/pictures/make.py                  those of the README, after a search
python tests/pictures/make.py --reclaim RUN    reclaim.png, of a run that lost a machine, as tests/skylab plays it
python tests/pictures/make.py --all FOLDER     every page, 1280 and 1920 wide, in each theme, to be looked at
python tests/pictures/make.py --all FOLDER --only watch,lab --widths 1280 --themes dark
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from patron_core import verbs
from patron_core.ui import theme

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
README = {"compare": 1000, "estimate": 1000}  # page -> height
WORKING = ".mo-loading, [data-cell-role=output] [data-stale=true], marimo-progress"
OWN = ("alerts", "feedback", "audit")
NOTEBOOKS = (
    "lab",
    "estimate",
    "dryrun",
    "launch",
    "watch",
    "compare",
    "journal",
    "forecasts",
    "doctor",
    "search",
    "sweep",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    parser.add_argument("--reclaim", metavar="RUN")
    parser.add_argument("--only", default="", help="names that contain one of these words")
    parser.add_argument("--widths", default="1280,1920")
    parser.add_argument("--themes", default=",".join(theme.THEMES))
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("chromium is not installed (package: chromium)", file=sys.stderr)
        return 1
    with sync_playwright() as playwright, served() as link:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.goto(link)
        base = link.split("/login")[0]
        if args.reclaim:
            page.set_viewport_size({"width": 1000, "height": 1500})
            opened(page, f"{base}/watch/?run={args.reclaim}")
            save(page, HERE / "reclaim.png", clip=board(page))
        elif args.all is None:
            for name, height in README.items():
                page.set_viewport_size({"width": 1360, "height": height})
                opened(page, f"{base}/{name}/")
                save(page, HERE / f"{name}.png")
        else:
            args.all.mkdir(parents=True, exist_ok=True)
            wanted = {n: path for n, path in addresses().items() if any(word in n for word in args.only.split(","))}
            for width in map(int, args.widths.split(",")):
                for name, path in wanted.items():
                    page.set_viewport_size({"width": width, "height": 1000})
                    opened(page, base + path)
                    grow(page, width)
                    for look in args.themes.split(","):
                        page.locator(".patron-look").select_option(look)
                        page.wait_for_timeout(3000)  # charts are drawn anew
                        save(page, args.all / f"{name}-{width}-{look}.png")
        browser.close()
    return 0


def addresses() -> dict[str, str]:
    """Every page by a name: the watch page once for each state that a run is in."""
    store = verbs.open_lab(make=False)
    runs = [] if store is None else verbs.overview(store)
    found = {"gallery": "/", **{name: f"/{name}" for name in OWN}, **{name: f"/{name}/" for name in NOTEBOOKS}}
    by_state = {run.state.value: run for run in reversed(runs)}
    found |= {f"watch-{state}": f"/watch/?run={run.id}" for state, run in by_state.items()}
    for state, page in (("awaiting_funding", "launch"), ("funded", "launch"), ("draft", "dryrun")):
        found |= {f"{page}-{state}": f"/{page}/?run={by_state[state].id}"} if state in by_state else {}
    return found


def opened(page: Any, address: str) -> None:
    """Loaded, and at rest: no cell is at work, and charts are drawn."""
    page.goto(address)
    if page.locator("#root").count():
        page.locator("h1").first.wait_for(timeout=120_000)
        page.wait_for_timeout(1000)
        page.wait_for_function(f"!document.querySelector({WORKING!r})", timeout=120_000)
    page.wait_for_timeout(2000)  # fonts and charts


def grow(page: Any, width: int) -> None:
    """As high as what it shows: an app scrolls inside itself."""
    height = page.evaluate(
        "Math.max(document.body.scrollHeight, ...Array.from(document.querySelectorAll('#App, #App *'), "
        "each => /auto|scroll/.test(getComputedStyle(each).overflowY) ? each.scrollHeight + 60 : 0))"
    )
    page.set_viewport_size({"width": width, "height": min(6000, max(700, height))})
    page.wait_for_timeout(1000)


def board(page: Any) -> dict[str, float]:
    """A run's name, its state and its first chart."""
    top, chart = (page.locator(one).first.bounding_box() for one in ("h2", ".pb-panel"))
    high = chart["y"] + chart["height"] - top["y"] + 30
    return {"x": top["x"] - 20, "y": top["y"] - 20, "width": 880, "height": high}


def save(page: Any, file: Path, clip: dict[str, float] | None = None) -> None:
    page.screenshot(path=file, clip=clip)
    print(f"{file}: {file.stat().st_size:,} bytes", flush=True)


@contextmanager
def served() -> Iterator[str]:
    """The link to `patron serve` of PATRON_HOME on a free port."""
    command = [sys.executable, "-m", "patron_core.commands", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        link = next((line.strip() for line in server.stdout if "/login?ticket=" in line), None)
        if link is None:
            raise RuntimeError(f"patron serve did not begin (exit code {server.wait()})")
        yield link
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
