"""The form of a loss curve under a learning rate that falls at the end, and its points made few. Pure.

Value at a step = level (1 + fall ((S / S_now)^-alpha - 1) + hill (lr^p - 1)), and a smooth departure from that. S is
the learning rate summed so far, which counts for more than steps once it falls; the hill is what the optimiser's noise
at a learning rate costs, which a warm-down pays back. (The two terms are those of Tissue et al. 2024, "Scaling law with
learning rate annealing", and of Luo et al. 2025, "A multi-power law".)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FINAL_LR = 0.05  # of the peak, where a warm-down ends
FIRST_SHARE = 0.10  # of the steps: before that, warm-up and the first fall are of another form
RECENT = 0.15  # nothing is learned from before this share of the newest step
MOST_BINS = 48
LEAST_NOISE = 0.001  # relative, of a point


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What curves are like before one is seen: mean and standard deviation, in shares of the level now."""

    level: tuple[float, float] = (1.0, 0.3)
    fall: tuple[float, float] = (0.35, 0.3)  # that infinitely many steps would still take
    hill: tuple[float, float] = (0.03, 0.03)  # that a warm-down to 0 takes
    alpha: tuple[float, float] = (0.45, 0.5)  # median, and spread of its logarithm
    departure: float = 0.011  # of curves from the form
    length: float = 0.7  # e-folds of S along which a departure lasts


USUAL = Shape()
ALPHAS = (0.12, 0.2, 0.3, 0.45, 0.65, 1.0)
POWERS = (0.7, 1.0, 1.5)  # of the learning rate


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Constant learning rate, then a straight line down to FINAL_LR of it."""

    num_steps: float
    warmdown_start_step: float

    def lr(self, steps: Array) -> Array:
        import numpy as np

        length = max(1e-9, self.num_steps - self.warmdown_start_step)
        down = np.clip((steps - self.warmdown_start_step) / length, 0.0, 1.0)
        return np.asarray(1.0 - (1.0 - FINAL_LR) * down)

    def summed(self, steps: Array) -> Array:
        """S: the learning rate's area up to each step, in steps at the peak."""
        import numpy as np

        into = np.clip(steps - self.warmdown_start_step, 0.0, None)
        return np.asarray(np.minimum(steps, self.warmdown_start_step) + into * (1.0 + self.lr(steps)) / 2)


def form_columns(log_s: Array, lr: Array, alpha: float, power: float) -> Array:
    """(m, 3): of the level, the fall and the hill."""
    import numpy as np

    return np.stack([np.ones_like(log_s), np.exp(-alpha * log_s) - 1.0, lr**power - 1.0], axis=1)


def departure_kernel(a: Array, b: Array, shape: Shape) -> Array:
    """Matern 3/2, which bends but has no corners."""
    import numpy as np

    far = math.sqrt(3) * np.abs(a[:, None] - b[None, :]) / shape.length
    return np.asarray(shape.departure**2 * (1 + far) * np.exp(-far))


def log_bins(steps: Array, num_steps: float) -> Array:
    """(m,) the bin of each point, numbered without gaps: evenly along ln step, so that many points cost as few."""
    import numpy as np

    if not len(steps):
        return np.zeros(0, dtype=int)
    raw = np.floor(np.log(steps / num_steps) / math.log(FIRST_SHARE) * MOST_BINS).astype(int)
    return np.asarray(np.unique(-raw, return_inverse=True)[1])


def bin_mean(values: Array, bins: Array) -> Array:
    import numpy as np

    return np.bincount(bins, values) / np.bincount(bins) if len(bins) else _none()


def point_noise(values: Array) -> float:
    """Relative, of one point about the curve: from second differences, which a smooth fall hardly enters."""
    import numpy as np

    if len(values) < 5:
        return 5 * LEAST_NOISE
    bends = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
    return max(LEAST_NOISE, float(np.median(bends)) / 0.6745 / math.sqrt(6))


def _none() -> Array:
    import numpy as np

    return np.zeros(0)
