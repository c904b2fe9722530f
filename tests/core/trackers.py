"""A tracker in memory, for tests of what is sent to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from patron_core.mirror.position import Point
from patron_core.store.records import Run


class MemoryTracker:
    """Keeps a point (key, value, time, step) once, as MLflow does."""

    def __init__(self) -> None:
        self.points: dict[str, set[Point]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.ends: dict[str, str] = {}
        self.trashed: set[str] = set()

    def create(self, run: Run, tag: str) -> str:
        tracked_id = f"t{len(self.tags)}"
        self.points[tracked_id], self.tags[tracked_id] = set(), {tag: run.id}
        return tracked_id

    def tagged(self, run: Run, tag: str) -> dict[str, bool]:
        return {
            each: bool(self.points[each])
            for each, tags in self.tags.items()
            if tags.get(tag) == run.id and each not in self.trashed
        }

    def log(
        self,
        tracked_id: str,
        points: Sequence[Point] = (),
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.points[tracked_id] |= set(points)
        self.tags[tracked_id] |= tags or {}

    def history(self, tracked_id: str, key: str) -> list[Point]:
        return sorted(point for point in self.points[tracked_id] if point.key == key)

    def restore(self, run: Run, tracked_id: str | None) -> str:
        return ""

    def trash(self, tracked_id: str) -> None:
        self.trashed.add(tracked_id)

    def end(self, tracked_id: str, status: str, *, now: float) -> None:
        self.ends[tracked_id] = status

    def upload(self, tracked_id: str, name: str, text: str) -> None:
        pass
