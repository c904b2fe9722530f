"""What a curve is drawn against: steps, tokens, FLOPs, machine seconds or dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patron_core.lifecycle.workload import check_spec
from patron_core.store.records import Attempt

if TYPE_CHECKING:
    from patron_core.verbs.series import Array

AXES = ("step", "tokens", "flops", "seconds", "usd")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Of one run. None where its workload has no such thing: tokens and FLOPs are of the built-in trainer."""

    batch_tokens: int | None
    flops_per_token: int | None
    spans: tuple[
        tuple[float, float, float], ...
    ]  # of each training: start, end (inf while it goes on), dollars a second

    @classmethod
    def of_run(cls, spec: Mapping[str, Any], made: Sequence[Attempt]) -> Axes:
        recipe = check_spec(spec).recipe() if "depth" in spec else None
        trained = [a for a in made if a.kind == "train" and a.started_at is not None]
        return cls(
            batch_tokens=recipe.batch_tokens if recipe else None,
            flops_per_token=recipe.flops_per_token if recipe else None,
            spans=tuple(
                (
                    a.started_at or 0.0,
                    float("inf") if a.ended_at is None else a.ended_at,
                    a.usd_micros_per_hour / 3600e6,
                )
                for a in trained
            ),
        )

    @property
    def names(self) -> list[str]:
        has = {"tokens": self.batch_tokens, "flops": self.flops_per_token, "seconds": self.spans, "usd": self.spans}
        return [axis for axis in AXES if axis == "step" or has[axis]]

    def of(self, axis: str, steps: Array, times: Array) -> Array:
        """One of AXES at points of these steps and unix seconds. `seconds` and `usd` are machine time of the trainings
        until then, and its price."""
        import numpy as np

        if axis == "step":
            return steps
        if axis in ("tokens", "flops"):
            return (
                steps * float(self.batch_tokens or 0) * (1.0 if axis == "tokens" else float(self.flops_per_token or 0))
            )
        sums = np.zeros(len(times))
        for start, end, usd_per_s in self.spans:
            sums += np.clip(np.minimum(times, end) - start, 0.0, None) * (1.0 if axis == "seconds" else usd_per_s)
        return sums
