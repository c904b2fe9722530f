"""How late the mirror is: known from the store alone, and shown in every view once it is more than half a minute."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
import sqlalchemy as sa
from scripted import World

from patron_core import verbs
from patron_core.errors import Unavailable
from patron_core.executors.fake import Script
from patron_core.lifecycle import post
from patron_core.machines.host import this_host
from patron_core.mirror import process, tracking
from patron_core.mirror.lag import lags
from patron_core.mirror.process import Mirroring
from patron_core.states import RunState
from patron_core.store import Run, Store, leases, mirrors, runs


@pytest.fixture
def training(world: World) -> Run:
    """A run that began to train a minute ago."""
    world.now = time.time() - 60.0
    world.machine.default_script = Script(run_s=1e9)
    run = world.launched(held_s=10_000)
    world.tick()
    assert world.state(run) is RunState.RUNNING
    return run


def shift(store: Store, column: str, seconds: float) -> None:
    with store.begin() as conn:
        conn.execute(sa.text(f"UPDATE mirrors SET {column} = {column} - :s"), {"s": seconds})


def test_a_mirror_that_never_came_by_is_as_late_as_the_run_is_old(world: World, training: Run) -> None:
    (lag,) = lags(world.store)
    assert lag.run_id == training.id
    assert 55 < lag.seconds < 300
    assert f"behind on {training.name}; the record" in lag.sentence
    assert "no mirror has come by" in lag.sentence
    assert "mirror.log" in lag.sentence
    seen = verbs.view(world.store, training.id)
    assert seen.to_dict()["mirror_lag_s"] > 55
    assert any("behind" in warning for warning in seen.warnings)
    assert verbs.lab(world.store).to_dict()["late_mirrors"][0]["run"] == training.id


def test_a_run_that_nobody_supervises_says_so(world: World, training: Run) -> None:
    def said() -> tuple[str | None, bool]:
        seen = verbs.view(world.store, training.id)
        return seen.to_dict()["supervisor"], any("nobody supervises" in warning for warning in seen.warnings)

    assert said() == (None, True)
    leases.acquire(world.store, post.SUPERVISOR.lease(), holder="host/7/mark/id/x", ttl_s=60.0)
    assert said() == ("host/7", False)
    assert verbs.lab(world.store).to_dict()["supervisors"] == {this_host().id: "host/7"}


def test_one_that_comes_by_is_not_late_and_one_that_fails_says_why(
    world: World, training: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors.tried(world.store, training.id, error=None)
    assert lags(world.store) == []
    assert verbs.view(world.store, training.id).to_dict()["mirror_lag_s"] is None

    def dead(*args: Any, **kwargs: Any) -> None:
        raise Unavailable("MLflow: connection refused", next="start it")

    monkeypatch.setattr(tracking, "sync", dead)
    assert Mirroring(world.store).round() == [f"{training.id}: mirror: MLflow: connection refused"]
    assert lags(world.store) == []  # not yet
    shift(world.store, "synced_at", 90.0)
    (lag,) = lags(world.store)
    assert 85 < lag.seconds < 300
    assert "connection refused" in lag.sentence
    mirrors.tried(world.store, training.id, error=None)
    assert lags(world.store) == []


def test_a_run_at_rest_is_late_until_its_end_is_mirrored(world: World, training: Run) -> None:
    mirrors.tried(world.store, training.id, error=None)
    shift(world.store, "synced_at", 90.0)
    verbs.cancel(world.store, training.id, actor="ada", now=time.time())
    world.run_for(30)
    run = runs.get_run(world.store, training.id)
    assert run.state is RunState.CANCELLED
    assert [lag.run_id for lag in lags(world.store)] == [run.id]
    with world.store.begin() as conn:
        mirrors.at_rest(conn, run, now=time.time())
    assert lags(world.store) == []


def test_what_is_said_again_within_seconds_is_not_written_again(world: World, training: Run) -> None:
    def synced_at() -> float:
        with world.store.read() as conn:
            return float(conn.execute(sa.text("SELECT synced_at FROM mirrors")).scalar_one())

    mirrors.tried(world.store, training.id, error=None)
    first = synced_at()
    mirrors.tried(world.store, training.id, error=None)
    assert synced_at() == first
    shift(world.store, "synced_at", 6.0)
    mirrors.tried(world.store, training.id, error=None)
    assert synced_at() >= first


def test_lag_on_both_databases(store: Store, make_run: Any) -> None:
    run = make_run(store)
    mirrors.tried(store, run.id, error="MLflow: no")
    assert lags(store) == []  # it was never launched
    mirrors.tried(store, run.id, error=None)
    shift(store, "synced_at", 100.0)
    (lag,) = lags(store)
    assert 95 < lag.seconds < 200


def test_the_mirror_process_opens_mlflow_late(home: Any) -> None:
    code = f"import sys, {process.__name__}\nprint('mlflow' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
