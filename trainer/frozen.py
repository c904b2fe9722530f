"""The spec of a run is frozen by its first start; a finished run is not trained again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.contract.exits import EXIT_DONE, BadSpec
from trainer.contract.files import read_json, write_json
from trainer.contract.layout import MANIFEST, RESULT, SPEC, checkpoint_name
from trainer.contract.remote import read_anywhere
from trainer.contract.spec import SpecError, TrainSpec

S = TypeVar("S")


def load_spec(place: str | Path) -> TrainSpec:
    """Raises BadSpec."""
    return load(place, TrainSpec.from_json)


def load(place: str | Path, from_json: Callable[[str], S]) -> S:
    """A spec of any workload, from a path or a URL. Raises BadSpec."""
    try:
        return from_json(read_anywhere(place).decode())
    except SpecError as error:
        raise BadSpec(f"{place}: " + "; ".join(error.problems)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"cannot read the spec: {error}") from error


def freeze_spec(spec: TrainSpec, run_dir: Path) -> None:
    """The first start writes spec.json; a run never changes its spec."""
    path = run_dir / SPEC
    if not path.exists():
        write_json(path, spec.to_dict())
        return
    differing = _differing_keys(spec, load_spec(path))
    if differing:
        raise BadSpec(
            f"{path} differs from the given spec in {'; '.join(differing)}. Give the run's own spec to resume, or "
            "another run directory to start a new run"
        )


def _differing_keys(given: TrainSpec, frozen: TrainSpec) -> list[str]:
    ours, theirs = given.to_dict(), frozen.to_dict()
    return [f"{key} ({theirs[key]!r} in the run, {ours[key]!r} given)" for key in ours if ours[key] != theirs[key]]


def is_spec_of_another_run(spec_path: str, run_dir: Path) -> bool:
    """Whether the given spec is unreadable or not the finished run's own."""
    try:
        return bool(_differing_keys(load_spec(spec_path), load_spec(run_dir / SPEC)))
    except BadSpec:
        return True


def is_finished(run_dir: Path) -> bool:
    """A completed result, and the checkpoint it speaks of. A burst does not finish a run."""
    result = read_json(run_dir / RESULT) or {}
    if result.get("exit_code") != EXIT_DONE or result.get("reason") != "completed" or "burst" in result:
        return False
    return (run_dir / checkpoint_name(result.get("step") or 0) / MANIFEST).exists()
