"""A team at work on one PostgreSQL: whose machine a run is on, who acts on it, and how each story ends.

Supervisors, runners and guards are real, and so are the machines as far as Linux's namespaces go; a training is a
process that waits. The stories go on side by side, since most of them wait.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from machines import ROOT, Machine, Refused, until

from patron_core.lifecycle import post
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, hosts, leases, ledger, runs

SUPERVISOR = post.SUPERVISOR.module
LEASE_S = post.LEASE_TTL_S
STORIES: dict[str, Callable[..., None]] = {}
_PLAN = """
verbs.deposit(store, project="lab", usd_micros=5_000_000, key="{user}", actor="{user}")
spec = {{"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64}}
run = verbs.plan(store, spec=spec, name="of {user}", actor="{user}")
verbs.dryrun(store, run.id, actor="{user}")
verbs.ensure_running(store)
run.id
"""
_LAUNCH = 'verbs.fund_and_launch(store, "{run}", usd_micros=2_000_000, actor="{user}", key="{key}").state.value'


def story(tell: Callable[..., None]) -> Callable[..., None]:
    STORIES[tell.__name__] = tell
    return tell


@pytest.fixture(scope="module")
def told(new_team: Any, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """Those that were asked for, begun at once."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)}
    with ThreadPoolExecutor(len(STORIES)) as pool:
        yield {name: pool.submit(tell, new_team) for name, tell in STORIES.items() if name in asked}


def proven(machine: Machine, user: str, **where: Any) -> str:
    """A run that waits for money, its dryrun done on that machine."""
    run_id = str(machine.ask(_PLAN.format(user=user), **where))
    said = machine.ask(f'verbs.wait(store, "{run_id}", timeout_s=100).run.state.value', **where)
    assert said == "awaiting_funding", said
    return run_id


def launched(machine: Machine, user: str, run_id: str, key: str = "k", **where: Any) -> None:
    """It trains by now."""
    machine.ask(_LAUNCH.format(run=run_id, user=user, key=key), **where)
    until(lambda: state(machine, run_id, **where) == "running", f"{run_id} does not train")


def state(machine: Machine, run_id: str, **where: Any) -> str:
    return str(machine.ask(f'verbs.find_run(store, "{run_id}").state.value', **where))


def seen_from(machine: Machine, run_id: str) -> dict[str, Any]:
    """As `patron watch` shows it; the lab is opened, as by any look."""
    found: dict[str, Any] = machine.ask(f'verbs.ensure_running(store)\nverbs.view(store, "{run_id}").to_dict()')
    return found


def let_go(machine: Machine, run_id: str, what: str = "go", home: str = ".patron") -> None:
    (machine.inside / home / "runs" / run_id / what).touch()


def starts(machine: Machine, run_id: str, home: str = ".patron") -> list[str]:
    """What was started of the training, and where."""
    return (machine.inside / home / "runs" / run_id / "starts").read_text().splitlines()


def ended(store: Store, run_id: str, *, within_s: float = 120.0) -> RunState:
    until(lambda: not runs.active_runs(store), f"{run_id} does not come to rest", within_s)
    assert ledger.verify(store) == []
    assert ledger.run_money(store, run_id).held_usd_micros == 0
    return runs.get_run(store, run_id).state


@story
def two_plan_at_once(new_team: Any) -> None:
    """Each trains on the own machine, whoever of the two was first."""
    store, (ada, bob) = new_team("ada", "bob")
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda each: proven(each, each.environ["USER"]), (ada, bob)))
    for machine, run_id in zip((ada, bob), found, strict=True):
        launched(machine, machine.environ["USER"], run_id)
    for machine, run_id in zip((ada, bob), found, strict=True):
        let_go(machine, run_id)
    for machine, run_id in zip((ada, bob), found, strict=True):
        assert ended(store, run_id) is RunState.SUCCEEDED
        assert starts(machine, run_id) == [f"train {machine.name}"]
        assert hosts.everybody(store)[runs.get_run(store, run_id).host_id or ""].name == machine.name
    assert not (ada.inside / ".patron" / "runs" / found[1]).exists()


