"""Whether those who work for a run are there: its machine, its supervisor, its mirror. Reads the store only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patron_core import settings
from patron_core.lifecycle import ownership, post
from patron_core.machines.host import this_host
from patron_core.mirror.lag import lags
from patron_core.states import ACTIVE
from patron_core.store import Store, hosts, leases
from patron_core.store.records import Host, Run

UNSUPERVISED_S = 30.0  # a supervisor that was just started has not got its lease yet


@dataclass(frozen=True, kw_only=True)
class Health:
    host: Host | None  # whose a local run is; None: rented, or of a machine that was never heard
    is_elsewhere: bool  # another machine's, which alone starts and ends something for it
    supervisor: str | None  # machine and process of who supervises it, while anybody does
    payer: str | None  # of a rented run: whose account at the clouds it is, user and machine of its supervisor
    mirror_lag_s: float | None  # of MLflow behind the record, where it is more than 30 s
    warnings: list[str]


def health(store: Store, run: Run) -> Health:
    host = hosts.get(store, run.host_id) if run.host_id else None
    lease = post.SUPERVISOR.lease(run.host_id) if ownership.is_local(run) else post.SUPERVISOR.name
    supervisor, is_elsewhere = post.holder(store, lease), ownership.is_elsewhere(run)
    lag = next(iter(lags(store, run.id)), None)
    warnings = [lag.sentence] if lag else []
    if is_elsewhere:
        warnings += _from_afar(run, host)
    elif run.state in ACTIVE and supervisor is None and leases.database_now(store) - run.updated_at > UNSUPERVISED_S:
        log = settings.home() / "supervisor.log"
        warnings.append(f"nobody supervises it at this moment; whoever opens the lab starts that, and {log} says more")
    lag_s = lag.seconds if lag else None
    return Health(
        host=host,
        is_elsewhere=is_elsewhere,
        supervisor=supervisor,
        payer=None if ownership.is_local(run) else _payer(store),
        mirror_lag_s=lag_s,
        warnings=warnings,
    )


def _payer(store: Store) -> str | None:
    found = hosts.get(store, post.machine_of(store, post.SUPERVISOR.name))
    return f"{found.user} on {found.name}" if found else None


def _from_afar(run: Run, host: Host | None) -> list[str]:
    """What somebody on another machine than the run's has to know."""
    name = host.name if host else "its machine"
    said = []
    if run.stop_requested:
        said.append(f"the wish to {run.stop_requested} waits for {name}, which obeys it when it looks next")
    if run.state in ACTIVE and (host is None or host.silent_s > ownership.UNHEARD_S):
        since = f"was last heard {ownership.ago(host.silent_s)}" if host else "was never heard"
        said.append(
            f"{name} {since}; the run costs no more than is held, and the guard beside it keeps its deadline. Who "
            f"planned it may give it up: patron lab --write-off {run.id} --yes"
        )
    return said


def host_dict(host: Host | None) -> dict[str, Any] | None:
    """A machine as JSON shows it."""
    if host is None:
        return None
    shown = {"id": host.id, "name": host.name, "user": host.user, "home": host.home}
    return shown | {"last_heard_s": round(host.silent_s, 1), "here": host.id == this_host().id}
