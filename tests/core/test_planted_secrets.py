"""A rented run whose workload prints all that it knows: no secret is sent, kept or shown by Patron. SkyPilot is a stub:
its machine is the guard in a process of this one, over a real bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from patron_core import settings, verbs
from patron_core.executors.sky_task import disk_gb
from patron_core.executors.skypilot import SkyExecutor, _client, _watch
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.machines.target import Target
from patron_core.mirror import tracking
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.ui.script import to_json
from trainer.contract.layout import EVENTS, segment_name
from trainer.contract.remote import Remote

PLANTED = "planted-secret-4711"
NAMES = ("HF_TOKEN", "GITHUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "OPENAI_API_KEY", "DB_PASSWORD")
PRINTS = "import os, sys; print('\\n'.join(f'{k}={v}' for k, v in os.environ.items()), flush=True); sys.exit(1)"


class Stub:
    """One managed job, run at once where it was asked for."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.jobs_: list[dict[str, Any]] = []

    def ask(self, verb: str, **asked: Any) -> Any:
        return getattr(self, verb)(**asked)

    def jobs(self, *, job_ids: list[int] | None, name: str | None, **_: Any) -> list[dict[str, Any]]:
        return [
            job for job in self.jobs_ if (job_ids is None or 1 in job_ids) and (name is None or name in job["job_name"])
        ]

    def launching(self, **_: Any) -> str:
        return ""

    def launch(self, *, task: dict[str, Any], name: str, **_: Any) -> int:
        self.tasks.append(task)
        envs = task["envs"]
        asked = ["--key", envs["PATRON_ATTEMPT"], "--run-dir", envs["PATRON_RUN_DIR"]]
        guard = [sys.executable, "-m", "patron_core.executors.guard", *asked, "--", sys.executable, "-c", PRINTS]
        ended = subprocess.run(guard, env=os.environ | envs, cwd=task["workdir"], capture_output=True, check=False)
        assert ended.returncode == 1, ended.stderr
        said = {
            "seq": 1,
            "time": 1.0,
            "attempt": envs["PATRON_ATTEMPT"],
            "step": 1,
            "kind": "warning",
            "message": PLANTED,
        }
        measured = said | {"seq": 2, "kind": "metrics", "metrics": {"train/loss": 1.0}}
        lines = "".join(json.dumps(each) + "\n" for each in (said, measured))
        Remote(envs["PATRON_RUN_DIR"]).put(f"{EVENTS}/{segment_name(envs['PATRON_ATTEMPT'], 1)}", lines.encode())
        self.jobs_ = [
            {"job_id": 1, "job_name": name, "status": "FAILED", "user_yaml": json.dumps(task), "job_duration": 2.0,
             "failure_reason": f"exit code 1, {PLANTED}"}
        ]  # fmt: skip
        return 1

    def cancel(self, **_: Any) -> None:
        pass


def test_nothing_of_a_rented_run_holds_a_secret(
    home: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, PLANTED)
    monkeypatch.setenv("PATRON_RUNS", f"{bucket}/runs")
    settings.keep_private()
    stub = Stub()
    monkeypatch.setattr(_client, "ask", stub.ask)
    store = Store.open()
    target = Target(executor="sky", device="H100", spot=True, usd_micros_per_hour=3_000_000)
    run = verbs.plan(store, spec={"depth": 4, "data": "fineweb-edu"}, target=target, actor="ada", name="tells all")
    verbs.deposit(store, usd_micros=10_000_000, key="first", actor="ada")
    with store.begin() as conn:  # as if a dryrun had proven it
        run = runs.set_fields(conn, run.id, now=1.0, dryrun={"spec_hash": run.spec_hash, "price": target.quote()})
        ledger.hold(conn, run, 5_000_000, key="hold", actor="ada", now=1.0)
        for state in (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED):
            run = runs.transition(conn, run.id, old=run.state, new=state, actor="ada", now=1.0)
        quote = target.quote()
        attempts.create(conn, run, kind="train", usd_micros_per_hour=3_000_000, price=quote, now=time.time())
        runs.transition(conn, run.id, old=run.state, new=RunState.LAUNCHING, actor="ada", now=time.time())
    supervisor = Supervisor(store=store)
    for _ in range(3):
        _watch.forget()
        supervisor.tick()
    assert runs.get_run(store, run.id).state is RunState.FAILED, attempts.for_run(store, run.id)
    assert tracking.sync(store, runs.get_run(store, run.id), now=time.time()).error is None

    # what was sent, what is kept here and in the bucket, what is shown
    (task,) = stub.tasks
    assert task["resources"]["disk_size"] == disk_gb((run.estimate or {})["disk_bytes"]) < 100  # which the file has
    staged = {path: path.read_bytes() for path in Path(task["workdir"]).rglob("*") if path.is_file()}
    kept = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    remote = Remote(f"{bucket}/runs")
    objects = {name: remote.get(name) or b"" for name in remote.sizes() if f"/{EVENTS}/" not in name}  # its own words
    handle = attempts.for_run(store, run.id)[0].handle or {}
    shown = to_json({"view": verbs.view(store, run.id).to_dict(), "log": SkyExecutor().logs(handle, 200)})
    assert len(staged) > 100
    assert {"patron.db", "mlflow.db"} <= {path.name for path in kept}
    assert any("/machines/" in name for name in objects)
    assert "HF_TOKEN=***" in shown
    for place in (staged, kept, objects, {"task": json.dumps(task).encode(), "shown": shown.encode()}):
        assert [name for name, content in place.items() if PLANTED.encode() in content] == []
    assert [path for path in home.rglob("*") if not path.is_symlink() and path.lstat().st_mode & 0o077] == []
    store.close()
