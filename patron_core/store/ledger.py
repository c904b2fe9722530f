"""Money: an append-only double-entry ledger. A balance is a sum; nothing is ever changed or deleted.

    outside:<project> --deposit--> wallet:<project> --hold--> hold:<run> --charge--> spent:<run>
                      <--withdraw-                 <--release-            teardown, storage, egress: charges too

A transfer moves a positive amount from one account to another, so that every transfer sums to zero. Neither a
wallet nor a hold ever goes below zero, and no run is held or charged more than it may cost: who takes from a run's
hold locks the run, who takes from a wallet locks the wallet, who has a token locks that, always in this order, and
looks after it. Each transfer has a key, unique in its project: the same key with the same question is answered with
what happened the first time, with another question it is a Conflict.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.errors import Conflict, Refused
from patron_core.money import check_usd_micros, format_usd, typed_usd
from patron_core.store import allowances, books, runs, tokens
from patron_core.store.books import verify as verify
from patron_core.store.engine import Store, insert_or_nothing, reading
from patron_core.store.names import check_key, check_names
from patron_core.store.records import LedgerEntry, RunMoney, RunSummary, Wallet
from patron_core.store.schema import entries, transfers

# what is taken from a hold, by what it is for: machine time, ending the machine, keeping bytes, moving them
CHARGES = ("charge", "teardown", "storage", "egress")


def deposit(
    conn: Connection, *, project: str, usd_micros: int, key: str, actor: str, now: float, memo: str = ""
) -> LedgerEntry:
    tokens.need(conn, "admin", "deposit: that is for a person")
    check_usd_micros(usd_micros)
    question = _question("deposit", project=project, key=key, asked=usd_micros)
    return _post(conn, question, usd_micros, f"outside:{project}", f"wallet:{project}", actor=actor, now=now, memo=memo)


def fill_up(conn: Connection, *, project: str, to_usd_micros: int, key: str, actor: str, now: float) -> int:
    """Deposit what the wallet lacks to `to_usd_micros`, once a key, however much is in it later. Returns how much: for
    an agent nothing, since its wallet is filled by a person."""
    if not tokens.is_person(conn):
        return 0
    _lock_wallet(conn, project)
    first = find(conn, project=project, key=key)
    if first is not None:
        return first.usd_micros
    lacking = to_usd_micros - books.balance(conn, f"wallet:{project}")
    if lacking <= 0:
        return 0
    deposit(conn, project=project, usd_micros=lacking, key=key, actor=actor, now=now, memo="authorised")
    return lacking


def withdraw(
    conn: Connection, *, project: str, usd_micros: int, key: str, actor: str, now: float, memo: str = ""
) -> LedgerEntry:
    """Take unheld money out again. Raises Refused when the wallet is short."""
    tokens.need(conn, "admin", "withdraw: that is for a person")
    check_usd_micros(usd_micros)
    question = _question("withdraw", project=project, key=key, asked=usd_micros)
    _lock_wallet(conn, project)
    first = _first_answer(conn, question)
    if first is not None:
        return first
    available = books.balance(conn, f"wallet:{project}")
    if available < usd_micros:
        raise Refused(
            f"the wallet of {project!r} has {format_usd(available)}, {format_usd(usd_micros)} were asked for",
            next=f"patron lab --project {shlex.quote(project)} --withdraw {typed_usd(available)} --yes"
            if available
            else f"patron lab --project {shlex.quote(project)}",
        )
    return _post(conn, question, usd_micros, f"wallet:{project}", f"outside:{project}", actor=actor, now=now, memo=memo)


def hold(conn: Connection, run: RunSummary, usd_micros: int, *, key: str, actor: str, now: float) -> LedgerEntry:
    """Set money of the project's wallet aside for the run.

    Raises Refused when the wallet is short, the run may not cost as much, or a token's allowance does not reach. All
    are looked at under the locks: of many at once only those get through whose sum is allowed.
    """
    check_usd_micros(usd_micros)
    question = _question("hold", project=run.project, key=key, asked=usd_micros, run_id=run.id)
    locked = runs.lock(conn, run.id)
    _lock_wallet(conn, run.project)
    first = _first_answer(conn, question)
    if first is not None:
        return first
    allowances.check_hold(conn, locked, usd_micros, actor=actor, now=now)
    _check_cap(conn, locked, usd_micros)
    available = books.balance(conn, f"wallet:{run.project}")
    if available < usd_micros:
        raise Refused(
            f"the wallet of {run.project!r} has {format_usd(available)}, run {run.id} needs {format_usd(usd_micros)}",
            next=f"patron lab --project {shlex.quote(run.project)} --deposit {typed_usd(usd_micros - available)} --yes",
        )
    return _post(conn, question, usd_micros, f"wallet:{run.project}", f"hold:{run.id}", actor=actor, now=now)


def charge(
    conn: Connection,
    run: RunSummary,
    attempt_id: str | None,
    usd_micros: int,
    *,
    key: str,
    now: float,
    kind: str = "charge",
) -> int:
    """Spend from the run's hold: what was asked, or all that is left. Returns what was charged."""
    assert kind in CHARGES, kind
    if usd_micros == 0:
        return 0
    check_usd_micros(usd_micros)
    asked = _question(kind, project=run.project, key=key, asked=usd_micros, run_id=run.id, attempt_id=attempt_id)
    runs.lock(conn, run.id)
    first = _first_answer(conn, asked)
    if first is not None:
        return first.usd_micros
    payable = min(usd_micros, books.balance(conn, f"hold:{run.id}"))
    return _post(conn, asked, payable, f"hold:{run.id}", f"spent:{run.id}", actor="meter", now=now).usd_micros


