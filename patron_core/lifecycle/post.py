"""A post: what one process of a lab does for everybody, started by whoever finds it empty.

Two things say that somebody is there. The *lock*, a file in PATRON_HOME, is held by a process of this machine for as
long as it lives, however slow it is: it is taken by whoever starts that process, and handed on to it, so that of any
number who look at once one starts one. The *lease*, in the database, speaks to other machines, and lapses.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from patron_core import settings
from patron_core.errors import Busy, PatronError
from patron_core.executors import processes
from patron_core.store import Store, leases
from patron_core.store.patience import jittered_s
from trainer.contract.masking import mask
from trainer.contract.words import printable

LEASE_TTL_S = 30.0
IDLE_ROUNDS = 3
PATIENCE_S = 10.0  # with a busy database, inside one round; between rounds it has all the time in the world
STUCK_S = 600.0  # without a sign of life of who holds the lock: it is ended, and another takes its place

log = logging.getLogger("patron.post")


@dataclass(frozen=True, kw_only=True)
class Post:
    name: str  # of its lease, its lock and its log
    module: str  # what runs there


SUPERVISOR = Post(name="supervisor", module="patron_core.lifecycle.supervisor")
MIRROR = Post(name="mirror", module="patron_core.mirror.process")


def new_holder() -> str:
    """A name for a lease that tells machine and process, and is nobody else's in this process."""
    return f"{os.uname().nodename}/{os.getpid()}/{processes.mark(os.getpid())}/{uuid.uuid4().hex[:8]}"


def holder(post: Post, store: Store) -> str | None:
    """Machine and process of who is there, by the lease."""
    held = leases.current(store, post.name)
    return None if held is None else "/".join(held.holder.split("/")[:2])


def ensure(post: Post, store: Store) -> bool:
    """See that a process is at the post. True when this call started it."""
    if _is_held(post, store):
        return False
    lock = _take(post)
    if lock is None:
        _end_if_stuck(post)
        return False
    try:
        _start(post, lock)
    finally:
        os.close(lock)  # the process that was started has it now
    return True


@dataclass
class Watch:
    """One process at its post."""

    post: Post
    store: Store
    lock: int | None  # None: it has stepped down
    holder: str = field(default_factory=new_holder)
    _round_at: float = field(default_factory=time.monotonic)
    _guard: threading.Lock = field(default_factory=threading.Lock)  # so that nothing renews a lease given back

    def keep(self) -> bool:
        """Before each round. False: somebody else is at the post."""
        if self.lock is None:
            self.lock = _take(self.post)
        self.show_life()
        return self.lock is not None and self._renew()

    def show_life(self) -> None:
        self._round_at = time.monotonic()
        if self.lock is not None:
            os.utime(self.lock)

    def step_down(self) -> None:
        """Lease first, then lock: who finds the post taken until then is seen by the look that follows."""
        with self._guard:
            leases.release(self.store, self.post.name, holder=self.holder)
            if self.lock is not None:
                os.close(self.lock)
                self.lock = None

    def renew_until(self, done: threading.Event) -> None:
        """A round may wait for a slow server for longer than the lease lasts."""
        while not done.wait(LEASE_TTL_S / 3):
            if self.lock is not None and time.monotonic() - self._round_at < STUCK_S:
                with suppress(PatronError):
                    self._renew()

    def _renew(self) -> bool:
        with self._guard:
            return self.lock is not None and (
                self._acquire() or (not _is_held(self.post, self.store) and self._acquire())
            )

    def _acquire(self) -> bool:
        return leases.acquire(self.store, self.post.name, holder=self.holder, ttl_s=LEASE_TTL_S)


