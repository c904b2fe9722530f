"""Looks at many runs in one round: their rows in bulk, buckets side by side, each as often as it has news."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from patron_core.executors.base import Executor, Handle
from patron_core.lifecycle.observe import Rows, Scene, look, rows_of
from patron_core.store import Store
from patron_core.store.records import Run
from trainer.contract.remote import is_url

LOADED_AT_ONCE = 200  # runs; what was loaded is not older than what is done about so many takes
LOOKS_AT_ONCE = 16  # of runs whose records are asked for over a network


@dataclass
class Looks:
    """Of one supervisor. What it remembers is when it looked at which run."""

    store: Store
    executor_named: Callable[[str], Executor]
    _quiet: dict[str, tuple[float, float]] = field(default_factory=dict)  # run -> (its updated_at, now) of a look

    def at(self, found: Sequence[Run], *, now: float) -> Iterator[tuple[Run, Callable[[], Scene]]]:
        """Each run that may have news, and what gives its scene, or raises what looking raised. A scene is of a moment
        ago: whoever acts looks again."""
        due = [run for run in found if not self._is_quiet(run, now)]
        for first in range(0, len(due), LOADED_AT_ONCE):
            part = rows_of(self.store, due[first : first + LOADED_AT_ONCE])
            self._expect(part)
            yield from self._side_by_side(part, now)

    def nothing_new(self, run: Run, *, now: float) -> None:
        """There was nothing to do about it: it is left alone until its executor may know more, or its row changes."""
        self._quiet[run.id] = (run.updated_at, now)

    def forget_all_but(self, found: Sequence[Run]) -> None:
        there = {run.id for run in found}
        self._quiet = {run_id: seen for run_id, seen in self._quiet.items() if run_id in there}

    def _is_quiet(self, run: Run, now: float) -> bool:
        updated_at, at = self._quiet.get(run.id, (None, 0.0))
        if updated_at != run.updated_at or run.stop_requested is not None:
            return False
        return 0 <= now - at < self.executor_named(run.executor).look_every_s

    def _expect(self, part: Sequence[Rows]) -> None:
        handles: dict[str, list[Handle]] = {}
        for rows in part:
            attempt = rows.attempts[-1] if rows.attempts else None
            if attempt is not None and attempt.state == "submitted" and attempt.handle is not None:
                handles.setdefault(rows.run.executor, []).append(attempt.handle)
        for name, expected in handles.items():
            with suppress(Exception):  # what is wrong with it is said at the look, of its own runs alone
                self.executor_named(name).expect(expected)

    def _side_by_side(self, part: Sequence[Rows], now: float) -> Iterator[tuple[Run, Callable[[], Scene]]]:
        def scene_of(rows: Rows) -> Scene:
            return look(self.store, rows.run.id, self.executor_named(rows.run.executor), now=now, rows=rows)

        with ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look") as threads:
            remote = [rows for rows in part if is_url(rows.run.run_dir)]
            looks = {rows.run.id: threads.submit(scene_of, rows).result for rows in remote}
            try:
                for rows in part:
                    yield rows.run, looks.get(rows.run.id, partial(scene_of, rows))
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
