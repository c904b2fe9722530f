"""Where a run under way is heading, beside what was forecast of it: its end in bits, time and money."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.errors import PatronError
from patron_core.estimate.remaining import Stretch, left_s, useful_s
from patron_core.interval import Interval
from patron_core.lifecycle.workload import check_spec
from patron_core.rundir.record import Record, record_of
from patron_core.scaling.projection import Projection, project
from patron_core.states import ACTIVE, RunState
from patron_core.store.records import Attempt, Run
from patron_core.verbs.curves import shown_directory

if TYPE_CHECKING:
    from patron_core.verbs.series import Array
    from patron_core.verbs.watch import RunView

BAND_POINTS = 60
FIRST_SHARE = 0.02  # of the steps; where a band begins, since before that it says nothing
NEAR_SHARE = 0.02  # of the steps: losses so near an evaluation are compared with it
EARLIEST_SHARE = 0.1  # of the steps; before that a curve says nothing of its end
MAX_POINTS = 600

Band = list[tuple[float, Interval]]  # (step, what is expected there), ascending


@dataclass(frozen=True, kw_only=True)
class Course:
    """None, or empty, where it cannot be said: nothing was forecast, too little was seen, or it is over."""

    forecast_bpb: Interval | None  # at the end, as frozen at funding
    forecast_wall_s: Interval | None
    forecast_usd_micros: Interval | None
    final_bpb: Interval | None  # at the end, by its curve so far
    left_s: Interval | None  # until its last step
    ends_at: Interval | None  # unix seconds
    cost_usd_micros: Interval | None  # in the end, its dryrun included
    is_covered: bool | None  # by what is held, at the upper end
    goodput: float | None  # of the machine time that was paid for training, what became steps that count
    forecast_band: Band  # of val_bpb, from the forecast alone
    bpb_band: Band  # of val_bpb, by its curve so far, to its end
    loss_band: Band  # of the training loss

    def to_dict(self) -> dict[str, Any]:
        """For scripts: without the bands, which pages draw."""
        shown = {
            name: getattr(self, name)
            for name in (
                "forecast_bpb", "forecast_wall_s", "forecast_usd_micros", "final_bpb", "left_s", "ends_at",
                "cost_usd_micros",
            )
        }  # fmt: skip
        ends = {name: None if value is None else value.to_dict() for name, value in shown.items()}
        return ends | {"is_covered": self.is_covered, "goodput": self.goodput}


def course(seen: RunView, *, now: float | None = None) -> Course:
    """Of a run as it was just looked at. Raises Unreachable."""
    now = time.time() if now is None else now
    run, trained = seen.run, [a for a in seen.attempts if a.kind == "train"]
    record = record_of(shown_directory(run, seen.attempts))
    forecast_bpb, forecast_wall_s, forecast_cost = (_frozen(run, k) for k in ("val_bpb", "wall_s", "cost_usd_micros"))
    left = _left_s(seen, record, trained)
    cost = _cost(seen, trained, left)
    funds = seen.money.charged_usd_micros + seen.money.held_usd_micros
    schedule = _schedule(run, seen.num_steps)
    losses = _thinned(record, "train/loss")
    progress = _bpb_progress(record.curve("val/bpb"), losses, seen.num_steps or 0)
    heading = _project(progress, schedule, forecast_bpb)
    is_live = run.state in ACTIVE and run.state is not RunState.DRYRUN
    return Course(
        forecast_bpb=forecast_bpb,
        forecast_wall_s=forecast_wall_s,
        forecast_usd_micros=forecast_cost,
        final_bpb=heading.final if heading is not None and is_live else None,
        left_s=left,
        ends_at=None if left is None else Interval(*(now + seconds for seconds in left)),
        cost_usd_micros=cost,
        is_covered=None if cost is None else cost.high <= funds,
        goodput=_goodput(record, trained),
        forecast_band=_band(_project([], schedule, forecast_bpb), schedule),
        bpb_band=_band(heading if progress else None, schedule, since=seen.step),
        loss_band=_band(_project(losses, schedule, None), schedule, since=seen.step),
    )


def _frozen(run: Run, name: str) -> Interval | None:
    kept = (run.estimate or {}).get(name)
    return Interval(*(float(kept[side]) for side in ("low", "mid", "high"))) if isinstance(kept, dict) else None


def _schedule(run: Run, num_steps: int | None) -> tuple[int, int] | None:
    """Steps in all, and the step where the learning rate begins to fall. None of a workload that has no such thing."""
    if "depth" not in run.spec:
        return None
    with suppress(PatronError):
        recipe = check_spec(run.spec).recipe()
        steps = num_steps or recipe.num_steps
        return steps, steps - round(recipe.schedule.warmdown_ratio * steps)
    return None


def _project(
    progress: Sequence[tuple[int, float]], schedule: tuple[int, int] | None, prior: Interval | None
) -> Projection | None:
    """None where there is nothing to go by: no forecast, and less than a tenth of the steps."""
    if schedule is None:
        return None
    steps, warmdown_start = schedule
    seen = progress if progress and progress[-1][0] >= EARLIEST_SHARE * steps else []
    if not seen and prior is None:
        return None
    return project(seen, num_steps=steps, warmdown_start_step=warmdown_start, prior=prior)


def _band(projection: Projection | None, schedule: tuple[int, int] | None, *, since: int = 0) -> Band:
    """Over all steps, or from `since` to the end."""
    if projection is None or schedule is None or since >= schedule[0]:
        return []
    first = max(float(since), FIRST_SHARE * schedule[0])
    steps = [first + (schedule[0] - first) * i / (BAND_POINTS - 1) for i in range(BAND_POINTS)]
    return list(zip(steps, projection.band(steps), strict=True))


def _bpb_progress(
    measured: Sequence[tuple[int, float]], losses: Sequence[tuple[int, float]], num_steps: int
) -> list[tuple[int, float]]:
    """The val_bpb along the way: its evaluations, and between them the training loss in the unit of the evaluations.

    What a loss is in bits a byte is one number for the run: the median of its last evaluations, where the two curves
    run in parallel.
    """
    evals = [(step, bpb) for step, bpb in measured if step > 0 and math.isfinite(bpb) and bpb > 0]
    if not evals:
        return []
    near = NEAR_SHARE * num_steps
    ratios = []
    for step, bpb in evals[-5:]:
        around = [loss for at, loss in losses if abs(at - step) <= near]
        if around:
            ratios.append(bpb * len(around) / math.fsum(around))
    if not ratios or len(losses) < len(evals):
        return evals
    ratio = sorted(ratios)[len(ratios) // 2]
    return [(step, ratio * loss) for step, loss in losses]


def _thinned(record: Record, key: str) -> list[tuple[int, float]]:
    """(step, mean of the steps around), at most MAX_POINTS; all above 0."""
    from patron_core.verbs.series import edges_for, into_columns

    steps, _, values = record.columns(key)
    columns, last = into_columns(steps, values, edges_for([steps], columns=MAX_POINTS))
    pairs = zip(last.tolist(), columns.mean.tolist(), strict=True)
    return [(int(step), mean) for step, mean in pairs if math.isfinite(mean) and mean > 0]


def _left_s(seen: RunView, record: Record, trained: Sequence[Attempt]) -> Interval | None:
    if seen.run.state not in ACTIVE or seen.run.state is RunState.DRYRUN or not seen.num_steps or not trained:
        return None
    stretches = _stretches(record, trained)
    restarts = seen.run.state is not RunState.RUNNING or not stretches[-1].points
    return left_s(seen.num_steps - seen.step, stretches, restarts=restarts)


def _stretches(record: Record, trained: Sequence[Attempt]) -> list[Stretch]:
    """What each attempt showed, by the times of its machine."""
    steps, times, _ = record.columns("train/loss")
    starts = [a.started_at or a.created_at for a in trained]
    return [
        Stretch(points=_between(steps, times, start, end), started_at=start)
        for start, end in zip(starts, [*starts[1:], math.inf], strict=True)
    ]


def _between(steps: Array, times: Array, start: float, end: float) -> list[tuple[float, float]]:
    """At most about MAX_POINTS, the newest among them."""
    import numpy as np

    inside = np.flatnonzero((times >= start) & (times < end))
    some = inside[:: -max(1, len(inside) // MAX_POINTS)][::-1]
    return list(zip(steps[some].tolist(), times[some].tolist(), strict=True))


def _cost(seen: RunView, trained: Sequence[Attempt], left: Interval | None) -> Interval | None:
    if left is None or not trained:
        return None
    hourly = trained[-1].usd_micros_per_hour
    return Interval(*(seen.money.charged_usd_micros + seconds * hourly / 3600 for seconds in left))


def _goodput(record: Record, trained: Sequence[Attempt]) -> float | None:
    paid_s = sum(a.charged_s for a in trained)
    steps, _, step_s = record.columns("train/step_s")
    if paid_s <= 0 or not len(steps):
        return None
    return min(1.0, useful_s(steps.tolist(), step_s.tolist()) / paid_s)
