"""What it takes to talk to a run, read from its directory alone, while it trains or later, here or on another machine:

    spec.json  tokenizer.json  checkpoints/step-000300/{manifest.json,state.json,model.pt}     and environment.json

Reads only: a directory may belong to a trainer that is alive.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint.checkpoint import Checkpoint
from trainer.checkpoint.folders import best_step, find_damage, score_of
from trainer.contract.files import cache_folder, read_json, write_atomic
from trainer.contract.layout import CHECKPOINTS, ENVIRONMENT, SPEC, STATE, TOKENIZER, checkpoint_folders
from trainer.contract.spec import SpecError, TrainSpec
from trainer.data.files import sha256_file
from trainer.data.tokenizer import Tokenizer, is_trained
from trainer.model.gpt import Model
from trainer.sampling.generate import cast_matrices

_NEEDED = ("model.pt", STATE)


class LoadError(Exception):
    """Something is missing or spoilt; `next` is what to do about it."""

    def __init__(self, code: str, problem: str, *, next: str):
        super().__init__(f"{problem}. Next: {next}")
        self.code, self.problem, self.next = code, problem, next


@dataclass(frozen=True, kw_only=True)
class Talker:
    model: Model
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def load_talker(run_dir: Path, *, which: int | str | None, device: torch.device, warn: Callable[[str], None]) -> Talker:
    """`which`: a step, "best" by validation, or None for the newest whole checkpoint. Raises LoadError."""
    spec = _read_spec(run_dir)
    tokenizer = find_tokenizer(run_dir)
    checkpoint = find_checkpoint(run_dir, which, warn)
    return Talker(model=load_model(spec, checkpoint, device), tokenizer=tokenizer, checkpoint=checkpoint)


def keep_tokenizer(run_dir: Path, tokenizer_path: Path) -> None:
    """Give the run its own copy, once, so that it can be talked to wherever its directory goes."""
    path = run_dir / TOKENIZER
    if not path.exists():
        write_atomic(path, tokenizer_path.read_text(encoding="utf-8"))


def find_tokenizer(run_dir: Path) -> Tokenizer:
    """The run's own copy, or for a run that has none the cache's of the same hash. Raises LoadError."""
    expected = (read_json(run_dir / ENVIRONMENT) or {}).get("tokenizer_hash")
    own = run_dir / TOKENIZER
    if own.is_file():
        if expected in (None, sha256_file(own)):
            return Tokenizer.load(own)
        raise LoadError(
            "tokenizer_damaged",
            f"{own} has sha256 {sha256_file(own)}, the run was made with {expected}",
            next=f"delete it and start the run again, which ends at once if it is finished, or restore it: {own}",
        )
    for path in sorted((cache_folder() / "tokenizers").glob("*.json")):
        if expected is not None and is_trained(path) and path.with_suffix(".sha256").read_text() == expected:
            return Tokenizer.load(path)
    raise LoadError(
        "no_tokenizer",
        f"{own} is missing, and no tokenizer in {cache_folder() / 'tokenizers'} has the run's hash {expected}; "
        "it can be prepared from the same data",
        next=f"python -m trainer.environment {shlex.quote(str(run_dir / SPEC))}",
    )


def find_checkpoint(run_dir: Path, which: int | str | None, warn: Callable[[str], None]) -> Checkpoint:
    """Raises LoadError. Only what is needed to talk is checked, not the optimizer."""
    folder = run_dir / CHECKPOINTS
    paths = checkpoint_folders(run_dir)
    if not paths:
        raise LoadError(
            "no_checkpoint",
            f"{folder} holds no checkpoint yet",
            next=f"wait for the run's first save, or train: python -m trainer.train {run_dir / SPEC} {run_dir}",
        )
    known = ", ".join(map(str, paths))
    if which is None:
        candidates = list(reversed(paths))
    elif which == "best":
        candidates = [_best_step(paths, known)]
    elif which in paths:
        candidates = [int(which)]
    else:
        raise LoadError("no_checkpoint", f"{folder} holds no step {which}", next=f"give one of the steps {known}")
    problems = []
    for step in candidates:
        state = read_json(paths[step] / STATE)
        problem = find_damage(paths[step], only=_NEEDED) or ("state.json is not JSON" if state is None else None)
        if problem is None and state is not None:
            return Checkpoint(path=paths[step], step=step, state=state)
        problems.append(f"{paths[step].name} is damaged: {problem}")
        if len(candidates) > 1:
            warn(f"{problems[-1]}; trying the one before")
    others = [str(step) for step in paths if step not in candidates]
    raise LoadError(
        "checkpoint_damaged",
        "; ".join(problems),
        next=f"give another of the steps {', '.join(others)}" if others else "start the run again: it trains from 0",
    )


def load_model(spec: TrainSpec, checkpoint: Checkpoint, device: torch.device) -> Model:
    """The model in the dtype that the run computed in, ready to generate. Raises LoadError."""
    try:
        weights = checkpoint.load("model")
        with device:
            model = Model(spec.recipe(), compute_dtype=weights["wte.weight"].dtype)
        model.load_state_dict(weights)
    except OSError as error:
        raise LoadError(
            "checkpoint_gone", f"{checkpoint.path}: {error}", next="try again: a trainer that is alive replaced it"
        ) from error
    except (RuntimeError, KeyError) as error:
        raise LoadError(
            "checkpoint_differs",
            f"{checkpoint.path} does not fit the model of this code and spec.json: {str(error).splitlines()[0]}",
            next="use the version of the trainer that made it; its commit is git_commit in environment.json",
        ) from error
    model.fill_rope_tables()
    cast_matrices(model)
    return model


def _read_spec(run_dir: Path) -> TrainSpec:
    path = run_dir / SPEC
    try:
        return TrainSpec.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(
            "not_a_run", f"{run_dir} is not a run directory: {error}", next="give the folder that holds spec.json"
        ) from error
    except SpecError as error:
        raise LoadError(
            "bad_spec", f"{path}: {'; '.join(error.problems)}", next="use the version of the trainer that made the run"
        ) from error


def _best_step(paths: dict[int, Path], known: str) -> int:
    best = best_step({step: score_of(path) for step, path in paths.items()})
    if best is None:
        raise LoadError(
            "no_checkpoint", f"none of the steps {known} was evaluated", next="leave --step out for the newest"
        )
    return best
