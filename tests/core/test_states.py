"""The state machine: every pair of states and every reason, in the table and through the one door."""

from __future__ import annotations

from itertools import product

import pytest
import sqlalchemy as sa

from patron_core.states import (
    ACTIVE,
    COUNTED_RETRY,
    FREE_RETRY,
    LEGAL,
    NEXT_STATE,
    SENTENCE,
    TERMINAL,
    EndReason,
    RunState,
    why,
)
from patron_core.store import Store, runs
from patron_core.store.schema import runs as runs_table

# the flow as DESIGN draws it, written out a second time on purpose
FORWARD = """
draft dryrun
dryrun awaiting_funding
dryrun draft
draft awaiting_funding
awaiting_funding funded
awaiting_funding dryrun
funded launching
funded awaiting_funding
launching funded
launching running
launching recovering
launching paused
running succeeded
running recovering
running paused
recovering running
recovering launching
recovering succeeded
recovering paused
recovering funded
paused funded
"""
EXPECTED = {(RunState(old), RunState(new)) for old, new in (line.split() for line in FORWARD.split("\n") if line)}
EXPECTED |= {(old, new) for old in set(RunState) - TERMINAL for new in (RunState.FAILED, RunState.CANCELLED)}


@pytest.mark.parametrize(("old", "new"), list(product(RunState, RunState)))
def test_every_pair(old: RunState, new: RunState) -> None:
    assert (new in LEGAL[old]) == ((old, new) in EXPECTED)


def test_tables_are_total() -> None:
    assert set(LEGAL) == set(RunState)
    assert set(NEXT_STATE) == set(SENTENCE) == set(EndReason)
    assert all(LEGAL[state] == frozenset() for state in TERMINAL)
    assert not ACTIVE & TERMINAL


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason(reason: EndReason) -> None:
    """A run that was running may always go where the reason sends it, or back to funded for want of a machine."""
    state = NEXT_STATE[reason]
    assert state in LEGAL[RunState.LAUNCHING if state is RunState.FUNDED else RunState.RUNNING]
    assert (reason in FREE_RETRY | COUNTED_RETRY) == (state is RunState.RECOVERING)
    assert SENTENCE[reason].endswith(".")


def test_memory_is_never_retried_and_preemption_never_counts() -> None:
    assert not {EndReason.CUDA_OOM, EndReason.HOST_OOM} & (FREE_RETRY | COUNTED_RETRY)
    assert EndReason.PREEMPTED in FREE_RETRY
    assert not FREE_RETRY & COUNTED_RETRY


def test_every_state_is_reached_from_draft_and_every_live_one_can_end() -> None:
    reached, fresh = {RunState.DRAFT}, {RunState.DRAFT}
    while fresh:
        fresh = {new for old in fresh for new in LEGAL[old]} - reached
        reached |= fresh
    assert reached == set(RunState)


def test_every_pair_through_the_door(store: Store, make_run) -> None:
    """What the table forbids changes nothing and writes no event; what it allows does both."""
    run = make_run(store)
    for old, new in product(RunState, RunState):
        with store.begin() as conn:
            conn.execute(sa.update(runs_table).values(state=old.value))
        before = len(runs.events(store, run.id))
        if new in LEGAL[old]:
            with store.begin() as conn:
                assert runs.transition(conn, run.id, old=old, new=new, actor="ada", now=2.0).state is new
            last = runs.events(store, run.id)[-1]
            assert (last.kind, last.old, last.new, last.actor, last.time) == ("transition", old, new, "ada", 2.0)
        else:
            with pytest.raises(runs.IllegalTransition, match=f"{old} -> {new}"), store.begin() as conn:
                runs.transition(conn, run.id, old=old, new=new, actor="ada", now=2.0)
            assert runs.get_run(store, run.id).state is old
            assert len(runs.events(store, run.id)) == before


@pytest.mark.parametrize(
    ("reason", "last_word", "ending"),
    [
        (
            EndReason.CUDA_OOM,
            {"memory": {"device_batch_size": 32, "fitting_device_batch_size": 8}},
            "It would fit with device_batch_size 8 instead of 32.",
        ),
        (
            EndReason.HOST_OOM,
            {"memory": {"device_batch_size": 32, "fitting_device_batch_size": None}},
            "Not even one sequence at a time would fit: take a smaller depth or sequence_len.",
        ),
        (EndReason.HOST_OOM, {"memory": {"capacity_bytes": 1}}, SENTENCE[EndReason.HOST_OOM]),  # before the model
        (
            EndReason.DIVERGED,
            {
                "divergence": {
                    "step": 13,
                    "quantity": "gradient",
                    "value": "inf",
                    "name": "lm_head.weight",
                    "num_bad": 5,
                    "num_values": 65536,
                },
                "last_checkpoint_step": 10,
            },
            "In step 13 the gradient of lm_head.weight had inf in 5 of 65,536 values; "
            "the last good checkpoint is of step 10.",
        ),
        (
            EndReason.DIVERGED,
            {"divergence": {"step": 1, "quantity": "loss", "value": "nan", "name": None}},
            "In step 1 the loss was nan; there is no good checkpoint.",
        ),
    ],
)
def test_an_end_is_explained_by_what_the_attempt_knew(
    reason: EndReason, last_word: dict[str, object], ending: str
) -> None:
    assert why(reason, {"last_word": last_word}).startswith(SENTENCE[reason])
    assert why(reason, {"last_word": last_word}).endswith(ending)


def test_without_a_last_word_every_reason_has_its_sentence() -> None:
    for reason in EndReason:
        assert why(reason) == why(reason, {}) == why(reason, {"last_word": {"message": ""}}) == SENTENCE[reason]


@pytest.mark.parametrize(
    ("checkpoint_step", "last_word", "ending"),
    [
        (7, {"step": 7}, "It saved a checkpoint of step 7."),
        (5, {"step": 7}, "Its newest checkpoint is of step 5; it had come to step 7."),  # not up in time
        (5, {}, "Its newest checkpoint is of step 5."),
        (None, {"step": 7}, "There is no checkpoint of it."),
    ],
)
@pytest.mark.parametrize(
    "reason", [EndReason.NOTICE, EndReason.OUT_OF_FUNDS, EndReason.DEADLINE, EndReason.PAUSED, EndReason.HUNG]
)
def test_a_run_saved_a_checkpoint_only_where_a_durable_one_of_that_step_exists(
    reason: EndReason, checkpoint_step: int | None, last_word: dict[str, int], ending: str
) -> None:
    evidence = {"checkpoint_step": checkpoint_step, "last_word": last_word}
    assert why(reason, evidence) == f"{SENTENCE[reason]} {ending}"
    assert "saved" not in SENTENCE[reason]


@pytest.mark.parametrize("reason", [EndReason.BAD_SPEC, EndReason.ENVIRONMENT_DRIFT, EndReason.USER_ERROR])
def test_what_a_person_must_put_right_is_said_by_the_workload_itself(reason: EndReason) -> None:
    said = "90000 steps need 23040000 tokens. Next: choose num_steps of at most 280."
    assert why(reason, {"last_word": {"message": said}}) == f"{SENTENCE[reason]} {said}"
    assert len(why(reason, {"last_word": {"message": "x" * 10**6}})) < 2000
    assert why(reason, {"last_word": {"message": ["x"]}}) == SENTENCE[reason]
