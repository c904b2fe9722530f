"""Whose a run is: the machine's id, runs from before there were hosts, other checkouts, and clocks that are wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import ENDED, KILLED, World, checkpoint

from patron_core import verbs
from patron_core.errors import Refused
from patron_core.lifecycle import drift, ownership, post, supervisor
from patron_core.machines import host
from patron_core.machines.host import this_host
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, calibrations, hosts, leases, runs
from patron_core.verbs.here import check_here


def test_a_machine_has_one_id_and_shares_it_with_no_other(tmp_path: Path, in_threads: Any) -> None:
    home = tmp_path / "home"
    (mine,) = set(in_threads(lambda _: host._id_in(home, "one", "boot-1"), 8))
    assert host._id_in(home, "one", "boot-2") == mine  # it was restarted
    assert host._id_in(home, "one.local", "boot-2") == mine  # and renamed
    other = host._id_in(home, "two", "boot-3")  # another one, which shares the home
    assert other != mine
    assert host._id_in(home, "one.local", "boot-2") == mine
    shutil.copytree(home, tmp_path / "copied")
    assert host._id_in(tmp_path / "copied", "three", "boot-4") not in (mine, other)
    (home / "hosts" / "two.json").write_text("{damaged")
    assert host._id_in(home, "two", "boot-3") not in (mine, other)  # nobody's any more, and said so by a new one


def old_run(store: Store, make_run: Callable[..., Run]) -> Run:
    """One that is live, from before there were hosts, with what its dryrun measured."""
    run = make_run(store)
    with store.begin() as conn:
        attempts.create(conn, run, kind="dryrun", usd_micros_per_hour=1, price={}, now=1.0)
        calibrations.record(conn, machine="A CPU x8", kind="dryrun", values={}, run_id=run.id, now=1.0)
        return runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)


def test_a_run_from_before_belongs_to_the_machine_that_has_its_job(
    store: Store, home: Path, make_run: Callable[..., Run]
) -> None:
    run = old_run(store, make_run)
    folder = home / "jobs" / attempts.for_run(store, run.id)[0].id
    if store.dialect == "postgresql":  # a file is this machine's own, with all in it
        assert not supervisor.is_needed(store)
        with pytest.raises(Refused, match="never heard of"):
            check_here(store, run)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"host": "another"}))
        assert not supervisor.is_needed(store)
        (folder / "job.json").write_text(json.dumps({"host": this_host().name}))
    assert supervisor.is_needed(store)
    assert runs.get_run(store, run.id).host_id == this_host().id
    assert hosts.get(store, this_host().id) is not None
    (measured,) = calibrations.latest(store, this_host().id, kind="dryrun")
    assert measured.run_id == run.id


def test_what_another_checkout_proved_is_kept_and_says_what_differs(world: World) -> None:
    world.machine.script(KILLED, ENDED)
    run = world.funded()
    folder = Path(run.run_dir)
    folder.mkdir(parents=True)
    proven = drift.here({"packages": {"torch": ""}}) | {"git_commit": "abc123"}
    (folder / "environment.json").write_text(json.dumps(proven))
    verbs.launch(world.store, run.id, actor="ada", now=world.now)
    world.tick()
    assert world.state(run) is RunState.RUNNING
    checkpoint(5)(type("Job", (), {"run_dir": run.run_dir})())  # type: ignore[arg-type]
    elsewhere = proven | {"code_hash": "other", "packages": {"torch": "1.0"}}
    (folder / "environment.json").write_text(json.dumps(elsewhere))
    world.run_for(200)
    assert (world.state(run), world.reason(run)) == (RunState.PAUSED, EndReason.NOT_STARTED)
    assert world.held(run) == 0
    assert world.machine.num_submits == 1
    said = verbs.view(world.store, run.id).sentence
    for words in ("code_hash was other", "torch was 1.0", "commit abc123"):
        assert words in said


@pytest.mark.parametrize("skew_s", [45.0, -45.0, 280.0, -280.0])
def test_no_clock_of_a_laptop_decides(world: World, monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    """Neither who supervises, nor when what happened, nor since when a machine is silent."""
    run, real, seen = world.launched(), time.time, []
    look = supervisor.look
    monkeypatch.setattr(supervisor, "look", lambda *a, now: (seen.append(now), look(*a, now=now))[1])
    hosts.heard(world.store, this_host())
    mine = post.Watch(post=post.SUPERVISOR, store=world.store, lock=None)
    assert mine.keep()
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: real() + skew_s)
        assert not leases.acquire(world.store, post.SUPERVISOR.lease(), holder="another", ttl_s=30.0)
        assert hosts.everybody(world.store)[this_host().id].silent_s < 30.0
        assert not post.ensure(post.SUPERVISOR, world.store)
        world.supervisor.round()
    mine.step_down()
    assert all(abs(now - real()) < 30.0 for now in seen)
    started_at = attempts.for_run(world.store, run.id)[-1].started_at
    assert started_at is not None
    assert abs(started_at - real()) < 30.0


def test_a_rented_run_names_whose_account_pays(sqlite_store: Store, make_run: Callable[..., Run]) -> None:
    run = make_run(sqlite_store, executor="nowhere")
    with sqlite_store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    assert verbs.view(sqlite_store, run.id).to_dict()["payer"] is None
    mine = post.Watch(post=post.SUPERVISOR, store=sqlite_store, lock=None)
    assert mine.keep()
    assert mine.keep_lab()
    seen = verbs.view(sqlite_store, run.id)
    here = this_host()
    assert seen.to_dict()["payer"] == f"{here.user} on {here.name}"
    assert f"rented by {here.user} on {here.name}" in seen.sentence
    mine.step_down()


def test_how_long_ago_is_said_for_people() -> None:
    said = [ownership.ago(seconds) for seconds in (3, 40, 185, 5 * 3600, 4 * 86_400)]
    assert said == ["just now", "40 s ago", "3 min ago", "5 h ago", "4 days ago"]
