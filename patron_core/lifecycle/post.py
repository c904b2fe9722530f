"""A post: what one process of a machine does for everybody, started by whoever finds it empty.

Two things say that somebody is there. The *lock*, a file in PATRON_HOME, is held by a process of this machine for as
long as it lives, however slow it is: it is taken by whoever starts that process, and handed on to it, so that of any
number who look at once one starts one. The *leases*, in the database, speak to other machines, and lapse: one for each
machine, for its local runs, and one for the lab, for all that no machine owns. One process may have both.
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
from patron_core.lifecycle import own_log
from patron_core.machines.host import this_host
from patron_core.store import Store, hosts, leases, upgrade
from patron_core.store.patience import jittered_s

LEASE_TTL_S = 30.0
FRESH_S = 5.0  # a lease that was had so long ago, with at least half of its time left then, is still had
HEARD_EVERY_S = 10.0
IDLE_ROUNDS = 3
PATIENCE_S = 10.0  # with a busy database, inside one round; between rounds it has all the time in the world
STUCK_S = 600.0  # without a sign of life of who holds the lock: it is ended, and another takes its place

log = logging.getLogger("patron.post")


@dataclass(frozen=True, kw_only=True)
class Post:
    name: str  # of the lab's lease, and of the log
    module: str  # what runs there

    def lease(self, host_id: str | None = None) -> str:
        """The name of the lease for the local runs of that machine, or of this one."""
        return f"{self.name}/{host_id or this_host().id}"

    def lock_file(self) -> Path:
        """A machine's own, since machines may share their home."""
        return settings.home() / f"{self.name}-{this_host().id}.lock"


SUPERVISOR = Post(name="supervisor", module="patron_core.lifecycle.supervisor")
MIRROR = Post(name="mirror", module="patron_core.mirror.process")


def new_holder() -> str:
    """A name for a lease that tells machine and process, and is nobody else's in this process."""
    host, pid = this_host(), os.getpid()
    return f"{host.name}/{pid}/{processes.mark(pid)}/{host.id}/{uuid.uuid4().hex[:8]}"


def holder(store: Store, lease: str) -> str | None:
    """Machine and process of who has it."""
    held = leases.current(store, lease)
    return None if held is None else "/".join(held.holder.split("/")[:2])


def machine_of(store: Store, lease: str) -> str | None:
    """The id of the machine that has it."""
    held = leases.current(store, lease)
    parts = held.holder.split("/") if held else []
    return parts[3] if len(parts) == 5 else None


def is_free(store: Store, lease: str) -> bool:
    """Whether nobody has it, or a process of this machine that is no more."""
    held = leases.current(store, lease)
    return held is None or _is_dead(held.holder)


def ensure(post: Post, store: Store) -> bool:
    """See that a process of this machine is at the post. True when this call started it."""
    if not is_free(store, post.lease()):
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
    _heard_at: float = float("-inf")  # monotonic: when this machine was last said to be there
    _has_lab: bool = False  # the lab's lease, too
    _had_at: dict[str, float] = field(default_factory=dict)  # monotonic, by lease
    _guard: threading.Lock = field(default_factory=threading.Lock)  # so that nothing renews a lease given back

    def keep(self) -> bool:
        """Before each round. False: somebody else is at the post."""
        if self.lock is None:
            self.lock = _take(self.post)
        self.show_life()
        return self.lock is not None and self._renew()

    def still_here(self) -> bool:
        """Inside a round, before each of its parts. False: the lease was lost, and somebody else may be at it."""
        self.show_life()
        return self._is_fresh(self.post.lease()) or self._renew()

    def keep_lab(self) -> bool:
        """For what no machine owns. False: another machine sees to it."""
        if self._has_lab and self._is_fresh(self.post.name):
            return True
        with self._guard:
            self._has_lab = self.lock is not None and self._acquire(self.post.name)
            return self._has_lab

    def _is_fresh(self, name: str) -> bool:
        """Whether it was had so lately that nobody else can have it; asking before each of a thousand runs costs."""
        return self.lock is not None and time.monotonic() - self._had_at.get(name, float("-inf")) < FRESH_S

    def show_life(self) -> None:
        self._round_at = time.monotonic()
        if self.lock is not None:
            os.utime(self.lock)

    def step_down(self) -> None:
        """Leases first, then lock: who finds the post taken until then is seen by the look that follows."""
        with self._guard:
            self._has_lab = False
            self._had_at = {}
            for name in (self.post.name, self.post.lease()):
                leases.release(self.store, name, holder=self.holder)
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
            if self.lock is None or not self._acquire(self.post.lease()):
                return False
            self._has_lab = self._has_lab and self._acquire(self.post.name)
            if time.monotonic() - self._heard_at >= HEARD_EVERY_S:
                hosts.heard(self.store, this_host())
                self._heard_at = time.monotonic()
            return True

    def _acquire(self, name: str) -> bool:
        """With the lock in hand: another process of this machine that had the lease is no more."""
        asked_at = time.monotonic()
        if self._take_lease(name):
            self._had_at[name] = asked_at
            return True
        self._had_at.pop(name, None)
        return False

    def _take_lease(self, name: str) -> bool:
        if leases.acquire(self.store, name, holder=self.holder, ttl_s=LEASE_TTL_S):
            return True
        held = leases.current(self.store, name)
        if held is not None and _is_dead(held.holder):
            leases.release(self.store, name, holder=held.holder)
            held = None
        return held is None and leases.acquire(self.store, name, holder=self.holder, ttl_s=LEASE_TTL_S)


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
            except upgrade.OtherVersion as error:
                log.warning("%s ends: %s", watch.post.name, error.message)
                return
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


def begin(post: Post, inherited: int | None) -> Watch | None:
    """For the process itself: with the lock that it was given, or the free one. None: somebody else is there."""
    settings.keep_private()
    own_log.begin()
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
    if store is not None and store.version != upgrade.HEAD:
        log.warning("no %s here: %s", post.name, upgrade.OtherVersion(store.version).message)
        return None
    return None if store is None else Watch(post=post, store=store, lock=lock)


def add_lock_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lock-fd", type=int, default=None, help=argparse.SUPPRESS)  # from `ensure` alone


def _take(post: Post) -> int | None:
    settings.make_home()
    lock = os.open(post.lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
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


def _is_dead(holder: str) -> bool:
    """Whether it names a process of this machine and boot that is no more. Of others the lease has to lapse: a copied
    home has the same id elsewhere."""
    parts = holder.split("/")
    number, its_mark, host_id = parts[1:4] if len(parts) == 5 else ("", "", "")
    ours = host_id == this_host().id and its_mark.startswith(processes.boot_id())
    return ours and number.isdigit() and not processes.is_alive(int(number), its_mark)


def _end_if_stuck(post: Post) -> None:
    file = post.lock_file()
    with suppress(OSError, ValueError):  # it changes under our hands: whoever has it now has just shown life
        silent_s = time.time() - file.stat().st_mtime
        number, its_mark = file.read_text().split(" ", 1)
        if silent_s > STUCK_S and processes.send_signal(int(number), its_mark, signal.SIGKILL):
            log.warning("%s (process %s) showed no life for %.0f s and was ended", post.name, number, silent_s)
