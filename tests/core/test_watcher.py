"""How long a workload is silent: a clock of its own, which a watcher that was itself stopped does not run ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from patron_core.executors import watcher
from patron_core.executors.watcher import Silence, changed_at


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watcher, "time", made)
    return made


def test_silence_ends_with_whatever_changes_and_the_longest_is_kept(clock: Clock) -> None:
    said: list[str] = []
    silence = Silence(lambda: len(said))
    for _ in range(7):
        clock.now += 1
        found = silence.look()
    assert found == {"silent_s": 7.0, "longest_silence_s": 0.0}
    said.append("step 1")
    clock.now += 1
    assert silence.look() == {"silent_s": 0.0, "longest_silence_s": 8.0}
    clock.now += 3
    assert silence.look() == {"silent_s": 3.0, "longest_silence_s": 8.0}


def test_a_watcher_that_was_stopped_itself_takes_nobody_for_hung(clock: Clock) -> None:
    silence = Silence(lambda: 0)
    clock.now += 1
    silence.look()
    clock.now += 86_400
    assert silence.look()["silent_s"] < 20


def test_a_folder_changes_with_a_name_in_it_and_a_file_with_its_content(tmp_path: Path) -> None:
    log, events = tmp_path / "log", tmp_path / "events"
    seen = {changed_at(log, events)}
    events.mkdir()
    seen.add(changed_at(log, events))
    (events / "a-000000.jsonl.part").write_text("{}\n")
    seen.add(changed_at(log, events))
    log.write_text("step 1\n")
    seen.add(changed_at(log, events))
    assert len(seen) == 4
