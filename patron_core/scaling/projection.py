"""Where a training is heading: the curve so far, continued through its warm-down to the last step. Pure.

    seen = project(progress, num_steps=2520, warmdown_start_step=882, prior=estimate.val_bpb)
    seen.final                   # Interval at the last step
    seen.band(range(0, 2521))    # an Interval for each step, past and future
    seen.with_more_tokens(1.2)   # a run of 20 % more tokens: its end, and how much lower that is

The curve's form is curve_form.py's. Its level, fall and hill are linear given alpha and p, so their posterior is exact;
alpha and p are summed over a grid, each pair by how likely it makes the curve. The departure is a Gaussian process
along ln S: what the form cannot follow stays in the interval. What was forecast of the end is one more observation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from patron_core.errors import InvalidInput
from patron_core.interval import Interval
from patron_core.scaling.curve_form import (
    ALPHAS,
    FIRST_SHARE,
    POWERS,
    RECENT,
    USUAL,
    Schedule,
    Shape,
    bin_mean,
    departure_kernel,
    form_columns,
    log_bins,
    point_noise,
)
from patron_core.scaling.fitting import T_DEGREES
from patron_core.scaling.law import Z90

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


MOST_SPREAD = 10.0  # of ln: beyond it nothing is known


@dataclass(frozen=True, kw_only=True)
class MoreTokens:
    final: Interval  # of the longer run
    gain: Interval  # how much lower it ends


@dataclass(frozen=True, kw_only=True)
class _Member:
    """The posterior for one alpha and p."""

    weight: float
    alpha: float
    power: float
    beta: Array  # (3,): level, level fall, level hill
    covariance: Array  # (3, 3)
    pull: Array  # (n,): inverse noise times what is left of the observations
    whitened: Array  # (n, n): the inverse of the observations' covariance
    columns: Array  # (n, 3)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A curve and its continuation. Values are in the unit of the progress."""

    schedule: Schedule
    scale: float
    shape: Shape
    last_step: int  # the newest that was seen
    _log_s: Array  # (n,) of the observations
    _s_now: float
    _members: tuple[_Member, ...]

    @property
    def final(self) -> Interval:
        """At the last step, of the smooth curve: nine in ten lie inside."""
        return self.band([self.schedule.num_steps])[0]

    def band(self, steps: Iterable[float]) -> list[Interval]:
        """Of the smooth curve at each step, 0 or more; before the first tenth it says little."""
        import numpy as np

        at = np.asarray(list(steps), dtype=float)
        return self._intervals(at, self.schedule) if len(at) else []

    def with_more_tokens(self, factor: float) -> MoreTokens:
        """A run of `factor` times the steps from its beginning, its warm-down as large a share of them.

        Raises InvalidInput for a factor that is not above 0."""
        import numpy as np

        if not (math.isfinite(factor) and factor > 0):
            raise InvalidInput([f"factor: {factor!r}; allowed above 0"], next="1.2 for 20 % more tokens")
        old = self.schedule
        longer = Schedule(num_steps=factor * old.num_steps, warmdown_start_step=factor * old.warmdown_start_step)
        (final,) = self._intervals(np.array([longer.num_steps]), longer)
        means, variances = [], []
        for member in self._members:
            rows = [self._rows(np.array([s.num_steps]), s, member) for s in (old, longer)]
            mean, covariance = self._posterior(
                np.concatenate([row for row, _ in rows]), np.concatenate([log_s for _, log_s in rows]), member
            )
            means.append(mean[0] - mean[1])
            variances.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        mid, spread = self._mixed(np.array(means)[:, None], np.array(variances)[:, None])
        low, high = (float((mid + sign * Z90 * spread)[0]) for sign in (-1, 1))
        return MoreTokens(final=final, gain=Interval(low, float(mid[0]), high))

    def _intervals(self, steps: Array, schedule: Schedule) -> list[Interval]:
        import numpy as np

        found = [self._posterior(*self._rows(steps, schedule, member), member) for member in self._members]
        mid, spread = self._mixed(
            np.array([mean for mean, _ in found]), np.array([np.diag(covariance) for _, covariance in found])
        )
        mid = np.maximum(mid, 1e-9)  # a loss stays above 0
        factor = np.exp(np.minimum(Z90 * spread / mid, MOST_SPREAD))
        return [Interval(float(m / f), float(m), float(m * f)) for m, f in zip(mid, factor, strict=True)]

    def _mixed(self, means: Array, variances: Array) -> tuple[Array, Array]:
        """(members, m) each: mean and standard deviation of the mixture, in the progress's unit."""
        import numpy as np

        weights = np.array([member.weight for member in self._members])
        mid = weights @ means
        spread = np.sqrt(np.maximum(0.0, weights @ (variances + (means - mid) ** 2)))
        return mid * self.scale, spread * self.scale

    def _rows(self, steps: Array, schedule: Schedule, member: _Member) -> tuple[Array, Array]:
        import numpy as np

        first = FIRST_SHARE * self.schedule.num_steps
        log_s = np.log(schedule.summed(np.maximum(steps, first)) / self._s_now)
        return form_columns(log_s, schedule.lr(steps), member.alpha, member.power), log_s

    def _posterior(self, rows: Array, log_s: Array, member: _Member) -> tuple[Array, Array]:
        """(m, 3) rows and (m,) places: mean (m,) and covariance (m, m) of the curve there, relative."""
        across = departure_kernel(log_s, self._log_s, self.shape)
        mean = rows @ member.beta + across @ member.pull
        moved = rows - across @ member.whitened @ member.columns
        own = departure_kernel(log_s, log_s, self.shape) - across @ member.whitened @ across.T
        return mean, own + moved @ member.covariance @ moved.T


