"""What a dryrun, or an earlier run, measured; it replaces the estimator's assumptions one by one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from patron_core.errors import InvalidInput
from patron_core.estimate.lateness import ON_TIME, Lateness, Timing
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import TrainSpec

# A burst sees a moment; a CPU is shared with whatever else its owner does during the run.
LEAST_SPREAD = {"cpu": 0.15}
START = "process_and_compile"  # imports, the model, and its compilation where it is compiled
STARTUP_PHASES = ("provisioning", "data", "tokenizer", START)
_OLD_START = "compile"  # its name in measurements that were kept before 0.3


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Measured seconds and bytes, with the configuration they were measured at. None: not measured."""

    source: str  # for people: "dryrun r4f...-dryrun-1"
    device: str  # Device.name
    depth: int
    flops_per_token: int
    batch_tokens: int
    micro_batch_tokens: int
    step_s: float
    step_spread: float = 0.02  # relative, either way
    eval_s: float | None = None  # one pass over eval_tokens
    eval_tokens: int | None = None
    # by phase (STARTUP_PHASES), or {"startup": s} for launch to first step in one figure
    startup_s: Mapping[str, float] = field(default_factory=dict)
    checkpoint_s: float | None = None
    checkpoint_stall_s: float | None = None
    peak_memory_bytes: int | None = None
    upload_bytes_per_s: float | None = None  # of a checkpoint, to the run's bucket
    core_share: float | None = None  # of a CPU's cores, that the steps had; None: a GPU, or not measured
    world: str = "1"  # WorldSize: processes that shared the step; their memory is of one
    fp8: bool = False
    late: Lateness = ON_TIME  # what finished runs add to it; kept with them, not here

    @property
    def flops_per_s(self) -> float:
        return self.flops_per_token * self.batch_tokens / self.step_s

    @property
    def undisturbed(self) -> float:
        """What steps and evaluations would take without others' work, as a share of what they took."""
        return self.core_share or 1.0

    @property
    def lateness(self) -> Lateness:
        """Without any run of the machine, what the burst saw."""
        if self.late.steps.runs or not self.core_share:
            return self.late
        return Lateness.of([Timing.of_burst(self.core_share)])

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"startup_s": dict(self.startup_s)}
        del values["late"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        startup_s = {START if name == _OLD_START else name: s for name, s in values.get("startup_s", {}).items()}
        return cls(**{**values, "startup_s": startup_s})

    @classmethod
    def from_spec(
        cls,
        spec: TrainSpec,
        *,
        device: str,
        source: str,
        step_s: float,
        world: WorldSize = WorldSize(),  # noqa: B008  # frozen
        **measured: Any,
    ) -> Calibration:
        """The configuration comes from the spec that ran. `measured` are this class's other fields."""
        recipe = spec.recipe()
        return cls(
            source=source,
            device=device,
            depth=spec.depth,
            flops_per_token=recipe.flops_per_token,
            batch_tokens=recipe.batch_tokens,
            micro_batch_tokens=spec.micro_batch_size(world.ranks) * spec.sequence_len,
            step_s=step_s,
            world=str(world),
            fp8=spec.fp8,
            **measured,
        )

    @classmethod
    def from_burst(
        cls,
        spec: TrainSpec,
        burst: Mapping[str, Any],
        *,
        device: str,
        source: str,
        provisioning_s: float | None = None,
        world: WorldSize = WorldSize(),  # noqa: B008  # frozen
    ) -> Calibration:
        """From the `burst` of a dryrun's result.json. `provisioning_s`: submit to process start, where it was seen."""
        if not burst.get("step_s"):
            raise InvalidInput([f"{source}: no settled step in its burst"], next="burst 4 steps or more")
        step_s = float(burst["step_s"])
        iqr_s = float(burst.get("step_s_iqr") or 0.0)
        data_s, tokenizer_s = float(burst.get("data_s") or 0.0), float(burst.get("tokenizer_s") or 0.0)
        start_s = float(burst.get("start_s") or 0.0) + max(0.0, float(burst.get("first_step_s") or 0.0) - step_s)
        startup = {"data": data_s, "tokenizer": tokenizer_s, START: max(0.0, start_s - data_s - tokenizer_s)}
        if provisioning_s is not None:
            startup = {"provisioning": provisioning_s} | startup
        per_token = burst.get("eval_s_per_token")
        return cls.from_spec(
            spec,
            device=device,
            source=source,
            step_s=step_s,
            world=world,
            step_spread=min(0.5, max(LEAST_SPREAD.get(device, 0.02), 0.5 * iqr_s / step_s)),
            eval_s=burst.get("eval_s") or (per_token * spec.eval_tokens if per_token else None),
            eval_tokens=spec.eval_tokens,
            startup_s=startup,
            checkpoint_s=burst.get("checkpoint_s"),
            checkpoint_stall_s=burst.get("checkpoint_stall_s"),
            peak_memory_bytes=burst.get("peak_memory_bytes"),
            upload_bytes_per_s=burst.get("upload_bytes_per_s"),
            core_share=burst.get("core_share"),
        )