def charge_up_to(
    conn: Connection, run: RunSummary, attempt_id: str, total_usd_micros: int, *, now: float, kind: str = "charge"
) -> int:
    """Charge what is missing for the attempt to have paid `total_usd_micros` of this kind, as far as the hold goes.

    Returns the attempt's total of the kind so far. It needs no key: saying the same total twice, late, or from two
    supervisors at once charges it once.
    """
    runs.lock(conn, run.id)
    paid_by_attempt = (transfers.c.run_id == run.id) & (transfers.c.kind == kind)
    paid_by_attempt &= transfers.c.attempt_id == attempt_id
    total = sa.func.coalesce(sa.func.sum(transfers.c.usd_micros), 0)
    paid = int(conn.execute(sa.select(total).where(paid_by_attempt)).scalar_one())
    payable = min(total_usd_micros - paid, books.balance(conn, f"hold:{run.id}"))
    if payable <= 0:
        return paid
    key = f"{kind}:{attempt_id}:{paid + payable}"
    return paid + charge(conn, run, attempt_id, payable, key=key, now=now, kind=kind)


def release(conn: Connection, run: RunSummary, *, key: str, now: float, actor: str = "settle") -> int:
    """Give all that is left in the run's hold back to the wallet. Returns how much."""
    question = _question("release", project=run.project, key=key, asked=0, run_id=run.id)
    runs.lock(conn, run.id)
    first = _first_answer(conn, question)
    if first is not None:
        return first.usd_micros
    left = books.balance(conn, f"hold:{run.id}")
    return _post(conn, question, left, f"hold:{run.id}", f"wallet:{run.project}", actor=actor, now=now).usd_micros


def find(store: Store | Connection, *, project: str, key: str) -> LedgerEntry | None:
    """What was done under this key, if anything was."""
    query = sa.select(transfers).where(transfers.c.project == project, transfers.c.key == key)
    with reading(store) as conn:
        row = conn.execute(query).first()
    return None if row is None else LedgerEntry(**row._mapping)


def wallet(store: Store | Connection, project: str) -> Wallet:
    sums = books.project_sums(store, project)
    return Wallet(
        project=project,
        available_usd_micros=sums.get("wallet", 0),
        held_usd_micros=sums.get("hold", 0),
        spent_usd_micros=sums.get("spent", 0),
        deposited_usd_micros=-sums.get("outside", 0),
    )


def run_money(store: Store | Connection, run_id: str) -> RunMoney:
    return runs_money(store, [run_id])[run_id]


def runs_money(store: Store | Connection, run_ids: Iterable[str]) -> dict[str, RunMoney]:
    """The money of many runs in two queries, for lists."""
    return {run_id: _money(by_kind) for run_id, by_kind in books.sums_of_runs(store, run_ids).items()}


