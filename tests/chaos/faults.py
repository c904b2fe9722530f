"""Faults planted by hand: checks taken out of the code, so that it is seen whether these worlds would tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from patron_core.executors import fake
from patron_core.executors.base import ObservedStatus
from patron_core.lifecycle import apply, decide, holds, observe, supervisor
from patron_core.lifecycle.decide import Action, ActionKind
from patron_core.store import attempts, ledger, runs


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _instead(module: Any, name: str, new: Any) -> AbstractContextManager[Any]:
    return mock.patch.object(module, name, new)


def _forgets(kind: ActionKind) -> AbstractContextManager[Any]:
    """The rule that leads to this action is missing."""
    real = decide.decide

    def forgetful(situation: Any) -> Action:
        action = real(situation)
        return Action(kind=ActionKind.WAIT, why="forgotten") if action.kind is kind else action

    return _instead(supervisor, "decide", forgetful)


def _charge_again(conn: Any, run: Any, attempt_id: str, total_usd_micros: int, *, now: float) -> int:
    """Adds what was meant as a total."""
    key = f"charge:{attempt_id}:{now}:{total_usd_micros}"
    return ledger.charge(conn, run, attempt_id, total_usd_micros, key=key, now=now)


def _submits_blindly() -> AbstractContextManager[Any]:
    """The machine starts whatever it is asked to, again too."""
    real = fake.FakeExecutor.submit

    def submit(self: Any, job: Any) -> Any:
        known = self._jobs.pop(job.key, None)
        handle = real(self, job)
        if known is not None and not known.observe(self.now).is_final:
            self._jobs[f"{job.key.rsplit('-', 1)[0]}-{self.num_submits + 100}"] = known
        return handle

    return _instead(fake.FakeExecutor, "submit", submit)


def _no_answer_is_the_end() -> AbstractContextManager[Any]:
    real = fake.FakeExecutor.poll

    def poll(self: Any, handle: Any) -> Any:
        seen = real(self, handle)
        gone = fake.Observation(status=ObservedStatus.GONE, uptime_s=0.0)
        return gone if seen.status is ObservedStatus.UNREACHABLE else seen

    return _instead(fake.FakeExecutor, "poll", poll)


@contextmanager
def _any_transition() -> Iterator[None]:
    """The door asks for no old state, so that a late writer wins."""
    real = runs.transition

    def transition(conn: Any, run_id: str, *, old: Any, **more: Any) -> Any:
        return real(conn, run_id, old=runs.get_run(conn, run_id).state, **more)

    with mock.patch.object(runs, "transition", transition), mock.patch.object(attempts, "check_newest", _nothing):
        yield


@contextmanager
def _end_charge_and_release_one_after_another() -> Iterator[None]:
    """Each in a transaction of its own, so that a crash leaves an end without what it costs."""
    real_end, real_charge, real_settle = apply._end, apply._charge, apply.settle
    later: list[Callable[[Any], Any]] | None = None

    def charge(conn: Any, *args: Any, **more: Any) -> Any:
        if later is None:
            return real_charge(conn, *args, **more)
        return later.append(lambda conn: real_charge(conn, *args, **more))

    def settle(conn: Any, *args: Any, **more: Any) -> int:
        if later is None:
            return real_settle(conn, *args, **more)
        later.append(lambda conn: real_settle(conn, *args, **more))
        return 0

    def end(store: Any, *args: Any, **more: Any) -> None:
        nonlocal later
        later = mine = []
        try:
            real_end(store, *args, **more)
        finally:
            later = None
        for do in mine:
            with store.begin() as conn:
                do(conn)

    changes = {"_end": end, "_charge": charge, "settle": settle}
    with mock.patch.multiple(apply, **changes):
        yield


def _stop_is_noted_before_it_is_asked() -> AbstractContextManager[Any]:
    def stop(store: Any, run: Any, attempt: Any, action: Action, executor: Any, *, now: float) -> None:
        if action.kind is ActionKind.STOP:
            with store.begin() as conn:
                attempts.stop_asked(conn, attempt.id, cause=str(action.stop_cause), now=now)
        if attempt.handle is not None:
            executor.cancel(attempt.handle, grace_s=10.0 if action.kind is ActionKind.STOP else 0.0)

    return _instead(apply, "_stop", stop)


# a meeting that is rare: from here on it is looked for
FIRST_SEED = {
    "an end, its charge and its release come one after another": 240,
    "a stop is noted before it is asked": 36,
    "a clock that was set back is waited for": 12,
    "a submit under way is not forbidden": 580,
    "what was judged may be outdated": 60,
    "any state may follow any": 60,
}
FOUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "what was judged may be outdated": lambda: _instead(attempts, "check_newest", _nothing),
    "any state may follow any": _any_transition,
    "a submit under way is not forbidden": lambda: _instead(
        fake.FakeExecutor, "forbid", lambda self, key, run_dir: self.find(key)
    ),
    "a key starts more than once": _submits_blindly,
    "no answer is taken for the end": _no_answer_is_the_end,
    "a charge is added, not brought up to its total": lambda: _instead(ledger, "charge_up_to", _charge_again),
    "the end is not charged": lambda: _instead(apply, "_charge", _nothing),
    "the rest of a hold stays held": lambda: _instead(apply, "settle", lambda *_, **__: 0),
    "the cap is not looked at": lambda: _instead(ledger, "_check_cap", _nothing),
    "the machine has no deadline": lambda: _instead(holds, "deadline_s", lambda *_, **__: 1e6),
    "a lost machine is not replaced": lambda: _forgets(ActionKind.RELAUNCH),
    "an end is seen and not written": lambda: _forgets(ActionKind.END),
    "an end, its charge and its release come one after another": _end_charge_and_release_one_after_another,
    "a stop is noted before it is asked": _stop_is_noted_before_it_is_asked,
    "a clock that was set back is waited for": lambda: _instead(
        observe, "_since", lambda then, now: 0.0 if then is None else max(0.0, now - then)
    ),
}
