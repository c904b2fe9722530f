"""Plan a run of somebody else's training code. Its files are read and kept; nothing of them runs before a dryrun is
asked for."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.estimate.verdict import Budget
from patron_core.lifecycle import ownership
from patron_core.lifecycle.workload import FOREIGN
from patron_core.machines.target import Target, target_of
from patron_core.money import check_usd_micros
from patron_core.rundir.rundir import RunDir
from patron_core.store import Store
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.money import DEFAULT_PROJECT
from patron_core.verbs.plan import draft
from patron_core.workloads.asking import CodeQuestion, ask, resolved
from patron_core.workloads.forecast import ForeignEstimate
from patron_core.workloads.presets import PRESETS
from patron_core.workloads.sources import is_by_https
from trainer.contract.foreign import SOURCES, ForeignSpec


@asks("run")
def plan_code(
    store: Store,
    *,
    question: CodeQuestion,
    project: str = DEFAULT_PROJECT,
    name: str | None = None,
    target: Target = Target(),  # noqa: B008  # frozen
    max_usd_micros: int | None = None,
    budget_s: float | None = None,
    actor: str,
    key: str | None = None,
    now: float | None = None,
) -> Run:
    """A draft run of the code that `question` names. The same key and question give the same run again.

    Raises InvalidInput with every problem at once, Unavailable where git does not answer.
    """
    if max_usd_micros is not None:
        check_usd_micros(max_usd_micros, "max_usd_micros")
    target.check()
    _check_token(store, question, target)
    asked = ask(question, as_nobody=_is_bounded(store))
    now = time.time() if now is None else now
    spec = asked.spec
    row = foreign_estimate(store, spec, target, budget=Budget(s=budget_s, usd_micros=max_usd_micros))
    run = draft(
        store,
        target=target,
        workload=FOREIGN,
        spec=spec.to_dict(),
        spec_hash=spec.hash(),
        estimate=row.to_dict(),
        name=name or f"{spec.name[:40]}-{spec.hash()[:6]}",
        project=project,
        max_usd_micros=max_usd_micros,
        budget_s=budget_s,
        actor=actor,
        key=key,
        now=now,
    )
    RunDir(run.run_dir).put_file(SOURCES, asked.archive)
    return run


def _check_token(store: Store, question: CodeQuestion, target: Target) -> None:
    """A token is no shell: what it brings runs on rented machines, and no folder of this one is read for it. Raises
    Refused, but for one that may do everything."""
    question = resolved(question)
    if not _is_bounded(store):
        return
    here = [
        *(["code of others on this machine"] if target.executor == ownership.LOCAL else []),
        *(["folders or ssh keys of this machine"] if not is_by_https(question.where) else []),
    ]
    if here:
        assert store.token is not None
        raise Refused(
            f"token {store.token.name} may not use {' or '.join(here)}: that is as good as a shell",
            next="name a git repository by https, and --on sky; or ask a person to plan it",
        )


def _is_bounded(store: Store) -> bool:
    """Whether it is asked by a token that may not do everything."""
    return store.token is not None and "admin" not in store.token.scopes


def foreign_estimate(store: Store, spec: ForeignSpec, target: Target, *, budget: Budget) -> ForeignEstimate:
    """Before its dryrun: where, at what price, and what is to be said of it."""
    return ForeignEstimate(
        spec=spec,
        device=target.find_device(store).name,
        price=target.find_price(),
        local=target.is_local,
        budget=budget,
        said=_said(spec, target),
    )


def foreign_repriced(store: Store, run: Run, spec: ForeignSpec) -> ForeignEstimate:
    """With what its dryrun measured."""
    if not run.dryrun:
        raise Refused(f"run {run.id} has no dryrun", next=f"patron dryrun --run {run.id} --yes")
    target = target_of(run)
    return ForeignEstimate(
        spec=spec,
        device=target.find_device(store).name,
        price=target.find_price(),
        local=target.is_local,
        budget=Budget(s=(run.estimate or {}).get("budget_s"), usd_micros=run.max_usd_micros),
        measured=run.dryrun["measured"],
        said=_said(spec, target),
    )


def _said(spec: ForeignSpec, target: Target) -> tuple[str, ...]:
    preset = PRESETS.get(spec.origin.get("preset", ""))
    baseline = (f"Its baseline: {preset.baseline}.",) if preset and preset.baseline else ()
    return (_where_said(spec, target), *baseline)


def _where_said(spec: ForeignSpec, target: Target) -> str:
    where = f"It runs in the image {spec.environment.image}"
    if spec.environment.image and target.is_local:
        return f"{where} where docker answers on this machine, else in the environment at hand, and says so."
    if spec.environment.image:
        return f"{where}."
    words = {"lock": "an environment of its uv.lock", "requirements": "an environment of its requirements"}
    return f"It runs in {words.get(spec.environment.kind(), 'the environment at hand')}."
