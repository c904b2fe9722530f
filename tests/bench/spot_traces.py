"""When spot was to be had: made-up traces of three kinds, and files in the format of the public ones.

`bursty` is fitted by eye to what Wu et al. (NSDI 2024) publish of nine AWS zones: a zone is to be had 4 to 78 % of the
time, changes from all to nothing within hours, and stays away for hours to days; seen each ten minutes.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path


def exponential(
    rng: random.Random, *, num_steps: int, step_s: float, up_s: float = 3 * 3600, down_s: float = 2 * 3600
) -> list[bool]:
    """Reclaims and returns at constant rates."""
    up = rng.random() < up_s / (up_s + down_s)
    trace = []
    while len(trace) < num_steps:
        length_s = rng.expovariate(1 / (up_s if up else down_s))
        trace += [up] * max(1, round(length_s / step_s))
        up = not up
    return trace[:num_steps]


def diurnal(rng: random.Random, *, num_steps: int, step_s: float) -> list[bool]:
    """Plenty at night, little by day, with reclaims in between."""
    phase = rng.uniform(0, 2 * math.pi)
    trace, up = [], rng.random() < 0.5
    for i in range(num_steps):
        plenty = 0.5 + 0.45 * math.sin(phase + 2 * math.pi * i * step_s / 86400)
        if rng.random() < step_s / 3600:  # looks again about once an hour
            up = rng.random() < plenty
        trace.append(up)
    return trace


def bursty(rng: random.Random, *, num_steps: int, step_s: float) -> list[bool]:
    """Quiet times and busy times with heavy tails; in busy times spot comes and goes within minutes."""
    share = rng.uniform(0.04, 0.78)
    trace: list[bool] = []
    while len(trace) < num_steps:
        length_s = min(2 * 86400.0, 1800.0 * rng.paretovariate(1.1))
        kind = rng.random()
        steps = max(1, round(length_s / step_s))
        if kind < 0.3:
            trace += [rng.random() < share for _ in range(steps)]
        else:
            trace += [rng.random() < share] * steps
    return trace[:num_steps]


def read_trace(path: Path, *, num_nodes: int = 1) -> tuple[list[bool], float]:
    """(available, step in seconds) of a file {"metadata": {"gap_seconds": s}, "data": [machines to be had]}."""
    content = json.loads(path.read_text())
    return [count >= num_nodes for count in content["data"]], float(content["metadata"]["gap_seconds"])
