"""The command that takes a run further, as it can be typed: what every view of a run ends with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from patron_core.estimate import Estimate
from patron_core.lifecycle.workload import foreign_spec
from patron_core.machines.target import GIVEN_SOURCE, LOCAL_DEVICE, Target, target_of
from patron_core.money import typed_usd
from patron_core.prices import LOCAL_SOURCE
from patron_core.states import EndReason, RunState
from patron_core.store.records import Run
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.spec_door import words_of
from trainer.contract.devices import DEVICES
from trainer.contract.foreign import ForeignSpec
from trainer.contract.spec import SpecError, TrainSpec

_BY_STATE = {
    RunState.DRAFT: "dryrun --run {run} --yes",
    RunState.AWAITING_FUNDING: "launch --run {run} --yes",
    RunState.PAUSED: "launch --run {run} --yes",
    RunState.FUNDED: "launch --run {run} --yes",
    RunState.SUCCEEDED: "compare --runs {run}",
}


def command(name: str, *words: str) -> str:
    """A command of Patron as it is run from a shell."""
    return shlex.join(["patron", name, *words])


def next_step(run: Run, last_word: Mapping[str, Any] | None = None) -> str:
    """`last_word`: what the newest attempt said at its end; it may know what would have fitted."""
    if run.state is RunState.CANCELLED:
        return command("lab", "--project", run.project)
    if run.state is RunState.FAILED:
        return _after_failure(run, last_word or {})
    return f"patron {_BY_STATE.get(run.state, 'watch --run {run}').format(run=run.id)}"


def next_step_of_state(state: RunState) -> str:
    """The same for any run in this state, which stands as RUN."""
    if state is RunState.FAILED:
        return "patron journal --add WHY --kind failed --run RUN"
    words = "lab" if state is RunState.CANCELLED else _BY_STATE.get(state, "watch --run {run}")
    return f"patron {words.format(run='RUN')}"


def _after_failure(run: Run, last_word: Mapping[str, Any]) -> str:
    """Planned again with what would fit, where that is known; else what was tried is written down for the next one."""
    steps, rows = _number(last_word, "fitting", "num_steps"), _number(last_word, "memory", "fitting_device_batch_size")
    with suppress(SpecError):  # a last word may say anything
        if run.reason is EndReason.BAD_SPEC and steps:
            return plan_again(run, num_steps=steps)
        if rows:
            return plan_again(run, device_batch_size=rows)
        if run.reason is EndReason.OUT_OF_FUNDS:  # its dryrun took longer than was held for: nothing is wrong with it
            return plan_again(run)
    reason = run.reason.value if run.reason else "unknown"
    words = ("--add", f"{run.name} failed: {reason}", "--kind", "failed", "--run", run.id)
    return command("journal", *words, *_project(run))


def _number(last_word: Mapping[str, Any], part: str, name: str) -> int | None:
    values = last_word.get(part)
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, int) and found > 0 else None


def plan_again(run: Run, **changes: int) -> str:
    """The command that plans and proves a run like this one, with other values of the spec."""
    code = foreign_spec(run)
    if code is not None:
        return command("dryrun", *_words_of_code(code), *_project(run), *target_words(target_of(run)), "--yes")
    spec = TrainSpec.from_dict(run.spec | changes)
    recipe = spec.recipe()  # what it chose is kept: another number of steps would choose another batch
    kept = replace(spec, num_steps=recipe.num_steps, batch_tokens=recipe.batch_tokens)
    return plan_command(kept, target_of(run), project=run.project)


def _words_of_code(spec: ForeignSpec) -> list[str]:
    """The words of a command line that plan it from where it came."""
    origin = spec.origin
    where = f"{origin['url']}@{origin.get('ref') or origin['commit']}" if "url" in origin else origin.get("folder", ".")
    if "preset" in origin:
        where = origin["preset"]
    how = ["--command", spec.command] if spec.entry_point == "command" else ["--entry-point", spec.entry_point]
    words = ["--workload", where, *how]
    for name, value in spec.parameters.items():
        words += ["--param", f"{name}={value}"]
    return words


def target_for(row: Estimate) -> Target:
    """Where a row of the estimate's table would run: here, or on a machine to be rented as it was priced."""
    if row.price.source == LOCAL_SOURCE:
        return Target(num_gpus=row.world.per_node)
    given = row.price.usd_micros_per_hour // row.world.nodes if row.price.source == GIVEN_SOURCE else None
    one = Target(executor="sky", device=row.device.name, spot=row.price.spot, usd_micros_per_hour=given)
    return replace(one, num_gpus=row.world.per_node, num_nodes=row.world.nodes)


def plan_of(row: Estimate) -> str | None:
    """The command that plans and proves a row of the estimate's table. None where it would be refused: a card that is
    only known by its datasheet is nowhere rented."""
    target = target_for(row)
    if not target.is_local and row.device.name not in DEVICES:
        return None
    return plan_command(row.spec, target)


def plan_command(spec: TrainSpec, target: Target, *, project: str = DEFAULT_PROJECT) -> str:
    """The command that plans and proves this very spec there."""
    where = [] if project == DEFAULT_PROJECT else ["--project", project]
    return command("dryrun", *words_of(spec, rented=not target.is_local), *where, *target_words(target), "--yes")


def _project(run: Run) -> list[str]:
    return [] if run.project == DEFAULT_PROJECT else ["--project", run.project]


def target_words(target: Target) -> list[str]:
    """The words of a command line that say where a run is to run."""
    counts = {"--gpus": target.num_gpus, "--nodes": target.num_nodes}
    size = [word for flag, count in counts.items() if count > 1 for word in (flag, str(count))]
    if target.executor == "local":
        return size
    words = ["--on", target.executor]
    words += ["--device", target.device] if target.device != LOCAL_DEVICE else []
    words += ["--spot"] if target.spot else []
    words += ["--where", target.only] if target.only else []
    if target.usd_micros_per_hour is not None:
        words += ["--usd-per-hour", typed_usd(target.usd_micros_per_hour)]
    return [*words, *size, *(["--fallback-prices"] if target.fallback else [])]