def serve(watch: Watch, work: Callable[[], bool], *, is_needed: Callable[[], bool], every_s: float) -> None:
    """Work round after round until there is nothing to do, whatever fails. `work` says whether more may come.

    At the end the post is given back before anything else, and then looked at once more: what was asked for in between
    is either seen here, or its asker found the post empty and has started another process.
    """
    failures = idle = 0
    done = threading.Event()
    threading.Thread(target=watch.renew_until, args=(done,), name="lease", daemon=True).start()
    try:
        while not _is_gone(watch.store):
            pause_s = every_s
            try:
                if not watch.keep():
                    return
                idle = 0 if work() else idle + 1
                failures = 0
                if idle >= IDLE_ROUNDS:
                    watch.step_down()
                    if not is_needed():
                        return
                    idle = 0
                    continue
            except Exception as error:  # a poll boundary: database, disk or network; they come back
                failures += 1
                pause_s = max(every_s, jittered_s(failures))
                _say(error, watch.post, pause_s)
            time.sleep(pause_s)
    finally:
        done.set()
        with suppress(Exception):
            watch.step_down()


def open_store(post: Post, lock: int) -> Store | None:
    """The store, as soon as its database answers. None when the lab is no more."""
    for failures in range(1, 1_000_000):
        os.utime(lock)
        try:
            return Store.open(patience_s=PATIENCE_S)
        except Busy as error:
            if not settings.home().exists():
                break
            pause_s = jittered_s(failures)
            _say(error, post, pause_s)
            time.sleep(pause_s)
    return None


def _say(error: Exception, post: Post, pause_s: float) -> None:
    if isinstance(error, PatronError):
        log.warning("%s: %s; tried again in %.1f s", post.name, error.message, pause_s)
    else:
        log.error("%s: unexpected; tried again in %.1f s", post.name, pause_s, exc_info=error)


def _is_gone(store: Store) -> bool:
    """A lab that was deleted, or moved away, needs nobody."""
    is_file = store.dialect == "sqlite"
    return not settings.home().exists() or (is_file and not Path(str(store.url.database)).exists())


class _Masked(logging.Formatter):
    """Of a library's words, too: what a traceback quotes may be a URL with a password."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(printable(super().format(record)))


def begin(post: Post, inherited: int | None) -> Watch | None:
    """For the process itself: with the lock that it was given, or the free one. None: somebody else is there."""
    settings.keep_private()
    handler = logging.StreamHandler()
    handler.setFormatter(_Masked("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if inherited is None:
        lock = _take(post)
    else:
        lock = inherited
        os.set_inheritable(lock, False)  # no process that it starts keeps the post when it is gone
        _sign(lock)
    if lock is None:
        log.info("another %s is at it", post.name)
        return None
    store = open_store(post, lock)
    return None if store is None else Watch(post=post, store=store, lock=lock)


def add_lock_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lock-fd", type=int, default=None, help=argparse.SUPPRESS)  # from `ensure` alone


def _take(post: Post) -> int | None:
    folder = settings.make_home()
    lock = os.open(folder / f"{post.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    _sign(lock)
    return lock


def _sign(lock: int) -> None:
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {processes.mark(os.getpid())}".encode(), 0)


def _start(post: Post, lock: int) -> None:
    folder = settings.home()
    with (folder / f"{post.name}.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-P", "-m", post.module, "--lock-fd", str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env=settings.for_children(),
            pass_fds=(lock,),
        )


def _is_held(post: Post, store: Store) -> bool:
    """Whether the lease is somebody's. That of a process of this machine which is no more is given back for it."""
    held = leases.current(store, post.name)
    if held is None or not _is_dead(held.holder):
        return held is not None
    leases.release(store, post.name, holder=held.holder)
    return False


def _is_dead(holder: str) -> bool:
    """Whether it names a process of this machine that is no more."""
    host, _, rest = holder.partition("/")
    number, its_mark = rest.split("/")[:2] if rest.count("/") == 2 else ("", "")
    return host == os.uname().nodename and number.isdigit() and not processes.is_alive(int(number), its_mark)


def _end_if_stuck(post: Post) -> None:
    file = settings.home() / f"{post.name}.lock"
    with suppress(OSError, ValueError):  # it changes under our hands: whoever has it now has just shown life
        silent_s = time.time() - file.stat().st_mtime
        number, its_mark = file.read_text().split(" ", 1)
        if silent_s > STUCK_S and processes.send_signal(int(number), its_mark, signal.SIGKILL):
            log.warning("%s (process %s) showed no life for %.0f s and was ended", post.name, number, silent_s)
