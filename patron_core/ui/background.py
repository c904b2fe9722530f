"""Long work of an app, in a thread of its own: one at a time under a key, looked at from every page that polls.

Only for work that is safe to lose: what must survive is written to the store, and training runs in its own process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from patron_core import verbs
from patron_core.errors import InternalError, PatronError
from patron_core.states import RunState
from patron_core.ui import inert, show

if TYPE_CHECKING:
    from patron_core.store import Store
    from patron_core.ui.plot.presses import Presses
    from patron_core.ui.script import Session

BEAT_S = 2.0
# A browser sends what was typed and the press after it by connections of their own, in any order; and what comes last
# waits until the page has drawn what the press changed, which took more than 0.3 s on a busy machine.
SETTLE_S = 1.0
Standing = tuple[tuple[str, RunState, float] | None, bool, int]

T = TypeVar("T")
_WORK: dict[str, Work] = {}  # one server, many pages: a page that is reloaded finds its work again
_LOCK = threading.Lock()


@dataclass(kw_only=True)
class Work:
    key: str
    lines: list[str] = field(default_factory=list)  # what it said, in order
    latest: Any = None  # what it looked at last
    value: Any = None
    error: dict[str, Any] | None = None
    started_at: float = field(default_factory=time.monotonic)
    done: bool = False

    def say(self, line: str, latest: Any = None) -> None:
        if line:
            self.lines.append(line)
        if latest is not None:
            self.latest = latest


def pressed(key: str, work: Callable[[Work], Any]) -> Work:
    """Start what a button asks for, once what was typed before the press has come too."""

    def settled(handle: Work) -> Any:
        time.sleep(SETTLE_S)
        return work(handle)

    return start(key, settled)


def start(key: str, work: Callable[[Work], Any]) -> Work:
    """Start `work(handle)`, unless work under this key is under way: then that one. What was pressed twice is done
    once, by whomever; what came to an end can be asked for again."""
    with _LOCK:
        if (known := _WORK.get(key)) is not None and not known.done:
            return known
        handle = _WORK[key] = Work(key=key)
    threading.Thread(target=_run, args=(handle, work), daemon=True, name=f"patron-{key}").start()
    return handle


def presses() -> Presses:
    """For a page with buttons: they go off where they are pressed, and on again where none of its presses is under
    way."""
    from patron_core.ui.plot.presses import Presses

    return Presses()


class Refreshed(Generic[T]):
    """A value that takes long to get: what there was last at once, and another is got where that is old."""

    def __init__(self, get: Callable[[], T], *, every_s: float):
        self._get, self._every_s = get, every_s
        self._value: T | None = None
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def latest(self) -> T | None:
        """None before the first has come. An error of `get` leaves the one before."""
        with self._lock:
            if time.monotonic() - self._asked_at < self._every_s:
                return self._value
            self._asked_at = float("inf")  # until it has come
        threading.Thread(target=self._refresh, daemon=True, name="patron-refreshed").start()
        return self._value

    def _refresh(self) -> None:
        try:
            self._value = self._get()
        finally:
            self._asked_at = time.monotonic()


def is_busy(work: Work | None) -> bool:
    """Whether the press that a page's state holds is still under way."""
    return work is not None and not work.done


def came(get_work: Callable[[], Work | None], set_work: Callable[[None], object]) -> Work | None:
    """What the press that a page's state holds came to, once; None while it is under way, and without one."""
    work = get_work()
    if work is None or not work.done:
        return None
    set_work(None)
    if _WORK.get(work.key) is work:
        del _WORK[work.key]
    return work


def find(key: str) -> Work | None:
    return _WORK.get(key)


def under_way(key: str) -> Work | None:
    """What was started under this key, by anybody, and is not at its end."""
    found = find(key)
    return found if found is not None and not found.done else None


def standing(session: Session[Any], store: Store, run_id: str | None, work: Work | None) -> Standing:
    """What a page is drawn anew for, and not at each tick: its run changed, the press that it follows came to an end,
    or, while an attempt is at work, two seconds are over."""
    run = session.call(verbs.find_run, store, run_id).value if run_id else None
    beat = int(time.monotonic() / BEAT_S) if run is not None and run.state in verbs.ACTIVE else 0
    return ((run.id, run.state, run.updated_at) if run else None, work is not None and work.done, beat)


def is_active(standing: Standing) -> bool:
    return bool(standing[2])


def progress(work: Work) -> inert.Markdown:
    """For a page that waits: what is being done now, what was done before it, and for how long."""
    *before, now = work.lines or ["Starting."]
    said = inert.md("**{}** {} so far.", now, show.seconds(time.monotonic() - work.started_at))
    return inert.paragraphs([inert.md("{}", " ".join(before)), said]) if before else said


def told(work: Work) -> tuple[inert.Markdown, inert.Markdown]:
    """For a page: all that it said, and where the run stands that it looks at; that is empty once it is done."""
    said = inert.bullets(work.lines, mark="1.") or inert.md("Starting.")
    is_running = work.latest is not None and not work.done
    return said, inert.code(show.progress_line(work.latest)) if is_running else inert.md("")


def _run(handle: Work, work: Callable[[Work], Any]) -> None:
    try:
        handle.value = work(handle)
    except PatronError as error:
        handle.error = error.to_dict()
    except Exception as error:  # the end of the thread: what is not kept here is never seen
        handle.error = InternalError(f"{type(error).__name__}: {error}", next="report this").to_dict()
    finally:
        handle.done = True
