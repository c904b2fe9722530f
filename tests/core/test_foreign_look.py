"""Whatever lies in a rented run's directory: a supervisor's round and a guard raise nothing, nobody is charged for more
than has passed, and no machine gets more time than money is held for."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_foreign_ground import BROKEN, objects, text, values

from patron_core import verbs
from patron_core.executors import get_executor
from patron_core.executors.guard import CLOCK_NOISE_S, Guard
from patron_core.executors.skypilot import _client, _watch
from patron_core.lifecycle.holds import TEARDOWN_S
from patron_core.lifecycle.observe import look
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.machines.target import Target
from patron_core.money import cost_usd_micros
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs
from trainer.contract import control

HOURLY, HELD, PASSED_S = 3_000_000, 50_000_000, 100.0
seconds = st.sampled_from([-1e9, 0.0, 50.0, 1e8, 1e12, "abc", None, True])
records = st.fixed_dictionaries(
    {"elapsed_s": seconds, "at": st.sampled_from([-1.0, 0.0, 1.0, 1e12, None]), "ended": st.booleans()},
    optional={"signal": st.integers(-1, 70), "exit_code": st.integers(-1, 300), "place": values, "evidence": objects},
).map(text)
top_ups = st.fixed_dictionaries({"attempt": st.just("ATTEMPT"), "deadline_s": seconds}, optional={"proof": values})
contents = st.one_of(objects.map(text), values.map(text), st.sampled_from(BROKEN))
wide = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = itertools.count()
status: dict[str, Any] = {}


def ask(verb: str, **asked: Any) -> Any:
    return [status] if verb == "jobs" and asked.get("job_ids") else [] if verb in ("jobs", "clusters") else None


@pytest.fixture
def lab(home: Path, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PATRON_SKY_INFRA", "slurm/lab/gpu")  # whose machines reach a folder
    monkeypatch.setenv("PATRON_SKY_POLL_S", "0")
    monkeypatch.setattr(_client, "ask", ask)
    verbs.deposit(sqlite_store, usd_micros=10**12, key="first", actor="ada")
    yield sqlite_store
    assert ledger.verify(sqlite_store) == []


def running(store: Store, now: float) -> Run:
    target = Target(executor="sky", device="H100", usd_micros_per_hour=HOURLY, only="slurm/lab/gpu")
    run = verbs.plan(
        store, spec={"depth": 4, "data": "fineweb-edu"}, target=target, actor="ada", name=f"r{next(numbers)}"
    )
    with store.begin() as conn:
        ledger.hold(conn, run, HELD, key=f"hold {run.id}", actor="ada", now=now)
        made = attempts.create(conn, run, kind="train", usd_micros_per_hour=HOURLY, price=target.quote(), now=now)
        handle = {"executor": "sky", "key": made.id, "job_id": next(numbers) + 1, "run_dir": run.run_dir}
        attempts.submitted(conn, made.id, handle=handle, now=now - PASSED_S, deadline_s=3600.0)
        states = (RunState.DRYRUN, RunState.AWAITING_FUNDING, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING)
        for state in states:
            run = runs.transition(conn, run.id, old=run.state, new=state, actor="ada", now=now)
    return run


@given(
    starts=st.lists(st.one_of(contents, records), max_size=3),
    top_up=st.one_of(st.none(), contents, top_ups.map(text)),
    files=st.fixed_dictionaries({
        name: st.one_of(st.none(), contents)
        for name in ("result.json", "spec.json", "environment.json", "events", "manifest.json", "stops")
    }),
    said=st.sampled_from(["RUNNING", "RECOVERING", "FAILED", "SUCCEEDED", "CANCELLED", "STARTING"]),
)  # fmt: skip
@wide
def test_a_round_over_foreign_ground(
    lab: Store,
    starts: list[bytes],
    top_up: bytes | None,
    files: dict[str, bytes | None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    run = running(lab, now)
    (attempt,) = attempts.for_run(lab, run.id)
    folder = Path(run.run_dir)
    places = {"events": f"events/{attempt.id}-000001.jsonl", "stops": f"stops/{attempt.id}.json"}
    places["manifest.json"] = "checkpoints/step-000010/manifest.json"
    written = {places.get(name, name): content for name, content in files.items() if content is not None}
    written |= {f"machines/{attempt.id}-{n}.json": content for n, content in enumerate(starts, start=1)}
    if top_up is not None:
        written["control.json"] = top_up.replace(b"ATTEMPT", attempt.id.encode())
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    job_id = (attempt.handle or {})["job_id"]
    status.clear()
    status.update({"job_id": job_id, "job_name": attempt.id, "status": said, "job_duration": 0.0})
    _watch.forget()

    scene = look(lab, run.id, get_executor("sky"), now=now)
    json.dumps(dict(scene.observation.evidence if scene.observation else {}), allow_nan=False)
    done = Supervisor(store=lab).round(now=now)
    assert [error for error in done.errors if run.id in error and "cannot be" not in error] == []
    json.dumps(verbs.view(lab, run.id).to_dict(), allow_nan=False)
    charged = ledger.run_money(lab, run.id).charged_usd_micros
    assert 0 <= charged <= cost_usd_micros(PASSED_S + CLOCK_NOISE_S + TEARDOWN_S + 1, HOURLY) + 2

    monkeypatch.setenv("PATRON_SUBMITTED_AT", f"{now - PASSED_S}")
    monkeypatch.setenv(control.KEY_VARIABLE, str(attempt.control_key))
    guard = Guard(key=attempt.id, run_dir=run.run_dir, command=["true"], deadline_s=3600.0, grace_s=5.0)
    assert 0 <= guard.used_s <= time.time() - now + PASSED_S + CLOCK_NOISE_S
    paid_s = HELD / HOURLY * 3600.0
    assert guard.deadline.is_over(paid_s)
    assert guard.deadline.seconds <= paid_s
    with lab.begin() as conn:  # for the next example
        if runs.get_run(conn, run.id).state is RunState.RUNNING:
            attempts.ended(conn, attempt.id, reason=EndReason.CANCELLED, exit_code=None, evidence={}, now=now)
            runs.transition(conn, run.id, old=RunState.RUNNING, new=RunState.CANCELLED, actor="ada", now=now)
    shutil.rmtree(folder)
