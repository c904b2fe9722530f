"""The ledger's sums. Up to the last transfer that was checked they are kept; what came since is added at each reading.

A supervisor goes on checking from there, a bounded part at a time. A sum so costs what came since, not all that ever
was; and what is kept is a cache of the ledger, which `verify` reads whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from patron_core.store.engine import Store, reading
from patron_core.store.schema import entries, transfers
from patron_core.store.schema_of_books import balances, ledger_checks, run_sums

AT_ONCE = 20_000  # transfers, in one transaction
MAX_PROBLEMS = 20  # that are kept; one is enough to say that the books are wrong
_GUARDED = ("wallet", "hold", "spent")  # books that never go below zero
_CHECKED = sa.select(sa.func.coalesce(sa.func.max(ledger_checks.c.transfer_id), 0)).scalar_subquery()
_NEW = transfers.c.id > _CHECKED


def balance(conn: Connection, account: str) -> int:
    """In one statement, so that what is kept and what came since are of one moment."""
    kept = sa.select(balances.c.usd_micros).where(balances.c.account == account).scalar_subquery()
    moved = sa.case((transfers.c.target == account, transfers.c.usd_micros), else_=-transfers.c.usd_micros)
    since = sa.select(sa.func.sum(moved)).where(_NEW, (transfers.c.target == account) | (transfers.c.source == account))
    found = sa.func.coalesce(kept, 0) + sa.func.coalesce(since.scalar_subquery(), 0)
    return int(conn.execute(sa.select(found)).scalar_one())


def project_sums(store: Store | Connection, project: str) -> dict[str, int]:
    """Of each book, in micro-dollars."""
    moved = transfers.c.usd_micros
    is_new = _NEW & (_unindexed(transfers.c.project) == project)
    kept = sa.select(balances.c.book.label("account"), sa.func.sum(balances.c.usd_micros).label("usd_micros"))
    parts = [kept.where(balances.c.project == project).group_by(balances.c.book)]
    for account, amount in ((transfers.c.source, -moved), (transfers.c.target, moved)):
        parts.append(sa.select(account.label("account"), amount.label("usd_micros")).where(is_new))
    sums: dict[str, int] = {}
    for account, amount in _summed(store, parts, "account"):
        book = account.split(":")[0]
        sums[book] = sums.get(book, 0) + int(amount)
    return sums


def sums_of_runs(store: Store | Connection, run_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """Of each run what was moved for it, by kind of transfer, in micro-dollars."""
    wanted = list(run_ids)
    kept = sa.select(run_sums.c.run_id, run_sums.c.kind, run_sums.c.usd_micros).where(run_sums.c.run_id.in_(wanted))
    of_run = _unindexed(transfers.c.run_id)
    since = sa.select(of_run.label("run_id"), transfers.c.kind, transfers.c.usd_micros)
    sums: dict[str, dict[str, int]] = {run_id: {} for run_id in wanted}
    for run_id, kind, amount in _summed(store, [kept, since.where(_NEW, of_run.in_(wanted))], "run_id", "kind"):
        sums[run_id][kind] = int(amount)
    return sums


def _summed(store: Store | Connection, parts: Sequence[sa.Select[Any]], *by: str) -> list[tuple[Any, ...]]:
    """In one statement, as `balance` is: on PostgreSQL two of one write transaction are not of one moment, and what is
    checked on between them would be in neither."""
    all_of_it = sa.union_all(*parts).subquery()
    columns = [all_of_it.c[name] for name in by]
    query = sa.select(*columns, sa.func.sum(all_of_it.c.usd_micros)).group_by(*columns)
    with reading(store) as conn:
        return [tuple(row) for row in conn.execute(query)]


def _unindexed(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The column's index would lead over all that ever was; what is new is few."""
    return sa.func.coalesce(column, "")


def num_unchecked(store: Store | Connection) -> int:
    with reading(store) as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(transfers).where(_NEW)).scalar_one())


def check_on(store: Store, *, at_once: int = AT_ONCE) -> int:
    """Check the next transfers and keep their sums. Returns how many there were."""
    with store.begin() as conn:
        if conn.dialect.name == "postgresql":  # until who has a number has committed it, or not: none is passed over
            conn.execute(sa.text("SET LOCAL lock_timeout = '1s'"))  # who charges must not queue behind us for long
            conn.execute(sa.text("LOCK TABLE transfers IN SHARE MODE"))
        checked = conn.execute(sa.select(ledger_checks).with_for_update()).one()
        part = sa.select(transfers.c.id).where(transfers.c.id > checked.transfer_id).order_by(transfers.c.id)
        ids = part.limit(at_once).subquery()
        count, last = conn.execute(sa.select(sa.func.count(), sa.func.max(ids.c.id))).one()
        if not count:
            return 0
        problems = _unbalanced(conn, after=checked.transfer_id, up_to=last)
        _keep(conn, after=checked.transfer_id, up_to=last)
        kept = [*checked.problems, *problems][:MAX_PROBLEMS]
        conn.execute(sa.update(ledger_checks).values(transfer_id=last, problems=kept))
        return int(count)


