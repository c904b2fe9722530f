"""What can be known for nothing before money is spent: is the data there and enough, can the run's place be written,
does SkyPilot's server answer, and does it offer the machine that was planned."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from patron_core.errors import Busy, Refused
from patron_core.executors import skypilot
from patron_core.lifecycle.workload import FOREIGN, check_spec, sources_of, workload_env
from patron_core.machines import credentials
from patron_core.machines.target import target_of
from patron_core.store.records import Run
from patron_core.verbs.next_steps import plan_again
from trainer.contract.code import python_module
from trainer.contract.remote import Remote, RemoteError, is_url
from trainer.contract.spec import PATH, TrainSpec

COUNTED_BYTES = 2**26  # of files; to count more would take longer than the dryrun that finds it out
MOST_BYTES_PER_TOKEN = 8  # of text in the mean, whatever the tokenizer: with more text than that there is enough
_COUNT_TIMEOUT_S = 300.0
_PROBE = "writable"
_ANSWER_WITHIN_S = 10.0


def before_dryrun(run: Run) -> None:
    """Raises Refused, or Busy where somebody does not answer. May take seconds: text is tokenised for its count, which
    the dryrun then finds done."""
    if run.workload == FOREIGN:
        sources_of(run)  # that planning came to its end
    elif target_of(run).is_local:
        _check_tokens(run, check_spec(run.spec))
    before_launch(run)
    if run.executor == "sky":
        skypilot.check_offered(target_of(run).quote()["machine"])


def before_launch(run: Run) -> None:
    """As before a dryrun, without what that has measured."""
    if target_of(run).is_local and run.workload != FOREIGN:
        _data_bytes(run.spec["data"])
    if run.executor == "sky":
        skypilot.check_server()
        credentials.check_travel(run.run_dir, shares_this_machine=target_of(run).shares_files)
    if is_url(run.run_dir):
        check_writable(run.run_dir)


def train_tokens(spec: TrainSpec) -> int | None:
    """What local files have to train on; None where that takes too long to count, or the data is not local files."""
    size = _data_bytes(spec.data)
    return _counted(spec) if size is not None and size <= COUNTED_BYTES else None


def _check_tokens(run: Run, spec: TrainSpec) -> None:
    recipe, size = spec.recipe(), _data_bytes(spec.data)
    if size is None or size > MOST_BYTES_PER_TOKEN * recipe.train_tokens or size > COUNTED_BYTES:
        return
    have = _counted(spec)
    if have >= recipe.train_tokens:
        return
    steps = have // recipe.batch_tokens
    fits = f"choose num_steps of at most {steps}" if steps else "choose a smaller batch_tokens"
    raise Refused(
        f"{spec.data} has {have} training tokens in rows of sequence_len {spec.sequence_len}; {recipe.num_steps} steps "
        f"of {recipe.batch_tokens} need {recipe.train_tokens}, and no token is trained on twice: {fits}, or more text",
        next=plan_again(run, num_steps=steps) if steps else "plan it again with more text",
    )


def _data_bytes(data: str) -> int | None:
    """Of the files, counted no further than it matters; None where the data is not a path. Raises Refused."""
    if not data.startswith(PATH):
        return None
    path = Path(data.removeprefix(PATH))
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        raise Refused(f"{data}: there is no such file or folder on this machine", next="put the text there, then again")
    total = 0
    for file in path.rglob("*"):
        total += file.stat().st_size if file.is_file() else 0
        if total > COUNTED_BYTES:
            break
    return total


def _counted(spec: TrainSpec) -> int:
    """By the trainer itself, in a process of its own."""
    command = python_module("trainer.data.count")
    environ = os.environ | workload_env()
    try:
        done = subprocess.run(
            command,
            env=environ,
            input=spec.to_json(),
            capture_output=True,
            text=True,
            timeout=_COUNT_TIMEOUT_S,
            check=True,
        )
        return int(json.loads(done.stdout)["train_tokens"])
    except subprocess.TimeoutExpired as error:
        raise Busy(
            f"{spec.data} was not counted within {_COUNT_TIMEOUT_S:.0f} s", next="try again when the machine is idle"
        ) from error
    except (subprocess.CalledProcessError, ValueError, KeyError) as error:
        said = (str(getattr(error, "stderr", "") or error)).strip().splitlines()
        raise Refused(said[-1] if said else f"{spec.data} cannot be read", next="give other data") from error


def check_writable(place: str) -> None:
    """Raises Refused, or Busy where nobody answers within ten seconds."""
    try:
        remote = Remote(place, timeout_s=_ANSWER_WITHIN_S, retry_s=_ANSWER_WITHIN_S)
        remote.put(_PROBE, b"")
        with suppress(RemoteError):  # who may write may not be allowed to delete
            remote.delete([_PROBE])
    except RemoteError as error:
        kind = Refused if error.wrong else Busy
        raise kind(f"the run's place {place} cannot be written: {error.message}", next=error.advice) from error
