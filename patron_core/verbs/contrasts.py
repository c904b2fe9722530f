"""What several runs have to say together: who is best for its time or money, what differs, and whether it is real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, is_dataclass, replace
from typing import Any, Literal

from patron_core.scaling.seeds import GroupComparison, compare_groups
from patron_core.states import RunState
from patron_core.store.engine import dumps
from patron_core.verbs.compare import Comparison
from patron_core.verbs.run_table import distinct_names
from trainer.contract.spec import FIELDS

Cost = Literal["wall_s", "train_usd_micros"]
_SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """A field of the spec in which these runs differ."""

    field: str
    values: tuple[Any, ...]  # one a run, in their order; the default where a spec does not name it

    def to_dict(self) -> dict[str, Any]:
        return {"field": self.field, "values": list(self.values)}


def with_distinct_names(rows: Sequence[Comparison]) -> list[Comparison]:
    """Two runs of one name are told by their ids."""
    names = distinct_names({row.run: row.name for row in rows})
    return [replace(row, name=names[row.run]) for row in rows]


def frontier(rows: Sequence[Comparison], cost: Cost) -> list[Comparison]:
    """The runs that no other beats: none has a lower val_bpb for as little of `cost`. The cheapest first.

    A run that cost nothing, or has no outcome, is on no frontier.
    """
    done = [row for row in rows if row.val_bpb is not None and getattr(row, cost)]
    best: list[Comparison] = []
    for row in sorted(done, key=lambda row: (getattr(row, cost), row.val_bpb)):
        if not best or (row.val_bpb or 0.0) < (best[-1].val_bpb or 0.0):
            best.append(row)
    return best


def spec_differences(rows: Sequence[Comparison]) -> list[FieldDifference]:
    """The fields that are not the same in all runs, in the spec's own order."""
    known = [*FIELDS, *sorted({name for row in rows for name in row.spec} - set(FIELDS))]
    found = []
    for name in known:
        values = tuple(_value(row, name) for row in rows)
        if len({dumps(value) for value in values}) > 1:
            found.append(FieldDifference(field=name, values=values))
    return found


def seed_noise(rows: Sequence[Comparison]) -> GroupComparison:
    """Runs that differ in their seed alone as one group, each group against the best. Only whole runs count."""
    whole = [row for row in rows if row.state == RunState.SUCCEEDED and row.val_bpb is not None]
    differing = [one.field for one in spec_differences(whole) if one.field != _SEED]
    groups: dict[str, list[Comparison]] = {}
    for row in whole:
        values = {name: _value(row, name) for name in differing}
        groups.setdefault(", ".join(f"{name} {value}" for name, value in values.items()) or "all", []).append(row)
    return compare_groups({label: [row.val_bpb or 0.0 for row in found] for label, found in groups.items()})


def _value(row: Comparison, name: str) -> Any:
    """The default where the spec does not name it; None where there is no such one."""
    if name in row.spec or name not in FIELDS:
        return row.spec.get(name)
    field = FIELDS[name]
    made = field.default_factory() if field.default_factory is not MISSING else field.default
    return asdict(made) if is_dataclass(made) and not isinstance(made, type) else None if made is MISSING else made


def noise_sentence(found: GroupComparison) -> str:
    """Whether the best is better than the noise of seeds, or what is missing to tell."""
    if len(found.groups) < 2:
        return "Fewer than two different specs have finished: there is nothing to tell apart."
    best, second = found.groups[0], found.groups[1]
    gap = second.mean - best.mean
    if found.pooled_spread is None:
        return (
            f"{best.label} is {gap:.4f} below {second.label}. No spec was run with two seeds, so nobody knows how much "
            "of that is noise: run the best two again with another seed."
        )
    real = [contrast for contrast in found.contrasts if contrast.is_real]
    spread = f"seeds spread by {found.pooled_spread:.4f} ({found.degrees} degrees of freedom)"
    if len(real) == len(found.contrasts):
        return f"{best.label} is better than every other by more than the noise of seeds: {spread}."
    unsure = [contrast.other for contrast in found.contrasts if not contrast.is_real]
    return f"{best.label} has the lowest mean, but {', '.join(unsure[:3])} may be as good: {spread}."
