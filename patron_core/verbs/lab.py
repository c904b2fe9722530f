"""The lab at a glance: its projects, the runs that wait for a person, its money, and whether the books add up."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patron_core import settings
from patron_core.errors import PatronError
from patron_core.lifecycle import post, supervisor
from patron_core.mirror.lag import Lag, lags
from patron_core.states import ACTIVE
from patron_core.store import Store, approvals, books, hosts, labs, ledger, runs, searches, tokens, upgrade
from patron_core.store.approvals import Approval
from patron_core.store.records import Host, LedgerEntry, RunFacts, RunSummary, Search, Wallet
from patron_core.store.tokens import Token
from patron_core.verbs.attention import Waiting, waiting_runs
from patron_core.verbs.health import host_dict
from patron_core.verbs.money import DEFAULT_PROJECT, wallet_dict
from patron_core.verbs.run_table import RunRow, run_table, whose
from patron_core.verbs.watch import burn_usd_micros_per_hour

SHOWN_RUNS = 50

log = logging.getLogger("patron.lab")


@dataclass(frozen=True, kw_only=True)
class Lab:
    lab: str  # the lab's own id
    project: str
    projects: dict[str, int]  # runs in each
    rows: list[RunRow]  # runs of this project, pinned first, then newest first
    waiting: list[Waiting]  # the newest of those that wait for a person
    attention: list[RunFacts]  # all of them
    searches: list[Search]
    wallet: Wallet
    burn_usd_micros_per_hour: int  # of all projects
    statement: list[LedgerEntry]  # newest first
    late: list[Lag]  # mirrors that lag by more than 30 s, of all projects
    hosts: dict[str, Host]  # the lab's machines, by id
    supervisors: dict[str, str]  # machine and process of who supervises: by host id, and "lab" for rented runs
    approvals: list[Approval]  # holds of tokens that wait for a person, oldest first
    problems: list[str]  # what does not add up in the books; nothing is as it should be

    @property
    def runs(self) -> list[RunFacts]:
        return [row.run for row in self.rows]

    @property
    def live(self) -> list[RunRow]:
        """Under way now."""
        return [row for row in self.rows if row.run.state in ACTIVE]

    @property
    def money_lasts_s(self) -> float | None:
        """For how long what is in the wallet and what is held pay for all that runs; None where nothing does."""
        left = self.wallet.available_usd_micros + self.wallet.held_usd_micros
        return 3600 * left / self.burn_usd_micros_per_hour if self.burn_usd_micros_per_hour else None

    @property
    def counted(self) -> str:
        """ "50 of 9,800 runs"."""
        total = self.projects.get(self.project, 0)
        return f"{len(self.rows):,} of {total:,} runs" if total > len(self.rows) else f"{total:,} runs"

    @property
    def whose(self) -> dict[str, str]:
        """By run: who planned it, and where it runs. Empty where there is one person on one machine."""
        return whose(self.rows, self.hosts)

    def host_of(self, run: RunSummary) -> str | None:
        """The name of its machine; None where that is rented, or was never heard."""
        return self.hosts[run.host_id].name if run.host_id in self.hosts else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "lab": self.lab,
            "project": self.project,
            "projects": self.projects,
            "wallet": wallet_dict(self.wallet),
            "burn_usd_micros_per_hour": self.burn_usd_micros_per_hour,
            "money_lasts_s": self.money_lasts_s,
            "attention": [run.id for run in self.attention],
            "waiting": [
                {
                    "run": one.run.id,
                    "name": one.run.name,
                    "state": one.run.state.value,
                    "why": one.words,
                    "next": one.next,
                }
                for one in self.waiting
            ],
            "runs": [row.to_dict() | {"host": self.host_of(row.run)} for row in self.rows],
            "searches": [{"search": s.id, "key": s.key, "state": s.state} for s in self.searches],
            "late_mirrors": [{"run": lag.run_id, "mirror_lag_s": lag.seconds, "why": lag.why} for lag in self.late],
            "hosts": [host_dict(host) for host in self.hosts.values()],
            "supervisors": self.supervisors,
            "approvals": [asked.to_dict() for asked in self.approvals],
            "problems": self.problems,
        }


def open_lab(*, make: bool = True, token_id: str = "", origin: str = "script") -> Store | None:
    """The lab's store, and somebody at work in it where that is needed, after a reboot for instance.

    It acts as the token of that id, else as PATRON_TOKEN, else as the owner. Without `make`, None where there is no lab
    yet. Raises Unavailable; Busy when the same again may do; Unauthorised for a token that opens nothing.
    """
    url = settings.database_url()
    if not make and url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    store = Store.open(url)
    if store.version != upgrade.HEAD:
        said = upgrade.OtherVersion(store.version)
        log.warning("%s; next: %s", said.message, said.next)
    entered = store.acting_as(_token(store, token_id), origin=origin)
    try:
        supervisor.ensure_running(store)
    except (PatronError, OSError) as error:  # it is no answer to what was asked; the next look tries again
        log.warning("no supervisor could be started: %s", error)
    return entered


def _token(store: Store, token_id: str) -> Token | None:
    if token_id:
        return tokens.by_id(store, token_id, now=time.time())
    secret = settings.token()
    return tokens.by_secret(store, secret, now=time.time()) if secret else None


def project_to_show(store: Store, asked: str = "") -> str:
    """The project that was asked for; without one the usual, or where that has no run the one with the most."""
    counts = runs.projects(store)
    if asked or not counts or DEFAULT_PROJECT in counts:
        return asked or DEFAULT_PROJECT
    return max(counts, key=lambda name: counts[name])


def lab(store: Store, project: str = DEFAULT_PROJECT, *, limit: int = SHOWN_RUNS) -> Lab:
    rows = run_table(store, project=project, limit=limit)  # looks into run directories
    with store.read():
        waiting, attention = waiting_runs(store, project)
        machines = hosts.everybody(store)
        return Lab(
            lab=labs.lab_id(store),
            project=project,
            projects=runs.projects(store),
            rows=rows,
            waiting=waiting,
            attention=attention,
            searches=searches.list_searches(store, project=project, limit=10),
            wallet=ledger.wallet(store, project),
            burn_usd_micros_per_hour=burn_usd_micros_per_hour(store),
            statement=ledger.statement(store, project, 50),
            late=lags(store),
            hosts=machines,
            supervisors=_supervisors(store, machines),
            approvals=approvals.waiting(store, project=project),
            problems=books.problems(store),
        )


def _supervisors(store: Store, machines: Iterable[str]) -> dict[str, str]:
    names = {"lab": post.SUPERVISOR.name} | {host_id: post.SUPERVISOR.lease(host_id) for host_id in machines}
    return {key: who for key, name in names.items() if (who := post.holder(store, name)) is not None}
