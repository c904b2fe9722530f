"""The supervisor: load -> observe -> decide -> apply, for every run that may be burning money.

Each machine has one for its local runs; that of one machine sees to the lab's rented runs, too. Any number of processes
may call `tick`; a lease lets one act at a time. `patron supervise` works until nothing is left to do, so that a run
outlives the notebook that started it; `ensure_running` starts that in the background. A supervisor that dies loses
nothing: everything it knows is in the store.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from patron_core.errors import Conflict, PatronError
from patron_core.executors import get_executor
from patron_core.executors.base import Executor
from patron_core.lifecycle import ownership, post, telling
from patron_core.lifecycle.apply import apply
from patron_core.lifecycle.decide import ActionKind, decide
from patron_core.lifecycle.looking import Looks
from patron_core.lifecycle.observe import Scene, look
from patron_core.lifecycle.systemd import unit
from patron_core.machines.host import this_host
from patron_core.mirror.due import due
from patron_core.states import EndReason
from patron_core.store import Store, attempts, books, leases, runs, upgrade
from patron_core.store.records import Run
from trainer.contract.grace import STOP_WITHIN_S

log = logging.getLogger("patron.supervisor")

TICK_EVERY_S = 1.0
SAME_WORDS_EVERY_S = 60.0
UNCHECKED_TRANSFERS = 200  # that every sum adds up anew; more are checked and kept
ACTIONS_A_TICK = 4  # a submit is followed by a look at once; more than a few in a row would starve other runs


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What one tick did. `acted` is False when another process holds the lease."""

    acted: bool
    actions: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    live: int = 0  # runs that still need a supervisor


@dataclass(kw_only=True)
class Supervisor:
    """One process at work: who it is, and on what."""

    store: Store
    executor_named: Callable[[str], Executor] = get_executor
    holder: str = field(default_factory=post.new_holder)
    still_here: Callable[[], bool] = lambda: True  # whether it has its machine's lease; called before each run
    has_lab: Callable[[], bool] = lambda: True  # whether it has the lab's lease; called before each that is rented
    _said_at: dict[str, float] = field(default_factory=dict)  # monotonic, by what was said
    _looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self._looks = Looks(self.store, self.executor_named)

    def tick(self, *, now: float | None = None) -> Tick:
        """One round, if nobody else of this machine is at it."""
        mine, labs = post.SUPERVISOR.lease(), post.SUPERVISOR.name
        if not self._acquire(mine):
            return Tick(acted=False, live=len(runs.active_runs(self.store)))
        try:
            self.still_here, self.has_lab = lambda: self._acquire(mine), lambda: self._acquire(labs)
            return self.round(now=now)
        finally:
            for name in (labs, mine):
                if leases.current(self.store, name) is not None:
                    leases.release(self.store, name, holder=self.holder)

    def _acquire(self, lease: str) -> bool:
        return leases.acquire(self.store, lease, holder=self.holder, ttl_s=post.LEASE_TTL_S)

    def round(self, *, now: float | None = None) -> Tick:
        """Look at every live run of this machine, and of the lab where it has its lease, and do what is due.

        `now`: unix seconds; the database's clock where it is not given.
        """
        now = leases.database_now(self.store) if now is None else now
        actions: list[str] = []
        errors: list[str] = []
        self._stop_written_off(errors, now=now)
        found = self._its_runs()
        self._looks.forget_all_but(found)
        for run, scene_of in self._looks.at(found, now=now):
            if not self.still_here() or not (ownership.is_local(run) or self.has_lab()):
                errors.append("the lease was lost in the middle of a round, which ends here")
                break
            self._advance(run, scene_of, actions, errors, now=now)
        live = len(self._its_runs() if actions or errors else found)
        return Tick(acted=True, actions=tuple(actions), errors=tuple(errors), live=live)

    def _stop_written_off(self, errors: list[str], *, now: float) -> None:
        """This machine was given up for lost, and is back: what it still runs for them is asked to save and go."""
        for attempt in attempts.to_be_stopped(self.store, this_host().id):
            try:
                executor = self.executor_named(attempt.executor)
                handle = attempt.handle or executor.find(attempt.id)
                if handle is not None:
                    executor.cancel(handle, grace_s=STOP_WITHIN_S)
                with self.store.begin() as conn:
                    attempts.stop_asked(conn, attempt.id, cause=EndReason.WRITTEN_OFF.value, now=now)
            except PatronError as error:
                errors.append(f"{attempt.run_id}: {error.message}")
                self._say(errors[-1])

    def _its_runs(self) -> list[Run]:
        live = runs.active_runs(self.store)
        has_lab = not all(map(ownership.is_local, live)) and self.has_lab()
        return [run for run in live if ownership.is_here(self.store, run) or (has_lab and not ownership.is_local(run))]

    def _advance(
        self, run: Run, scene_of: Callable[[], Scene], actions: list[str], errors: list[str], *, now: float
    ) -> None:
        """One run, from a scene that is there already. What goes wrong here is this run's, and is reported; the others
        are looked at all the same."""
        try:
            executor = self.executor_named(run.executor)
            before: ActionKind | None = None
            for _ in range(ACTIONS_A_TICK):
                scene = scene_of() if before is None else look(self.store, run.id, executor, now=now)
                action = decide(scene.situation)
                if before is None and action.kind is not ActionKind.WAIT:  # its rows are of before the runs before it
                    scene = look(self.store, run.id, executor, now=now)
                    action = decide(scene.situation)
                apply(self.store, scene, action, executor, now=now)
                if action.kind is ActionKind.WAIT:
                    self._looks.nothing_new(scene.run, now=now)
                if action.kind in (ActionKind.WAIT, before):
                    return  # what was just done and is still due, needs time
                before = action.kind
                actions.append(f"{run.id}: {action.kind.value}: {action.why}")
                log.info("%s: %s: %s", run.id, action.kind.value, action.why)
        except Conflict as error:
            log.info("%s: %s", run.id, error.message)  # somebody else was first; the next tick sees what they did
        except PatronError as error:
            errors.append(f"{run.id}: {error.message}")
            self._say(errors[-1])
        except Exception as error:  # a poll boundary: one broken run must not stop the others
            errors.append(f"{run.id}: {type(error).__name__}: {error}")
            self._say(errors[-1], error)

    def _say(self, words: str, unexpected: Exception | None = None) -> None:
        """The same words once a minute: what lasts for days must not fill the disk."""
        if time.monotonic() - self._said_at.get(words, float("-inf")) > SAME_WORDS_EVERY_S:
            self._said_at[words] = time.monotonic()
            log.warning("%s", words, exc_info=unexpected)


