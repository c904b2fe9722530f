"""A run planned and proven from what stands in a form or in flags: the same for page and script, safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.ui import code_flags, inert, show, spec_flags, target_flags
from patron_core.ui.code_flags import CodeArguments

if TYPE_CHECKING:
    from patron_core.estimate import Estimate
    from patron_core.store import Store

Say = Callable[[str], object]


def plan(
    store: Store,
    given: Mapping[str, Any],
    *,
    flags: CodeArguments,
    depth: int | None,
    file: str,
    name: str,
    try_anyway: bool,
    actor: str,
    key: str,
    say: Say,
) -> str:
    """The id of a draft. `given`: what is in the fields `place`, `plan`, `others`, `depth` and `code` of the form;
    `depth`: the one that a flag asked for; `flags`: what else there is to say of foreign code. The same key plans it
    once.

    Raises what `verbs.plan` and `verbs.plan_code` do, and InvalidInput for a field that cannot be read.
    """
    say("Planning.")
    target = target_flags.target_of(given["place"])
    workload = given["code"]["workload"].strip()
    ours = verbs.PRESETS[workload].spec if workload in verbs.PRESETS else {}
    if workload and not ours:
        return verbs.plan_code(
            store,
            question=code_flags.question_of(flags, given["code"]),
            project=given["place"]["project"],
            name=name or None,
            target=target,
            **target_flags.limits_of(given["place"]),
            actor=actor,
            key=f"dryrun:{key}",
        ).id
    fields = spec_flags.of_form(given["plan"], given["others"], file=file)
    fields = {**ours, **fields} if ours else spec_flags.with_depth(fields, depth, given["depth"])
    return verbs.plan(
        store,
        spec=verbs.spec_on(target.find_device(store), fields).to_dict(),
        project=given["place"]["project"],
        name=name or None,
        target=target,
        **target_flags.limits_of(given["place"]),
        try_anyway=try_anyway,
        actor=actor,
        key=f"dryrun:{key}",
    ).id


def words(row: Estimate) -> inert.Markdown:
    """What a plan comes to, before anything is measured."""
    return inert.md(
        "**Depth {}**: {} parameters, {}, {}, val_bpb {}, as estimated before any measurement.",
        row.recipe.depth,
        show.count(row.num_params["total"]),
        show.between(row.wall_s, show.seconds),
        show.between(row.cost_usd_micros, show.usd),
        show.between(row.val_bpb, show.bpb),
    )


def prove(store: Store, run_id: str, *, deposit: float, deposit_key: str, actor: str, key: str | None, say: Say) -> str:
    """Pay in `deposit` dollars, start a dryrun, and see that somebody supervises. Returns the run's id.

    Raises what `verbs.deposit` and `verbs.dryrun` do.
    """
    if deposit:
        project = verbs.find_run(store, run_id).project
        micros = verbs.from_usd(deposit)
        verbs.deposit(store, project=project, usd_micros=micros, key=f"deposit:{run_id}:{deposit_key}", actor=actor)
    verbs.dryrun(store, run_id, actor=actor, key=key, on_progress=say)
    verbs.ensure_running(store)
    return run_id
