"""What the store hands out: frozen records, one a kind of row. Times in unix seconds, money in micro-dollars."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from patron_core.states import EndReason, RunState

AttemptKind = Literal["dryrun", "train"]
AttemptState = Literal["intent", "submitted", "ended"]
StopRequest = Literal["pause", "cancel"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run as a line in a list: everything that is cheap to read."""

    id: str
    project: str
    name: str
    state: RunState
    reason: EndReason | None  # why it is in this state, where there is something to say
    detail: str
    workload: str
    executor: str
    max_usd_micros: int | None
    stop_requested: StopRequest | None
    failures: int
    actor: str
    host_id: str | None  # whose a local run is; None: rented, or from before there were hosts
    created_at: float
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class Run(RunSummary):
    spec: dict[str, Any]
    spec_hash: str
    run_dir: str
    estimate: dict[str, Any] | None
    dryrun: dict[str, Any] | None
    result: dict[str, Any] | None
    key: str | None


@dataclass(frozen=True, kw_only=True)
class RunFacts(RunSummary):
    """A run as a line in a table: with the few figures of its JSON that a table shows. What is no figure is None."""

    run_dir: str
    depth: int | None
    corpus: str
    device: str  # that it was estimated for
    num_steps: int | None
    step: int | None  # of its last word
    val_bpb: float | None  # of its last word


@dataclass(frozen=True, kw_only=True)
class Attempt:
    id: str  # "<run>-<kind>-<number>", also the idempotency key at the executor
    run_id: str
    number: int  # counts per run and kind, from 1
    kind: AttemptKind
    executor: str
    state: AttemptState
    handle: dict[str, Any] | None
    usd_micros_per_hour: int
    price: dict[str, Any]
    control_key: str | None  # what the core proves a moved deadline with; None: from before there was one
    deadline_s: float | None  # after which the machine stops it by itself
    stop_cause: str | None  # why Patron asked it to stop, if it did
    stop_asked_at: float | None
    started_at: float | None
    ended_at: float | None
    charged_s: float  # totals so far
    charged_usd_micros: int
    reason: EndReason | None
    exit_code: int | None
    evidence: dict[str, Any]
    created_at: float


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    id: int
    run_id: str
    time: float
    actor: str
    kind: str
    old: RunState | None
    new: RunState | None
    reason: EndReason | None
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Note:
    id: str
    project: str
    run_id: str | None
    kind: str
    title: str
    body: str
    revision: int  # from 1
    actor: str
    created_at: float
    updated_at: float
    links: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class NoteRevision:
    note_id: str
    revision: int
    kind: str
    title: str
    body: str
    links: dict[str, Any]
    actor: str
    time: float


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One transfer: `usd_micros` went from account `source` to account `target`."""

    id: int
    project: str
    key: str
    kind: str  # deposit, withdraw, hold, release, or one of ledger.CHARGES
    usd_micros: int
    asked_usd_micros: int  # a charge moves no more than is held, a release all that is left
    source: str
    target: str
    run_id: str | None
    attempt_id: str | None
    memo: str
    actor: str
    time: float


@dataclass(frozen=True, kw_only=True)
class Wallet:
    project: str
    available_usd_micros: int
    held_usd_micros: int
    spent_usd_micros: int
    deposited_usd_micros: int  # less what was withdrawn


@dataclass(frozen=True, kw_only=True)
class RunMoney:
    held_usd_micros: int  # still held
    charged_usd_micros: int
    released_usd_micros: int
    funded_usd_micros: int  # everything that was ever held for it
    # what was charged, by what for (ledger.CHARGES)
    by_kind_usd_micros: dict[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine, with the home and the user that runs there belong to."""

    id: str
    name: str
    user: str
    home: str
    boot_id: str
    silent_s: float = 0.0  # since it was last heard, by the database's clock


@dataclass(frozen=True, kw_only=True)
class Lease:
    name: str
    holder: str
    expires_at: float
    ttl_s: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    id: int
    machine: str
    kind: str  # dryrun, run, peak
    values: dict[str, Any]
    run_id: str | None
    time: float


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """How far a run has been copied into MLflow."""

    run_id: str
    mlflow_run_id: str
    position: dict[str, Any]
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class Search:
    id: str
    project: str
    key: str
    question: dict[str, Any]
    state: str
    decisions: list[dict[str, Any]]  # in order; one that is written stays
    result: dict[str, Any] | None
    created_at: float
    updated_at: float
