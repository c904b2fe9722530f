"""An agent goes through the loop by the tools of `patron mcp`, over stdio: what the page says is enough, and its
allowance holds. All of the origin story, also over HTTP: `python -m tests.bench.agent`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.agent import ALLOWED, replay


def test_the_loop_through_mcp(living_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    found = replay(living_home, over="mcp", short=True)
    assert (found["depths_estimated"], found["evaluations_too_often"], found["noted_by"]) == (2, True, "agent")
    assert found["beyond_its_allowance"] == "beyond_allowance"
    assert 0 < found["held_or_spent_usd_micros"] <= ALLOWED
    assert found["feedback_answered"] == 5
