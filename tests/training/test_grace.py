"""The seconds between "stop" and "gone": what each part may take, against what the whole may."""

from __future__ import annotations

import pytest

from trainer.checkpoint.bucket import FLUSH_S
from trainer.contract import grace
from trainer.contract.exits import EXIT_RESUME

LOCAL, BUCKET = "/runs/r1", "s3://bucket/runs/r1"


def test_whoever_kills_waits_for_everything_that_an_end_may_take() -> None:
    """Ending saves for 10 s and uploads for 16 and 4; a kill after 15 would take what was said to be saved."""
    upload_s = FLUSH_S[EXIT_RESUME] + grace.LAST_UPLOAD_S
    assert grace.kill_after_s(LOCAL) == grace.stop_within_s() + grace.LEAVE_S == 15
    assert grace.kill_after_s(BUCKET) == grace.stop_within_s() + upload_s + grace.LEAVE_S == 35
    assert grace.ends_within_s(BUCKET) <= grace.SHORTEST_NOTICE_S
    assert grace.linger_s() < grace.kill_after_s(BUCKET)


def test_a_longer_time_to_stop_moves_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRON_STOP_WITHIN_S", "100")
    assert (grace.kill_after_s(LOCAL), grace.kill_after_s(BUCKET)) == (105, 125)


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "1.9", "nan", "inf"])
def test_what_is_no_time_to_stop_in_is_the_default(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PATRON_STOP_WITHIN_S", text)
    assert grace.stop_within_s() == grace.STOP_WITHIN_S