def statement(
    store: Store | Connection, project: str, limit: int = 100, *, run_id: str | None = None
) -> list[LedgerEntry]:
    """What moved, newest first; of one run, or of all."""
    moved = (transfers.c.project == project) & (transfers.c.usd_micros > 0)
    moved &= sa.true() if run_id is None else transfers.c.run_id == run_id
    query = sa.select(transfers).where(moved).order_by(transfers.c.id.desc()).limit(limit)
    with reading(store) as conn:
        return [LedgerEntry(**row._mapping) for row in conn.execute(query)]


def _question(
    kind: str, *, project: str, key: str, asked: int, run_id: str | None = None, attempt_id: str | None = None
) -> dict[str, Any]:
    """What a key stands for. Asked again it must be the same in every part."""
    check_names(project=project)
    check_key(key)
    return {
        "kind": kind,
        "project": project,
        "key": key,
        "asked_usd_micros": asked,
        "run_id": run_id,
        "attempt_id": attempt_id,
    }


def _first_answer(conn: Connection, question: dict[str, Any]) -> LedgerEntry | None:
    project, key = question["project"], question["key"]
    query = sa.select(transfers).where(transfers.c.project == project, transfers.c.key == key)
    row = conn.execute(query).first()
    if row is None:
        return None
    differs = [name for name, value in question.items() if row._mapping[name] != value]
    if differs:
        was = ", ".join(f"{name} {row._mapping[name]}, now {question[name]}" for name in differs)
        raise Conflict(f"key {key!r} of project {project!r} was used before: {was}", next="use a new key")
    return LedgerEntry(**row._mapping)


def _post(
    conn: Connection,
    question: dict[str, Any],
    usd_micros: int,
    source: str,
    target: str,
    *,
    actor: str,
    now: float,
    memo: str = "",
) -> LedgerEntry:
    """The only writer of the two tables. A charge of nothing is written too: it answers its key."""
    assert usd_micros >= 0, f"{question['kind']} of {usd_micros} micro-dollars from {source}"
    values = dict(**question, usd_micros=usd_micros, source=source, target=target, actor=actor, time=now, memo=memo)
    row = insert_or_nothing(conn, transfers, values, unique=["project", "key"])
    if row is None:  # somebody else used the key since we looked
        first = _first_answer(conn, question)
        assert first is not None, f"key {question['key']!r} is taken and not there"
        return first
    if usd_micros:
        lines = [(source, -usd_micros), (target, usd_micros)]
        shared = {"transfer_id": row.id, "project": question["project"]}
        conn.execute(
            sa.insert(entries),
            [dict(**shared, account=account, book=account.split(":")[0], usd_micros=sign) for account, sign in lines],
        )
    return LedgerEntry(**row._mapping)


def _lock_wallet(conn: Connection, project: str) -> None:
    """Until the transaction ends nobody else takes from this wallet. SQLite's writer is alone anyway."""
    if conn.dialect.name == "postgresql":
        number = sa.func.hashtextextended(f"wallet:{project}", 0)
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _check_cap(conn: Connection, run: RunSummary, usd_micros: int) -> None:
    if run.max_usd_micros is None:
        return
    money = run_money(conn, run.id)
    used = money.charged_usd_micros + money.held_usd_micros
    left = run.max_usd_micros - used
    if usd_micros > left:
        raise Refused(
            f"run {run.id} may cost {format_usd(run.max_usd_micros)}; {format_usd(used)} is spent or held, and "
            f"{format_usd(usd_micros)} more would be needed",
            next="take fewer steps or a smaller depth, or plan the run again with a larger --max-usd",
        )


def _money(by_kind: dict[str, int]) -> RunMoney:
    funded, released = by_kind.get("hold", 0), by_kind.get("release", 0)
    by_charge = {kind: by_kind[kind] for kind in CHARGES if by_kind.get(kind)}
    charged = sum(by_charge.values())
    return RunMoney(
        held_usd_micros=funded - charged - released,
        charged_usd_micros=charged,
        released_usd_micros=released,
        funded_usd_micros=funded,
        by_kind_usd_micros=by_charge,
    )