def _keep(conn: Connection, *, after: int, up_to: int) -> None:
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    accounts = (entries.c.account, entries.c.project, entries.c.book)
    by_account = sa.select(*accounts, sa.func.sum(entries.c.usd_micros)).group_by(*accounts)
    kinds = (transfers.c.run_id, transfers.c.kind)
    by_run = sa.select(*kinds, sa.func.sum(transfers.c.usd_micros)).group_by(*kinds)
    by_run = by_run.where(transfers.c.run_id.is_not(None))
    for table, key, query in (
        (balances, ["account"], by_account.where(entries.c.transfer_id > after, entries.c.transfer_id <= up_to)),
        (run_sums, ["run_id", "kind"], by_run.where(transfers.c.id > after, transfers.c.id <= up_to)),
    ):
        new = insert(table).from_select([column.name for column in table.columns], query)
        total = table.c.usd_micros + new.excluded.usd_micros
        conn.execute(new.on_conflict_do_update(index_elements=key, set_={"usd_micros": total}))


def problems(store: Store | Connection) -> list[str]:
    """What was found wrong up to what was checked, and what is wrong in what came since; nothing when the books are
    right, as far as anybody has read them."""
    with reading(store) as conn:
        checked = conn.execute(sa.select(ledger_checks)).first()
        found = list(checked.problems) if checked else []
        found += _unbalanced(conn, after=checked.transfer_id if checked else 0)
        negative = sa.select(balances.c.account).where(balances.c.book.in_(_GUARDED), balances.c.usd_micros < 0)
        taken = sa.select(transfers.c.source).where(_NEW).distinct()
        suspects = {*conn.execute(negative).scalars(), *conn.execute(taken).scalars()}
        at = {account: balance(conn, account) for account in sorted(suspects) if account.split(":")[0] in _GUARDED}
        return found + [_below_zero(account, amount) for account, amount in at.items() if amount < 0]


def verify(store: Store | Connection) -> list[str]:
    """Everything that does not add up, as sentences; nothing when the books are right. Reads all of them."""
    total = sa.func.sum(entries.c.usd_micros)
    sums = sa.select(entries.c.account, total.label("total")).group_by(entries.c.account)
    guarded = sums.where(entries.c.book.in_(_GUARDED)).having(total < 0)
    kept = sa.select(balances.c.account, balances.c.usd_micros)
    of_runs = sa.select(transfers.c.run_id, transfers.c.kind, sa.func.sum(transfers.c.usd_micros))
    of_runs = of_runs.where(transfers.c.run_id.is_not(None), transfers.c.id <= _CHECKED)
    with reading(store) as conn:
        found = _unbalanced(conn, after=0) + [_below_zero(*row) for row in conn.execute(guarded)]
        up_to = conn.execute(sums.where(entries.c.transfer_id <= _CHECKED)).all()
        shown = {f"account {row.account}": row.usd_micros for row in conn.execute(kept)}
        made = {f"account {row.account}": row.total for row in up_to}
        shown |= {f"{kind} of run {run}": int(amount) for run, kind, amount in conn.execute(sa.select(run_sums))}
        by_kind = conn.execute(of_runs.group_by(transfers.c.run_id, transfers.c.kind))
        made |= {f"{kind} of run {run}": int(amount) for run, kind, amount in by_kind}
    return found + [
        f"{what} is kept at {shown.get(what)} micro-dollars, its entries make {made.get(what)}"
        for what in sorted(made.keys() | shown.keys())
        if made.get(what) != shown.get(what)
    ]


def _below_zero(account: str, usd_micros: int) -> str:
    return f"account {account} is at {usd_micros} micro-dollars"


def _unbalanced(conn: Connection, *, after: int, up_to: int = 2**62) -> list[str]:
    """Transfers of which the entries do not make what they say."""
    total, moved = sa.func.sum(entries.c.usd_micros), sa.func.max(entries.c.usd_micros)
    of_these = (entries.c.transfer_id > after) & (entries.c.transfer_id <= up_to)
    lines = sa.select(entries.c.transfer_id, total.label("total"), moved.label("moved")).where(of_these)
    made = lines.group_by(entries.c.transfer_id).subquery()
    wrong = (made.c.total != 0) | (sa.func.coalesce(made.c.moved, 0) != transfers.c.usd_micros)
    wrong |= transfers.c.usd_micros < 0
    query = (
        sa.select(transfers.c.id, transfers.c.usd_micros, made.c.total)
        .outerjoin(made, made.c.transfer_id == transfers.c.id)
        .where(transfers.c.id > after, transfers.c.id <= up_to, wrong)
    )
    return [
        f"transfer {row.id} of {row.usd_micros} micro-dollars has entries that do not make it (sum {row.total})"
        for row in conn.execute(query)
    ]
