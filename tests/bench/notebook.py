"""How fast the face is: python -m tests.bench.notebook prints one JSON object. Writes only to a scratch home.

scripts    seconds of wall and processor time of what people and agents call most
estimate   Estimate with 1,024 candidates, of which the budget of time is moved: processor time in the kernel for them
           and their chart, milliseconds of the redraw in the browser, and seconds from the key to the last pixel
watch      Watch in a real browser, of a run with ten metrics of 100,000 points each: first paint, first chart, and the
           longest task of the page's thread in a tick that brings 50 steps
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
REPEATS = 5
NUM_POINTS, NUM_METRICS, SEGMENTS, TICKS = 100_000, 10, 50, 5
USD_PER_HOUR, TOO_CHEAP = 3, ("L4", "RTX4090", "L40S", "L40", "A40", "A10", "A10G", "A30", "A6000")  # for that price
LONG_TASKS = """
    window.longest = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
    }).observe({ type: "longtask" });
"""


def timed(*command: str) -> tuple[float, float]:
    """Seconds of wall time and of processor time of a command that must succeed, output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(*command: str) -> dict[str, float]:
    timed(*command)  # the first one reads from a cold disk and writes byte code
    runs = [timed(*command) for _ in range(REPEATS)]
    walls, processors = zip(*runs, strict=True)
    return {
        "median_s": round(statistics.median(walls), 3),
        "best_s": round(min(walls), 3),
        "processor_s": round(min(processors), 3),
    }


def write_steps(run: Any, attempt: str, first: int, last: int, *, number: int) -> None:
    """A closed segment: NUM_METRICS numbers a step."""
    folder = Path(run.run_dir) / "events"
    folder.mkdir(parents=True, exist_ok=True)
    shared: dict[str, Any] = {"attempt": attempt, "step": None}
    lines = [] if number else [shared | {"seq": 0, "time": 0, "kind": "start", "num_steps": 2 * NUM_POINTS}]
    for step in range(first, last + 1):
        values = {"train/loss": 3 + 7 * math.exp(-step / 3000) + 0.05 * math.sin(13.7 * step), "train/step_s": 0.1}
        values |= {f"layer/{i}": math.sin(step * (i + 1)) for i in range(NUM_METRICS - 2)}
        event = {"seq": step, "time": 0.1 * step, "kind": "metrics", "step": step, "metrics": values}
        lines.append(shared | event)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{attempt}-{number:06d}.jsonl").write_text(text)


def estimated() -> dict[str, Any]:
    """Estimate of many candidates: in this process for the kernel's part, and in Chromium."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "notebooks")]
    from browser import chromium, served

    from patron_core import verbs
    from patron_core.ui import estimate_points
    from trainer.contract.devices import KNOWN_GPUS

    depths, devices = range(1, 65), [name for name in KNOWN_GPUS if name not in TOO_CHEAP][:16]
    board = estimate_points.board()
    kernel_s = []
    for minutes in range(60, 60 + 1 + REPEATS):  # the first computes them all
        start_s = time.process_time()
        rows = verbs.estimates(
            None,
            depths=depths,
            devices=devices,
            budget_s=60 * minutes,
            usd_micros_per_hour=verbs.from_usd(USD_PER_HOUR),
        )
        board.show([estimate_points.points(rows, budget_s=60 * minutes)])
        kernel_s.append(time.process_time() - start_s)
    query = f"depths={','.join(map(str, depths))}&devices={','.join(devices)}&usd_per_hour={USD_PER_HOUR}"
    redraws_ms, walls_s = [], []
    with served(NOTEBOOKS / "1_estimate.py") as address, chromium() as page:
        page.goto(f"{address}/?{query}")
        chart = page.locator(f".pb-panel[data-points='{len(rows)}']")
        chart.wait_for(timeout=120_000)
        budget = page.get_by_role("textbox", name="Budget, min")
        for minutes in range(100, 100 + REPEATS):
            chart.evaluate("chart => { delete chart.dataset.drawnMs }")
            budget.fill(str(minutes))
            start_s = time.perf_counter()
            budget.press("Enter")
            page.locator(".pb-panel[data-drawn-ms]").wait_for(timeout=60_000)
            walls_s.append(time.perf_counter() - start_s)
            redraws_ms.append(float(chart.get_attribute("data-drawn-ms")))
            page.wait_for_timeout(2000)
    return {
        "candidates": len(rows),
        "all_anew_processor_s": round(kernel_s[0], 3),
        "moved_processor_s": round(statistics.median(kernel_s[1:]), 3),
        "redraw_ms": [round(one, 1) for one in redraws_ms],
        "key_to_redraw_s": [round(one, 2) for one in walls_s],
    }


def watched() -> dict[str, Any]:
    """Watch of one long run, in Chromium."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "notebooks")]
    import labs
    from browser import chromium, served

    from patron_core.lifecycle import post
    from patron_core.store import Store, leases

    store = Store.open()
    for each in (post.SUPERVISOR, post.MIRROR):
        for name in (each.name, each.lease()):
            leases.acquire(store, name, holder="bench", ttl_s=1e6)
    runs = labs.fill(store)
    run, attempt = runs["running"], f"{runs['running'].id}-train-2"
    for path in (Path(run.run_dir) / "events").iterdir():
        path.unlink()
    for number in range(SEGMENTS):  # a reader takes no file of any size
        size = NUM_POINTS // SEGMENTS
        write_steps(run, attempt, number * size + 1, (number + 1) * size, number=number)
    with served(NOTEBOOKS / "4_watch.py") as address, chromium() as page:
        page.add_init_script(LONG_TASKS)
        start = time.perf_counter()
        page.goto(f"{address}/?run={run.id}")
        page.locator(f".pb-panel[data-points='{NUM_POINTS}'] canvas").first.wait_for(timeout=120_000)
        first_chart_s = time.perf_counter() - start
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        page.get_by_role("button", name="All other keys").click()
        page.wait_for_timeout(5000)
        tasks = []
        for tick in range(1, 1 + TICKS):
            page.evaluate("window.longest = 0")
            last = NUM_POINTS + 50 * tick
            write_steps(run, attempt, last - 49, last, number=SEGMENTS + tick)
            page.locator(f".pb-panel[data-points='{last}']").first.wait_for(timeout=60_000)
            page.wait_for_timeout(1000)
            tasks.append(page.evaluate("window.longest"))
    store.close()
    return {
        "first_paint_s": round(paint, 2),
        "first_chart_s": round(first_chart_s, 2),
        "longest_task_of_ticks_ms": tasks,  # 0: none over 50 ms
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["PATRON_HOME"] = home
        answer = {
            "python": measured("-c", "pass"),
            "import_patron_core": measured("-c", "import patron_core"),
            "import_verbs": measured("-c", "import patron_core.verbs"),
            "import_marimo": measured("-c", "import marimo"),
            "estimate_json": measured(str(NOTEBOOKS / "1_estimate.py"), "--json"),
            "estimate_help": measured(str(NOTEBOOKS / "1_estimate.py"), "--help"),
            "estimate": estimated(),
            "watch": watched(),
            "load_average": round(os.getloadavg()[0], 1),
            "cores": len(os.sched_getaffinity(0)),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
