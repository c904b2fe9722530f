"""What a token may hold: no limit is passed, however many ask at once; who approves; what is written down."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from patron_core import verbs
from patron_core.errors import InvalidInput, PatronError
from patron_core.states import RunState
from patron_core.store import Run, Store, allowances, ledger, runs, tokens
from patron_core.store.allowances import ApprovalNeeded, BeyondAllowance
from patron_core.store.tokens import Allowance, Forbidden, Unauthorised
from patron_core.verbs.access import asks

USD = 1_000_000


def new_run(store: Store, number: int = 0) -> Run:
    return runs.create_run(
        store, project="lab", name=f"r{number}", workload="w", spec={}, spec_hash="h", executor="local",
        run_dir="/nowhere", actor="ada", key=None, now=1.0, estimate={"target": {"device": "local"}},
    )  # fmt: skip


def agent(store: Store, name: str = "agent", **limits: Any) -> Store:
    allowance = Allowance(**{"total_usd_micros": 100 * USD} | limits)
    token, _ = verbs.make_token(store, name=name, scopes=("run", "spend"), allowance=allowance, actor="ada")
    return store.acting_as(token, origin="test")


def hold(store: Store, run: Run, usd_micros: int, key: str, *, actor: str = "agent", now: float = 100.0) -> None:
    with store.begin() as conn:
        ledger.hold(conn, run, usd_micros, key=key, actor=actor, now=now)


def give_money(store: Store, usd: int = 1000) -> None:
    verbs.deposit(store, usd_micros=usd * USD, key=f"d{usd}", actor="ada")


def test_a_hundred_at_once_never_hold_more_than_is_allowed(store: Store) -> None:
    """On both databases: of 100 holds of a dollar, of a hundred runs, ten may be had."""
    give_money(store)
    bounded = agent(store, total_usd_micros=10 * USD)
    many = [new_run(store, number) for number in range(100)]
    start = threading.Barrier(8)

    def ask(worker: int) -> int:
        start.wait()
        had = 0
        for number in range(worker, 100, 8):
            try:
                hold(bounded, many[number], USD, f"k{number}")
                had += 1
            except BeyondAllowance:
                pass
        return had

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 10
    assert ledger.wallet(store, "lab").held_usd_micros == 10 * USD
    assert ledger.verify(store) == []


def test_each_limit_is_looked_at_and_what_was_released_is_free_again(sqlite_store: Store) -> None:
    store = sqlite_store
    give_money(store)
    one, two = new_run(store, 1), new_run(store, 2)
    bounded = agent(store, total_usd_micros=6 * USD, day_usd_micros=4 * USD, run_usd_micros=3 * USD)
    hold(bounded, one, 3 * USD, "a", now=1000.0)
    for run, dollars, words in ((one, 1, "for one run"), (two, 2, "in 24 hours")):
        with pytest.raises(BeyondAllowance, match=words):
            hold(bounded, run, dollars * USD, "b", now=1001.0)
    hold(bounded, two, 3 * USD, "c", now=1000.0 + 86_401)
    with store.begin() as conn:
        ledger.charge(conn, two, None, 2 * USD, key="charge", now=1.0)
        ledger.release(conn, two, key="release", now=1.0)
        assert allowances.holds(conn, "agent") == {one.id: 3 * USD, two.id: 2 * USD}
    with pytest.raises(BeyondAllowance, match=r"in all; \$5\.00 is held or spent"):
        hold(bounded, new_run(store, 3), 2 * USD, "d", now=1e9)
    hold(bounded, new_run(store, 4), 1 * USD, "e", now=1e9)
    hold(bounded, one, 3 * USD, "a", now=1e9)  # asked again under its key: answered, not held again


def test_places_prices_and_runs_at_once(sqlite_store: Store) -> None:
    store = sqlite_store
    give_money(store)
    run, other = new_run(store, 1), new_run(store, 2)
    for name, limits, words in (
        ("a", {"devices": ("H100",)}, "device H100"),
        ("b", {"executors": ("sky",)}, "executor sky"),
    ):
        with pytest.raises(BeyondAllowance, match=words):
            hold(agent(store, name, **limits), run, USD, name, actor=name)
    cheap = agent(store, "c", usd_micros_per_hour=USD)
    with pytest.raises(BeyondAllowance, match="an hour"), cheap.begin() as conn:
        allowances.check_machine(conn, run, 2 * USD)
    single = agent(store, "d", runs_at_once=1)
    hold(single, run, USD, "d1", actor="d")
    with store.begin() as conn:
        runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="ada", now=1.0)
    with pytest.raises(BeyondAllowance, match="at once, and has 1"):
        hold(single, other, USD, "d2", actor="d")


def test_a_large_hold_waits_for_a_word_and_is_used_once(sqlite_store: Store) -> None:
    store = sqlite_store
    give_money(store)
    run = new_run(store)
    bounded = agent(store, approve_above_usd_micros=USD)

    @asks("spend")
    def fund(store: Store, run_id: str, *, usd_micros: int, key: str, actor: str) -> None:
        hold(store, runs.get_run(store, run_id), usd_micros, key, actor=actor)

    def ask(dollars: int, key: str) -> None:
        fund(bounded, run.id, usd_micros=dollars * USD, key=key, actor="somebody else")

    ask(1, "small")
    for _ in range(2):
        with pytest.raises(ApprovalNeeded, match="needs a person"):
            ask(5, "large")
    (asked,) = verbs.waiting(store)
    assert (asked.token, asked.usd_micros) == ("agent", 5 * USD)
    with pytest.raises(Forbidden):
        verbs.decide(bounded, asked.id, "approved", word="yes", actor="agent")
    verbs.decide(store, asked.id, "approved", word="go on", actor="ada")
    with pytest.raises(ApprovalNeeded):
        ask(6, "more than that")
    (again,) = verbs.waiting(store)
    verbs.decide(store, again.id, "refused", word="too dear", actor="ada")
    with pytest.raises(ApprovalNeeded, match="too dear"):
        ask(6, "more than that")
    assert verbs.waiting(store) == []
    told = [event.kind for event in runs.events(store, run.id) if event.kind.startswith("approval")]
    assert told == ["approval_asked", "approval_approved", "approval_asked", "approval_refused"]


def test_only_a_person_deposits_and_a_revoked_token_is_over_at_once(sqlite_store: Store) -> None:
    store = sqlite_store
    give_money(store)
    bounded = agent(store)
    calls: list[Callable[[], Any]] = [
        lambda: verbs.deposit(bounded, usd_micros=USD, key="k", actor="agent"),
        lambda: verbs.withdraw(bounded, usd_micros=USD, key="k", actor="agent"),
        lambda: verbs.make_token(bounded, name="child", scopes=("admin",), actor="agent"),
        lambda: verbs.revoke_token(bounded, "agent", actor="agent"),
        lambda: verbs.write_note(bounded, project="lab", body="x", actor="agent"),
    ]
    for call in calls:
        with pytest.raises(Forbidden):
            call()
    with bounded.begin() as conn:
        assert ledger.fill_up(conn, project="lab", to_usd_micros=10**12, key="f", actor="agent", now=1.0) == 0
    verbs.revoke_token(store, "agent", actor="ada")
    with pytest.raises(Unauthorised, match="revoked"):
        hold(bounded, new_run(store), USD, "late")
    log = [(entry.actor, entry.verb, entry.outcome) for entry in verbs.audit_log(store)]
    assert ("agent", "deposit", "forbidden") in log
    assert log[0] == ("ada", "revoke_token", "done")


def test_a_token_is_kept_as_a_hash_expires_and_needs_a_limit_to_spend(sqlite_store: Store) -> None:
    store = sqlite_store
    token, secret = tokens.make(store, name="brief", scopes=(), expires_at=10.0, actor="ada", now=1.0)
    with store.read() as conn:
        kept = str(conn.exec_driver_sql("SELECT * FROM tokens").all())
    assert secret not in kept
    assert tokens.looks_like_one(secret)
    assert tokens.by_secret(store, secret, now=9.0).id == token.id
    for bad, now in ((secret, 10.0), (secret[:-1] + "A" * 2, 2.0), ("", 2.0)):
        with pytest.raises(Unauthorised):
            tokens.by_secret(store, bad, now=now)
    for name, scopes in (("brief", ("read",)), ("x", ("spend",)), ("y", ("root",))):
        with pytest.raises(InvalidInput):
            verbs.make_token(store, name=name, scopes=scopes, actor="ada")


def test_a_script_with_a_token_acts_as_it(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = verbs.make_token(sqlite_store, name="script", scopes=("note",), actor="ada")
    monkeypatch.setenv("PATRON_TOKEN", secret)
    monkeypatch.setattr("patron_core.lifecycle.supervisor.ensure_running", lambda store: None)
    store = verbs.open_lab()
    assert store is not None
    assert verbs.write_note(store, project="lab", body="seen", actor="root").actor == "script"
    with pytest.raises(Forbidden):
        verbs.deposit(store, usd_micros=1, key="k", actor="root")
    monkeypatch.setenv("PATRON_TOKEN", secret[:-1])
    with pytest.raises(PatronError):
        verbs.open_lab()
    store.close()


def test_every_verb_that_has_an_actor_asks_for_a_scope() -> None:
    """Whoever adds one that changes something says what a token needs for it, and it is in the audit log."""
    for name in verbs.__all__:
        verb = getattr(verbs, name)
        if inspect.isfunction(verb) and "actor" in inspect.signature(verb).parameters and name != "audit_log":
            assert getattr(verb, "scope", None) in tokens.SCOPES, name
