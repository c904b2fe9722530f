"""Can't be late: whatever spot does, the policy finishes when on-demand from the start would have, and saves money."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from bench.spot_traces import bursty, diurnal, exponential
from hypothesis import given, settings
from hypothesis import strategies as st

from patron_core.errors import InvalidInput
from patron_core.market.simulate import simulate
from patron_core.market.spot_policy import Machine, Move, Progress, Terms, choose_greedily, choose_machine

STEP_S = 60.0
HOUR = 3600.0


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """Terms that on-demand meets, often with hardly any slack, and a trace with runs of every length."""
    every = draw(st.integers(1, 5))
    work = draw(st.integers(1, 300)) * STEP_S * draw(st.sampled_from([1.0, 0.37]))
    restart = draw(st.sampled_from([0.0, 20.0, 60.0, 300.0, 720.0, 1800.0]))
    slack = draw(st.one_of(st.just(0.0), st.floats(0, 6 * restart + 1200.0), st.floats(0, 4 * work)))
    terms = Terms(
        work_s=work,
        deadline_s=work + restart + slack,
        restart_s=restart,
        decide_every_s=every * STEP_S,
        loss_s=draw(st.sampled_from([0.0, 30.0, 120.0, 900.0, 3600.0])),
        spot_price_share=draw(st.floats(0.05, 1.2)),
    )
    runs = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=25))
    return {
        "terms": terms,
        "available": [up for up, length in runs for _ in range(length)],
        "decide_every": draw(st.integers(1, every)),
        "starts_s": [share * restart for share in draw(st.lists(st.floats(0, 1), max_size=6))],
        "told": draw(st.booleans()),
    }


@settings(max_examples=3000, deadline=None)
@given(case=cases(), policy=st.sampled_from([choose_machine, choose_greedily]))
def test_it_is_never_late_where_on_demand_is_not(case: dict, policy) -> None:
    outcome = simulate(policy, step_s=STEP_S, **case)
    assert not outcome.late, outcome


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_it_never_costs_more_than_all_the_slack_on_spot_and_all_the_work_on_demand(case: dict) -> None:
    """What placement holds for this way."""
    terms = case["terms"]
    outcome = simulate(choose_machine, step_s=STEP_S, **case)
    slack_s = terms.deadline_s - terms.work_s - terms.restart_s
    assert outcome.spot_s + outcome.on_demand_s <= terms.deadline_s + 1.0
    if terms.spot_price_share <= 1:
        ceiling = (terms.work_s + terms.restart_s + terms.spot_price_share * slack_s) / HOUR
        assert outcome.cost(terms) <= ceiling + 1e-3


def test_an_adversary_who_reclaims_at_the_worst_moment_does_not_make_it_late() -> None:
    """Spot that dies the moment it is ready, or a step before a checkpoint would count, over and over."""
    terms = Terms(work_s=4 * HOUR, deadline_s=7 * HOUR, restart_s=600, decide_every_s=STEP_S, loss_s=1200)
    for lives in (9, 10, 11, 29, 30, 31):
        available = ([True] * lives + [False]) * 200
        outcome = simulate(choose_machine, terms, available, step_s=STEP_S)
        assert not outcome.late
        assert outcome.reclaims > 0


def test_without_the_safety_net_the_same_traces_are_late() -> None:
    """The property above can fail: a policy that only waits for spot breaks it."""
    terms = Terms(work_s=4 * HOUR, deadline_s=5 * HOUR, restart_s=600, decide_every_s=STEP_S)

    def reckless(terms: Terms, now: Progress):
        return choose_machine(replace(terms, deadline_s=1e9), replace(now, time_left_s=now.time_left_s + 1e9))

    assert simulate(reckless, terms, [False] * 60 + [True] * 200, step_s=STEP_S).late
    assert not simulate(choose_machine, terms, [False] * 60 + [True] * 200, step_s=STEP_S).late


TERMS = Terms(work_s=10 * HOUR, deadline_s=15 * HOUR, restart_s=600, decide_every_s=60, loss_s=300)


def at(hours_gone: float, hours_done: float, machine: Machine, spot: bool | None) -> Progress:
    return Progress(
        work_left_s=(10 - hours_done) * HOUR,
        time_left_s=(15 - hours_gone) * HOUR,
        machine=machine,
        spot_available=spot,
    )


@pytest.mark.parametrize(
    ("now", "move", "why"),
    [
        (at(1, 10, Machine.SPOT, True), Move.DONE, "done"),
        (at(0, 0, Machine.NONE, True), Move.SPOT, "slack"),
        (at(0, 0, Machine.NONE, None), Move.SPOT, "slack"),
        (at(0, 0, Machine.NONE, False), Move.WAIT, "ahead"),  # exactly on the line
        (at(3, 1, Machine.NONE, False), Move.ON_DEMAND, "behind uniform progress"),
        (at(3, 1, Machine.NONE, True), Move.SPOT, "slack"),  # behind, and spot is there: the risk is taken
        (at(3, 3, Machine.NONE, False), Move.WAIT, "ahead"),
        (at(8, 3.1, Machine.NONE, True), Move.ON_DEMAND, "safety net"),
        (at(8, 3.1, Machine.NONE, None), Move.ON_DEMAND, "safety net"),
        (at(6, 3, Machine.SPOT, True), Move.SPOT, "until"),
        (at(8, 3.1, Machine.SPOT, True), Move.ON_DEMAND, "given up"),
        (at(3, 1.9, Machine.ON_DEMAND, True), Move.ON_DEMAND, "short of the lead"),
        (at(3, 2.1, Machine.ON_DEMAND, True), Move.ON_DEMAND, "short of the lead"),  # hysteresis: 2d more
        (at(3, 2.3, Machine.ON_DEMAND, True), Move.SPOT, "ahead"),
        (at(3, 2.3, Machine.ON_DEMAND, False), Move.ON_DEMAND, "no spot"),
        (at(3, 2.3, Machine.ON_DEMAND, None), Move.ON_DEMAND, "no spot"),
        (at(9, 9.98, Machine.ON_DEMAND, True), Move.ON_DEMAND, "too little"),
    ],
)
def test_what_it_says(now: Progress, move: Move, why: str) -> None:
    choice = choose_machine(TERMS, now)
    assert choice.move is move, choice
    assert why in choice.why


def test_an_infeasible_deadline_goes_to_on_demand_at_once() -> None:
    terms = replace(TERMS, deadline_s=TERMS.work_s)
    assert not terms.feasible
    outcome = simulate(choose_machine, terms, [True] * 2000, step_s=STEP_S)
    assert outcome.spot_s == 0
    assert outcome.finished_s == pytest.approx(terms.work_s + terms.restart_s)


def test_plain_cases_cost_what_they_must() -> None:
    always = simulate(choose_machine, TERMS, [True] * 1000, step_s=STEP_S)
    assert (always.on_demand_s, always.moves, always.reclaims) == (0.0, 1, 0)
    assert always.spot_s == always.finished_s == TERMS.work_s + TERMS.restart_s
    never = simulate(choose_machine, TERMS, [], step_s=STEP_S)
    assert never.spot_s == 0
    assert never.cost(TERMS) >= (TERMS.work_s + TERMS.restart_s) / HOUR
    with pytest.raises(InvalidInput, match="decide_every"):
        simulate(choose_machine, TERMS, [], step_s=STEP_S, decide_every=2)


@pytest.mark.parametrize("make", [exponential, diurnal, bursty])
def test_it_saves_against_on_demand_and_against_greedy(make) -> None:
    """On average over traces; a single trace may go either way."""
    rng = random.Random(5)
    terms = Terms(work_s=24 * HOUR, deadline_s=30 * HOUR, restart_s=720, decide_every_s=600)
    ours = greedy = 0.0
    for _ in range(60):
        available = make(rng, num_steps=180, step_s=600.0)
        ours += simulate(choose_machine, terms, available, step_s=600.0).cost(terms)
        greedy += simulate(choose_greedily, terms, available, step_s=600.0).cost(terms)
    on_demand = 60 * (terms.work_s + terms.restart_s) / HOUR
    assert ours < 0.95 * on_demand
    assert ours < greedy


def test_terms_that_mean_nothing_are_refused_all_at_once() -> None:
    with pytest.raises(InvalidInput) as refused:
        Terms(work_s=-1, deadline_s=0, restart_s=float("nan"), decide_every_s=60)
    assert len(refused.value.problems) == 3
