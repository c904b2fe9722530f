"""Long work of an app: started once per key, its words kept, its errors carried."""

from __future__ import annotations

import threading

from patron_core.errors import Refused
from patron_core.ui import background
from patron_core.ui.background import Work

LIMIT_S = 20.0


def finished(work: Work) -> Work:
    for thread in threading.enumerate():
        if thread.name == f"patron-{work.key}":
            thread.join(LIMIT_S)
    assert work.done
    return work


def test_the_same_key_starts_once_and_is_found_again() -> None:
    gate, calls = threading.Event(), []

    def slow(work: Work) -> int:
        calls.append(work.key)
        gate.wait(LIMIT_S)
        work.say("almost", latest=41)
        return 42

    first, second = background.start("once", slow), background.start("once", slow)
    assert first is second is background.find("once")
    assert not first.done
    gate.set()
    done = finished(first)
    assert (done.value, done.latest, done.lines, calls) == (42, 41, ["almost"], ["once"])


def test_what_came_to_an_end_can_be_asked_for_again() -> None:
    gate = threading.Event()
    first = background.start("again", lambda work: gate.wait(LIMIT_S))
    assert background.under_way("again") is first
    gate.set()
    finished(first)
    assert background.under_way("again") is None
    second = background.start("again", lambda work: 2)
    assert second is not first
    assert finished(second).value == 2


def test_a_press_comes_once_and_is_kept_no_longer() -> None:
    gate, held = threading.Event(), list[Work | None]()
    held.append(background.start("press", lambda work: gate.wait(LIMIT_S)))
    assert background.came(lambda: held[-1], held.append) is None
    gate.set()
    pressed = finished(held[-1] or Work(key="none"))
    assert background.came(lambda: held[-1], held.append) is pressed
    assert held[-1] is None
    assert background.came(lambda: held[-1], held.append) is None
    assert background.find("press") is None


def test_errors_are_carried_in_the_one_shape() -> None:
    def refuse(work: Work) -> None:
        raise Refused("no money", next="deposit")

    refused = finished(background.start("refused", refuse))
    broken = finished(background.start("broken", lambda work: 1 // 0))
    said = {"code": "refused", "message": "no money", "next": "deposit", "retryable": False}
    assert refused.error == {"error": said}
    assert broken.error is not None
    assert broken.error["error"]["code"] == "internal"
    assert background.find("nothing") is None