def run_loop(watch: post.Watch, *, executor_named: Callable[[str], Executor] = get_executor) -> None:
    """Round after round until no run needs it, whatever fails."""
    supervisor = Supervisor(store=watch.store, executor_named=executor_named)
    supervisor.still_here, supervisor.has_lab = watch.still_here, watch.keep_lab
    threading.Thread(target=end_orphans, args=(watch.store,), name="orphans", daemon=True).start()
    threading.Thread(target=telling.keep_telling, args=(watch.store,), name="alerts", daemon=True).start()

    def work() -> bool:
        seen = supervisor.round()
        _see_to_the_mirror(watch.store)
        _see_to_the_books(watch.store)
        return seen.live > 0 or bool(seen.errors) or telling.is_to_tell(watch.store, now=time.time())

    post.serve(watch, work, is_needed=lambda: is_needed(watch.store), every_s=TICK_EVERY_S)


def _see_to_the_mirror(store: Store) -> None:
    """What goes wrong with it must not slow supervision down."""
    try:
        if post.is_free(store, post.MIRROR.lease()) and due(store):
            post.ensure(post.MIRROR, store)
    except (PatronError, OSError) as error:
        log.warning("no mirror could be started: %s", error)


def _see_to_the_books(store: Store) -> None:
    """A part of what was not checked yet, so that nobody who looks at the lab has to read it."""
    try:
        if books.num_unchecked(store) >= UNCHECKED_TRANSFERS:
            books.check_on(store)
    except PatronError as error:
        log.warning("the books are checked later: %s", error.message)


def end_orphans(store: Store) -> None:
    """What an earlier life of this lab left running at SkyPilot; beside the ticks, since a server may not answer."""
    from patron_core.lifecycle import orphans

    try:
        for orphan in orphans.collect(store, only_seen=True):
            what = "ended an orphan: %s" if orphan.seen else "not ours to end unasked: %s; next: patron gc"
            log.warning(what, orphan.sentence)
    except PatronError as error:
        log.warning("orphans: %s; next: %s", error.message, error.next)
    except Exception:  # a poll boundary
        log.exception("orphans: unexpected")


def is_needed(store: Store) -> bool:
    """Whether this machine has something to see to: a live run of its own, or a rented one that nobody looks at."""
    if attempts.to_be_stopped(store, this_host().id) or telling.is_to_tell(store, now=time.time()):
        return True
    live = runs.active_runs(store)
    rented = not all(map(ownership.is_local, live))
    return any(ownership.is_here(store, run) for run in live) or (rented and post.is_free(store, post.SUPERVISOR.name))


def ensure_running(store: Store) -> bool:
    """See that somebody does what is this machine's: supervises live runs, mirrors them. True: one was started.

    Everybody who opens the store calls this: after a reboot, or a kill, the first look brings both back. Nobody is
    started for the local runs of other machines, nor in a database of another version than this checkout's.
    """
    if store.version != upgrade.HEAD:
        return False
    started = is_needed(store) and post.ensure(post.SUPERVISOR, store)
    return (bool(due(store)) and post.ensure(post.MIRROR, store)) or started


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="patron supervise", description=__doc__)
    parser.add_argument("--install", action="store_true", help="print a systemd unit that starts it after a reboot")
    post.add_lock_flag(parser)
    args = parser.parse_args(argv)
    if args.install:
        print(unit())
        return 0
    watch = post.begin(post.SUPERVISOR, args.lock_fd)
    if watch is not None:
        run_loop(watch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
