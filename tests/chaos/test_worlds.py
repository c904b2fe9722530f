"""Worlds of faults keep every promise; and where a check is taken out of the code, some world breaks one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from .faults import FIRST_SEED, FOUND
from .world import play

WORLDS_A_TEST = 12  # `python -m tests.chaos --worlds 2000` plays more
MOST_WORLDS = 240  # most faults show within ten; two supervisors must meet in a rare way for a few


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is meant to fail is logged, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, 8 * WORLDS_A_TEST, WORLDS_A_TEST))
def test_every_world_keeps_every_promise(first: int) -> None:
    happened, broken = play(range(first, first + WORLDS_A_TEST))
    assert broken == []
    for kind in ("crashes between transactions", "crashes at a statement", "long sleeps", "clock jumps"):
        assert happened[kind] > 0
    assert happened["attempts started"] > WORLDS_A_TEST
    assert happened["ended succeeded"] > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FOUND)
def test_a_fault_planted_by_hand_is_found(fault: str) -> None:
    with FOUND[fault]():
        first = FIRST_SEED.get(fault, 0)
        _, broken = play(range(first, first + MOST_WORLDS), to_the_first_broken=True)
    assert broken
