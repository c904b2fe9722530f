"""Real supervisors and mirrors, killed at any moment, on both databases: no run starts twice, none is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from scripted import World

from patron_core import settings
from patron_core.executors.fake import FakeExecutor
from patron_core.lifecycle import post
from patron_core.mirror.due import due
from patron_core.money import cost_usd_micros
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, leases, ledger, runs

KILLS = 6
# a supervisor as it is, with a workload of half a second in the place of a training: twice preempted, then done
CHILD = """
from pathlib import Path
from patron_core.lifecycle import supervisor, workload

def command(run_dir, attempt_id, *more, **also):
    shell = 'echo "$0" >> "$1/starts"; sleep 0.5; [ "$(wc -l < "$1/starts")" -ge 3 ] || exit 75'
    return ("sh", "-c", shell, attempt_id, run_dir)

workload.train_command = command
supervisor.main()
"""


@pytest.fixture
def launched(store: Store, living_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("PATRON_DATABASE_URL", store.url.render_as_string(hide_password=False))
    settings.home().mkdir(exist_ok=True)
    world = World(store=store, machine=FakeExecutor(name="local"), now=time.time())
    return [world.launched(held_s=2000, seed=seed) for seed in range(2)]


def everybody(home: Path) -> list[psutil.Process]:
    """Supervisors and mirrors of this home, in random order."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = process.info["cmdline"] or []
        ours = (process.info["environ"] or {}).get("PATRON_HOME") == str(home)
        if ours and (CHILD in line or post.MIRROR.module in line):
            found.append(process)
    random.shuffle(found)
    return found


def start(log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-c", CHILD], stdout=output, stderr=output, start_new_session=True)


def test_killed_at_any_moment_they_come_back_and_the_bill_is_right(
    store: Store, launched: list[Run], living_home: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for _ in range(KILLS):
        child = start(log)
        time.sleep(random.uniform(0.3, 2.0))
        for process in everybody(living_home):
            process.kill()
        child.wait(10)
    child = start(log)
    assert child.wait(120) == 0, log.read_text()
    for run in launched:
        seen = runs.get_run(store, run.id)
        assert seen.state is RunState.SUCCEEDED, (seen, log.read_text())
        made = attempts.for_run(store, run.id)
        starts = Counter((Path(run.run_dir) / "starts").read_text().split())
        assert starts == Counter(attempt.id for attempt in made)
        money = ledger.run_money(store, run.id)
        assert money.charged_usd_micros == sum(cost_usd_micros(a.charged_s, a.usd_micros_per_hour) for a in made)
        assert money.held_usd_micros == 0
    assert ledger.verify(store) == []

    post.ensure(post.MIRROR, store)  # a killed mirror is nobody's lease
    end = time.monotonic() + 60
    while due(store) or any(leases.current(store, each.name) for each in (post.SUPERVISOR, post.MIRROR)):
        assert time.monotonic() < end, (settings.home() / "mirror.log").read_text()
        time.sleep(0.1)
