"""A run with a deadline: on spot while there is slack, one switch in time, two prices on the bill, never late."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict

import pytest
from bench.spot_traces import bursty
from market_machine import CHANGE_S, HOUR, ON_DEMAND_HOURLY, SPOT_HOURLY, Played, estimate, quotes
from market_machine import play as play_run
from scripted import START

from patron_core import verbs
from patron_core.lifecycle import observe
from patron_core.lifecycle.deadline import finish_of, on_the_other, with_finish
from patron_core.machines.target import Target
from patron_core.market.spot_policy import Machine, Terms
from patron_core.money import cost_usd_micros
from patron_core.states import EndReason, RunState
from patron_core.store import Store, ledger, runs

Play = Callable[..., "Played"]


@pytest.fixture
def play(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Play:
    """The real launch, supervisor and ledger on a trace of when spot was to be had."""
    monkeypatch.setattr(Target, "quote", lambda self, **_: quotes()[not self.spot])
    monkeypatch.setattr(verbs.free_checks, "before_launch", lambda run: None)
    monkeypatch.setattr(observe, "_done", {})
    number = iter(range(1, 100))
    return lambda trace, **more: play_run(sqlite_store, next(number), trace, **{"tick_s": 45.0, **more})


@pytest.mark.parametrize("recovers_itself", [True, False])
def test_one_switch_in_time_and_two_prices_on_the_bill(play: Play, recovers_itself: bool) -> None:
    """Spot for 40 minutes, then none any more."""
    seen = play([True] * 40, recovers_itself=recovers_itself)
    assert not seen.is_late
    assert seen.world.state(seen.run) is RunState.SUCCEEDED
    hourly = [attempt.usd_micros_per_hour for attempt in seen.made]
    assert hourly == sorted(hourly)  # it does not go back and forth
    assert hourly[-1] == ON_DEMAND_HOURLY
    assert [a.reason for a in seen.made][-2:] == [EndReason.SWITCHED, EndReason.COMPLETED]
    paid = seen.machine.paid_s
    expected = cost_usd_micros(paid["spot"], SPOT_HOURLY) + cost_usd_micros(paid["on_demand"], ON_DEMAND_HOURLY)
    money = ledger.run_money(seen.world.store, seen.run.id)
    assert money.by_kind_usd_micros["charge"] == pytest.approx(expected, abs=len(seen.made))
    assert money.charged_usd_micros <= money.funded_usd_micros
    assert money.held_usd_micros == 0
    said = [e.detail.get("why") for e in runs.events(seen.world.store, seen.run.id) if e.kind == "stop_asked"]
    assert said
    assert "no spot" in said[0] or "slack" in said[0]


def test_where_spot_stays_nothing_is_switched_and_only_spot_is_paid(play: Play) -> None:
    seen = play([True] * 1000)
    assert not seen.is_late
    assert [a.usd_micros_per_hour for a in seen.made] == [SPOT_HOURLY]
    assert seen.machine.paid_s["on_demand"] == 0


def test_where_there_is_no_slack_it_starts_on_demand(play: Play) -> None:
    seen = play([True] * 1000, finish_s=HOUR + 300)
    assert not seen.is_late
    assert [a.usd_micros_per_hour for a in seen.made] == [ON_DEMAND_HOURLY]


def test_ten_reclaims_in_a_row_are_no_fault_and_it_is_in_time(play: Play) -> None:
    seen = play(([True] * 8 + [False] * 2) * 100, work_s=1.2 * HOUR, finish_s=3.5 * HOUR, every_s=60.0)
    assert seen.machine.reclaims >= 10
    assert not seen.is_late
    assert seen.world.state(seen.run) is RunState.SUCCEEDED


@pytest.mark.parametrize("recovers_itself", [True, False])
def test_it_is_never_late_and_never_over_its_hold_whatever_spot_does(play: Play, recovers_itself: bool) -> None:
    rng = random.Random(7)
    for slack in (1.15, 1.5):
        for _ in range(2):
            seen = play(
                bursty(rng, num_steps=240, step_s=60.0), work_s=HOUR, finish_s=slack * HOUR + 600,
                recovers_itself=recovers_itself,
            )  # fmt: skip
            assert not seen.is_late, (slack, seen.machine.finished_at, seen.finish_at)
            money = ledger.run_money(seen.world.store, seen.run.id)
            assert money.charged_usd_micros <= money.funded_usd_micros
            assert sum(a.reason is EndReason.SWITCHED for a in seen.made) <= 1


def test_the_terms_change_places_and_keep_their_words() -> None:
    spot, on_demand = quotes()
    quote = with_finish(spot, on_demand, estimate=estimate(HOUR, 60, 3 * HOUR, 300), stop_s=CHANGE_S, now=START)
    finish = finish_of(quote, done_share=0.25, hourly=SPOT_HOURLY, now=START + HOUR)
    assert finish is not None
    assert (finish.machine, finish.time_left_s, finish.work_left_s) == (Machine.SPOT, 2 * HOUR, 0.75 * HOUR)
    assert finish.usd_micros_per_hour == {Machine.SPOT: SPOT_HOURLY, Machine.ON_DEMAND: ON_DEMAND_HOURLY}
    assert on_the_other(on_the_other(quote)) == quote
    assert asdict(Terms(**quote["finish"]["terms"])) == quote["finish"]["terms"]
    assert finish_of(spot, done_share=0.0, hourly=1, now=START) is None