@story
def one_only_watches(new_team: Any) -> None:
    """It becomes nobody's supervisor; what it may not do says so, and its wish is obeyed where the run is."""
    store, (ada, bob) = new_team("ada", "bob")
    run_id = proven(ada, "ada")
    with pytest.raises(Refused, match="host-ada") as refused:
        bob.ask(_LAUNCH.format(run=run_id, user="bob", key="b"))
    assert refused.value.exit_code == 3
    assert refused.value.error["next"].startswith("patron dryrun --depth 1 ")
    with pytest.raises(Refused, match="host-ada"):
        bob.ask(f'verbs.dryrun(store, "{run_id}", actor="bob")')
    launched(ada, "ada", run_id)
    seen = seen_from(bob, run_id)
    assert "runs on host-ada (ada), last heard" in seen["sentence"]
    assert (seen["owner"], seen["host"]["name"], seen["host"]["here"]) == ("ada", "host-ada", False)
    assert seen["supervisor"].startswith("host-ada/")
    ada.close_lid()
    code, said = bob.script("watch", "--run", run_id, "--cancel", "--yes", "--no-follow")
    assert code == 0
    assert any("the wish to cancel waits for host-ada" in warning for warning in said["warnings"])
    assert said["state"] == "running"
    ada.open_lid()
    assert ended(store, run_id) is RunState.CANCELLED
    assert bob.at_work(SUPERVISOR) == []
    assert starts(ada, run_id) == ["train host-ada"]


@story
def the_lid_is_closed(new_team: Any) -> None:
    """For longer than its lease: it is neither restarted elsewhere nor judged, and goes on when it is opened."""
    store, (ada, bob) = new_team("ada", "bob")
    run_id = proven(ada, "ada")
    launched(ada, "ada", run_id)
    lease = post.SUPERVISOR.lease(runs.get_run(store, run_id).host_id)
    assert leases.current(store, lease) is not None
    ada.close_lid()
    closed_at = time.monotonic()
    until(lambda: leases.current(store, lease) is None, "the lease does not lapse")
    for _ in range(3):
        seen = seen_from(bob, run_id)
        time.sleep(1.0)
    assert seen["state"] == "running"
    assert seen["supervisor"] is None
    assert seen["host"]["last_heard_s"] >= LEASE_S - 11 > 0
    assert " s ago" in seen["sentence"]
    assert bob.at_work(SUPERVISOR) == []
    assert time.monotonic() - closed_at > LEASE_S / 2
    ada.open_lid()
    until(lambda: leases.current(store, lease) is not None, "its supervisor does not come back")
    assert state(ada, run_id) == "running"
    let_go(ada, run_id)
    assert ended(store, run_id) is RunState.SUCCEEDED
    assert starts(ada, run_id) == ["train host-ada"]


def newer(folder: Path) -> Path:
    """A checkout whose trainer computes something else."""
    for name in ("patron_core", "trainer"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "trainer" / "contract" / "recipe.py").open("a") as file:
        file.write("\n# newer\n")
    return folder


@story
def a_supervisor_dies_beside_a_newer_checkout(new_team: Any) -> None:
    """The newer one supervises what runs on its own machine, and starts nothing that another checkout proved."""
    store, (ada, bob) = new_team("ada", "bob")
    checkout = newer(ada.inside.parent / "newer")
    run_id = proven(ada, "ada")
    launched(ada, "ada", run_id)
    (pid,) = ada.at_work(SUPERVISOR)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not ada.at_work(SUPERVISOR), "it is still there")
    bob.ask("None", checkout=checkout)  # whose look starts nobody
    assert bob.at_work(SUPERVISOR) == []
    ada.ask("None", checkout=checkout)
    until(lambda: ada.at_work(SUPERVISOR), "the newer one does not supervise")
    assert state(ada, run_id) == "running"
    let_go(ada, run_id, "leave")  # it is to be started again
    assert ended(store, run_id) is RunState.PAUSED
    run = runs.get_run(store, run_id)
    assert run.reason is EndReason.NOT_STARTED
    assert "code_hash was" in run.detail
    assert "newer" in run.detail
    assert starts(ada, run_id) == ["train host-ada"]
    until(lambda: not ada.at_work(SUPERVISOR), "it has nothing to do and stays")
    launched(ada, "ada", run_id, key="again")
    let_go(ada, run_id)
    assert ended(store, run_id) is RunState.SUCCEEDED


