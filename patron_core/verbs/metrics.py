"""Metrics of runs, small enough to be read: chosen keys, since a step, thinned so that no extreme is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patron_core.errors import InvalidInput, Unavailable
from patron_core.mirror.lag import lags
from patron_core.mirror.tracking import metrics_frame
from patron_core.store import Store, mirrors, runs
from patron_core.verbs.curves import curves

MAX_POINTS = 10_000
Points = list[tuple[int, float, float]]  # step, value, unix seconds


def metrics(
    store: Store,
    run_ids: Sequence[str],
    *,
    keys: Sequence[str] | None = None,
    since_step: int = -1,
    around: int | None = None,
    points: int = 200,
) -> dict[str, Any]:
    """For each run, what `source` says it is from and each key's [[step, value, time]], at most `points` of them.

    From MLflow; from the run's own record where MLflow does not answer or lags by more than 30 s. Of a bucket of points
    that are left out, lowest and highest stay. `around` a step: that many points at both sides of it.
    """
    if not 4 <= points <= MAX_POINTS:
        raise InvalidInput([f"points: {points}; allowed 4 to {MAX_POINTS}"], next="give fewer")
    late = {lag.run_id: lag.seconds for lag in lags(store)}
    answer: dict[str, Any] = {}
    for word in run_ids:
        run = runs.get_run(store, word)
        source, found = _of_run(store, run.id, is_late=run.id in late)
        chosen = {
            key: [point for point in series if point[0] > since_step]
            for key, series in sorted(found.items())
            if keys is None or key in keys
        }
        answer[run.id] = {
            "source": source,
            "mirror_lag_s": late.get(run.id, 0.0),
            "keys": sorted(found),
            "unknown_keys": sorted(set(keys or ()) - set(found)),
            "total": {key: len(series) for key, series in chosen.items()},
            "metrics": {
                key: thinned(series, points) if around is None else near(series, around, points)
                for key, series in chosen.items()
            },
        }
    return answer


def thinned(series: Points, most: int) -> Points:
    """At most `most` points, the first and last among them, and of each bucket its lowest and its highest."""
    if len(series) <= most:
        return series
    inner, buckets = series[1:-1], max(1, (most - 2) // 2)
    kept = [series[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        if bucket:
            kept += sorted({min(bucket, key=_value), max(bucket, key=_value)})
    return [*kept, series[-1]]


def near(series: Points, step: int, most: int) -> Points:
    """The points next to a step, all of them."""
    by_distance = sorted(series, key=lambda point: abs(point[0] - step))
    return sorted(by_distance[:most])


def _of_run(store: Store, run_id: str, *, is_late: bool) -> tuple[str, dict[str, Points]]:
    found: dict[str, Points] = {}
    if not is_late and mirrors.get(store, run_id) is not None:
        try:
            for _, key, step, time, value in metrics_frame(store, [run_id]).iter_rows():
                found.setdefault(key, []).append((step, value, time))
        except Unavailable:
            found = {}
    if found:
        return "mlflow", found
    for key, step, value, time, _ in curves(store, run_id).iter_rows():
        found.setdefault(key, []).append((step, value, time))
    return "events", found


def _value(point: tuple[int, float, float]) -> float:
    return point[1] if point[1] == point[1] else float("inf")
