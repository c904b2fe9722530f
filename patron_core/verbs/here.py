"""What starts something on this machine is refused for another machine's run; wishes are not."""

from __future__ import annotations

from patron_core.errors import Refused
from patron_core.lifecycle import ownership
from patron_core.store import Store, attempts, hosts
from patron_core.store.records import Run
from patron_core.verbs.next_steps import plan_again


def check_here(store: Store, run: Run) -> None:
    """Raises Refused for a local run of another machine; one from before there were hosts becomes this machine's."""
    if not ownership.is_local(run) or ownership.is_here(store, run):
        return
    owner = hosts.get(store, run.host_id)
    if run.host_id is None and not attempts.for_run(store, run.id) and ownership.adopt(store, run):
        return
    raise Refused(
        f"run {run.id} {ownership.words(owner, 'belongs to')}; what it proved and saved is there. Ask for this "
        "there, or plan one like it on this machine",
        next=plan_again(run),
    )