@story
def different_homes(new_team: Any) -> None:
    """One person, one machine, two homes: each has its own jobs, and buries none of the other's."""
    store, (ada,) = new_team("ada")
    first = proven(ada, "ada", home="first")
    second = proven(ada, "ada", home="second")
    launched(ada, "ada", first, home="first")
    launched(ada, "ada", second, home="second")
    assert len(ada.at_work(SUPERVISOR)) == 2
    said = ada.ask(f'verbs.view(store, "{first}").sentence', home="second")
    assert f"runs on host-ada, in {ada.home / 'first'}" in said
    let_go(ada, second, home="second")
    until(lambda: len(ada.at_work(SUPERVISOR)) == 1, "that of the second home has nothing to do and stays")
    assert not ada.ask("verbs.ensure_running(store)", home="second")
    let_go(ada, first, home="first")
    for home, run_id in (("first", first), ("second", second)):
        assert ended(store, run_id) is RunState.SUCCEEDED
        assert starts(ada, run_id, home) == ["train host-ada"]


@story
def a_proven_run_is_looked_at_from_where_its_folder_is_not(new_team: Any) -> None:
    """Run directories lie in each one's home, which has the same path everywhere: the default."""
    store, (ada, bob) = new_team("ada", "bob")
    run_id = proven(ada, "ada")
    attempt = attempts.for_run(store, run_id)[0]
    for _ in range(3):
        seen = seen_from(bob, run_id)
        assert seen["state"] == "awaiting_funding"
        assert "It belongs to host-ada (ada)" in seen["sentence"]
        assert seen["next"] == "patron lab --project lab"  # it is launched there
    launched(ada, "ada", run_id)
    seen = seen_from(bob, run_id)
    assert any("host-ada" in warning and "run directory" in warning for warning in seen["warnings"])
    let_go(ada, run_id)
    assert ended(store, run_id) is RunState.SUCCEEDED
    assert attempts.get(store, attempt.id) == attempt
    assert bob.at_work(SUPERVISOR) == []
    assert seen_from(bob, run_id)["state"] == "succeeded"


@story
def a_lost_machine_is_written_off_and_comes_back(new_team: Any) -> None:
    """By its owner or an admin, once it is not heard. When it is back it stops, and nothing more is charged."""
    store, (ada, bob) = new_team("ada", "bob")
    run_id = proven(ada, "ada")
    launched(ada, "ada", run_id)
    write_off = ("lab", "--write-off", run_id, "--yes")
    code, said = bob.script(*write_off)
    assert (code, "--cancel" in said["error"]["next"]) == (3, True)
    ada.close_lid()
    with store.begin() as conn:  # five minutes later
        conn.execute(sa.text("UPDATE hosts SET last_heard_at = last_heard_at - 300"))
    assert any("--write-off" in warning for warning in seen_from(bob, run_id)["warnings"])
    code, said = bob.script(*write_off)
    assert (code, "ada" in said["error"]["message"]) == (3, True)
    bob.environ["PATRON_ADMINS"] = "eve,bob"
    assert bob.script(*write_off[:-1])[0] == 4
    assert bob.script(*write_off)[0] == 0
    run = runs.get_run(store, run_id)
    assert (run.state, run.reason) == (RunState.FAILED, EndReason.WRITTEN_OFF)
    charged = ledger.run_money(store, run_id)
    assert charged.held_usd_micros == 0
    assert ada.at_work(str(ada.environ["TEAM_WORKLOAD"]))
    ada.open_lid()
    until(lambda: not ada.at_work(str(ada.environ["TEAM_WORKLOAD"])), "it goes on though it was given up")
    until(lambda: not ada.at_work(SUPERVISOR), "it has nothing to do and stays")
    assert ledger.run_money(store, run_id) == charged
    assert ledger.verify(store) == []


@pytest.mark.parametrize("name", STORIES)
def test_a_team(told: dict[str, Future[None]], name: str) -> None:
    told[name].result(timeout=280)