def project(
    progress: Sequence[tuple[int, float]],
    *,
    num_steps: int,
    warmdown_start_step: int,
    prior: Interval | None = None,
    shape: Shape = USUAL,
) -> Projection:
    """Continue (step, value) pairs, values all of one kind and above 0: val_bpb, or the train loss of each step.

    `warmdown_start_step`: where the learning rate begins to fall; num_steps where it never does. `prior`: what was
    forecast of the end, in the same unit. Raises InvalidInput where neither a point nor a prior is there, and for a
    schedule that cannot be.
    """
    if num_steps < 1 or not 0 <= warmdown_start_step <= num_steps:
        raise InvalidInput(
            [f"num_steps {num_steps}, warmdown_start_step {warmdown_start_step}; allowed 0 <= start <= steps"],
            next="give the run's own schedule",
        )
    schedule = Schedule(num_steps=num_steps, warmdown_start_step=warmdown_start_step)
    seen = sorted((s, v) for s, v in progress if 0 < s <= num_steps and math.isfinite(v) and v > 0)
    if not seen and prior is None:
        raise InvalidInput(["progress: no finite value above 0, and no prior"], next="wait for the first steps")
    if prior is None:
        return _continued(seen, schedule, shape, None)
    spread = math.log(prior.high / prior.low) / 2 / Z90 if prior.low > 0 else 1.0
    if seen:  # a forecast that the curve belies weighs little: Student's t, as for the runs of the law
        alone = _continued(seen, schedule, shape, None).final
        apart = math.hypot(spread, math.log(alone.high / alone.low) / 2 / Z90)
        spread *= math.sqrt(max(1.0, (T_DEGREES + (math.log(prior.mid / alone.mid) / apart) ** 2) / (T_DEGREES + 1)))
    return _continued(seen, schedule, shape, (prior.mid, max(1e-4, spread)))


def _continued(
    seen: Sequence[tuple[int, float]], schedule: Schedule, shape: Shape, forecast: tuple[float, float] | None
) -> Projection:
    """`forecast`: of the end, with its relative standard deviation."""
    import numpy as np

    last_step = seen[-1][0] if seen else 0
    first = max(FIRST_SHARE * schedule.num_steps, RECENT * last_step)
    used = np.array([pair for pair in seen if pair[0] >= first] or seen[-1:], dtype=float).reshape(-1, 2)
    steps, values = used[:, 0], used[:, 1]
    scale = float(np.mean(values[steps >= 0.9 * last_step])) if len(used) else (forecast or (1.0,))[0]
    s_now = float(schedule.summed(np.array([last_step or schedule.num_steps]))[0])
    log_s, lr = np.log(schedule.summed(np.maximum(steps, 1.0)) / s_now), schedule.lr(steps)
    bins = log_bins(steps, schedule.num_steps)
    y, places = bin_mean(values / scale, bins), bin_mean(log_s, bins)
    variance = point_noise(values / scale) ** 2 / np.maximum(1, np.bincount(bins, minlength=len(y)))
    end = np.array([schedule.num_steps] if forecast else [])
    end_log_s, end_lr = np.log(schedule.summed(end) / s_now), schedule.lr(end)
    if forecast:
        mid, spread = forecast
        y, variance = np.append(y, mid / scale), np.append(variance, (spread * mid / scale) ** 2)
    places = np.append(places, end_log_s)
    noisy = departure_kernel(places, places, shape) + np.diag(variance)
    members = []
    for alpha, power in itertools.product(ALPHAS, POWERS):
        columns = [bin_mean(column, bins) for column in form_columns(log_s, lr, alpha, power).T]
        at_end = form_columns(end_log_s, end_lr, alpha, power)
        members.append(_member(y, noisy, np.concatenate([np.stack(columns, axis=1), at_end]), alpha, power, shape))
    likely = np.array([member.weight for member in members])
    weights = np.exp(likely - likely.max())
    weights /= weights.sum()
    return Projection(
        schedule=schedule,
        scale=scale,
        shape=shape,
        last_step=last_step,
        _log_s=places,
        _s_now=s_now,
        _members=tuple(replace(member, weight=float(weight)) for member, weight in zip(members, weights, strict=True)),
    )


def _member(y: Array, noisy: Array, columns: Array, alpha: float, power: float, shape: Shape) -> _Member:
    """`weight` is the log posterior here, and made a share by the caller."""
    import numpy as np

    prior_mean = np.array([shape.level[0], shape.fall[0], shape.hill[0]])
    precision = np.diag([1 / shape.level[1] ** 2, 1 / shape.fall[1] ** 2, 1 / shape.hill[1] ** 2])
    whitened = np.linalg.inv(noisy)
    covariance = np.linalg.inv(precision + columns.T @ whitened @ columns)
    beta = covariance @ (precision @ prior_mean + columns.T @ whitened @ y)
    left, away = y - columns @ beta, beta - prior_mean
    fit = float(left @ whitened @ left) + float(away @ precision @ away)
    volume = float(np.linalg.slogdet(covariance)[1])
    unlikely = (math.log(alpha / shape.alpha[0]) / shape.alpha[1]) ** 2
    return _Member(
        weight=0.5 * (volume - fit - unlikely),
        alpha=alpha,
        power=power,
        beta=beta,
        covariance=covariance,
        pull=whitened @ left,
        whitened=whitened,
        columns=columns,
    )
