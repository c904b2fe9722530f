"""What a token may hold and rent. Looked at in the transaction that writes, after the locks: see ledger.hold.

What counts is what the token has asked for itself. Of a run that somebody else funded too, it counts as much as the
token held, and no more than what the run has spent or still holds: what was released is free again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.errors import InternalError, Refused
from patron_core.money import format_usd
from patron_core.states import RunState
from patron_core.store import approvals, tokens
from patron_core.store.finding import values_of
from patron_core.store.records import Run
from patron_core.store.schema import runs, transfers
from patron_core.store.tokens import Token

DAY_S = 86_400.0
_UNDER_WAY = (RunState.DRYRUN, RunState.FUNDED, RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING)
_NEXT = "patron token list"


class BeyondAllowance(Refused):
    """The token's limits do not reach so far. Nothing was held."""

    code = "beyond_allowance"


class ApprovalNeeded(Refused):
    """So much is for a person to approve. Nothing was held."""

    code = "approval_needed"

    def __init__(self, message: str, *, next: str, run_id: str, token: str, usd_micros: int, ask: bool):
        super().__init__(message, next=next)
        self.run_id, self.token, self.usd_micros, self.ask = run_id, token, usd_micros, ask


def check_hold(conn: Connection, run: Run, usd_micros: int, *, actor: str, now: float) -> None:
    """Raises Refused where the connection's token may not hold so much more. Locks the token."""
    token = _limited(conn, "hold money")
    if token is None:
        return
    if actor != token.name:
        raise InternalError(f"{actor!r} holds money with the token of {token.name!r}", next="report this")
    allowance = token.allowance
    _check_place(token, run)
    used = holds(conn, token.name)
    limits = (
        ("for one run", allowance.run_usd_micros, used.get(run.id, 0)),
        ("in all", allowance.total_usd_micros, sum(used.values())),
        ("in 24 hours", allowance.day_usd_micros, sum(holds(conn, token.name, since=now - DAY_S).values())),
    )
    for words, limit, so_far in limits:
        if limit is not None and so_far + usd_micros > limit:
            raise BeyondAllowance(
                f"token {token.name!r} may hold {format_usd(limit)} {words}; {format_usd(so_far)} is held or spent, "
                f"and {format_usd(usd_micros)} more would be needed",
                next=_NEXT,
            )
    _check_runs_at_once(conn, token, run.id)
    _check_approved(conn, token, run, usd_micros)


def check_machine(conn: Connection, run: Run, usd_micros_per_hour: int) -> None:
    """Raises Refused where the connection's token may not rent such a machine."""
    token = _limited(conn, "start a machine", scope="run")
    if token is None:
        return
    _check_place(token, run)
    most = token.allowance.usd_micros_per_hour
    if most is not None and usd_micros_per_hour > most:
        raise BeyondAllowance(
            f"token {token.name!r} may rent machines for {format_usd(most)} an hour; this one costs "
            f"{format_usd(usd_micros_per_hour)}",
            next=_NEXT,
        )
    _check_runs_at_once(conn, token, run.id)


def holds(conn: Connection, actor: str, *, since: float | None = None) -> dict[str, int]:
    """Micro-dollars that the actor's holds still bind or have spent, by run."""
    amount = sa.func.sum(transfers.c.usd_micros)
    mine = (transfers.c.actor == actor) & (transfers.c.kind == "hold")
    if since is not None:
        mine &= transfers.c.time > since
    rows = conn.execute(sa.select(transfers.c.run_id, amount).where(mine).group_by(transfers.c.run_id)).all()
    held = {run_id: int(held) for run_id, held in rows}
    moved = sa.case((transfers.c.kind == "release", -transfers.c.usd_micros), else_=transfers.c.usd_micros)
    of_these = transfers.c.run_id.in_(list(held)) & transfers.c.kind.in_(("hold", "release"))
    query = sa.select(transfers.c.run_id, sa.func.sum(moved)).where(of_these).group_by(transfers.c.run_id)
    return {run_id: min(held[run_id], int(bound)) for run_id, bound in conn.execute(query).all()}


def _limited(conn: Connection, what: str, *, scope: str = "spend") -> Token | None:
    """The connection's token as it is now, locked, where it has limits."""
    bound = tokens.bound(conn)
    if bound is None:
        return None
    token = tokens.lock(conn, bound)
    tokens.check_scope(token, scope, what)
    return None if token.is_person else token


def _check_place(token: Token, run: Run) -> None:
    device = str(((run.estimate or {}).get("target") or {}).get("device", ""))
    for what, allowed, asked in (
        ("executor", token.allowance.executors, run.executor),
        ("device", token.allowance.devices, device),
    ):
        if allowed and asked not in allowed:
            message = f"token {token.name!r} may use {what} {' or '.join(allowed)}, not {asked!r}"
            raise BeyondAllowance(message, next=_NEXT)


def _check_runs_at_once(conn: Connection, token: Token, run_id: str) -> None:
    most = token.allowance.runs_at_once
    if most is None:
        return
    mine = sa.select(transfers.c.run_id).where(transfers.c.actor == token.name, transfers.c.kind == "hold")
    busy = runs.c.id.in_(mine) & runs.c.state.in_(values_of(_UNDER_WAY)) & (runs.c.id != run_id)
    under_way = int(conn.execute(sa.select(sa.func.count()).where(busy)).scalar_one())
    if under_way >= most:
        raise BeyondAllowance(
            f"token {token.name!r} may have {most} runs under way at once, and has {under_way}",
            next="patron lab",
        )


def _check_approved(conn: Connection, token: Token, run: Run, usd_micros: int) -> None:
    most = token.allowance.approve_above_usd_micros
    if most is None or usd_micros <= most:
        return
    asked = approvals.latest(conn, run.id, token.name)
    if asked is not None and asked.state == "approved" and usd_micros <= asked.usd_micros:
        approvals.use(conn, asked.id)
        return
    refused = asked is not None and asked.state == "refused" and usd_micros >= asked.usd_micros
    said = f"{format_usd(usd_micros)} for run {run.id} needs a person: token {token.name!r} may hold {format_usd(most)}"
    said += f" at once. {asked.actor} refused {format_usd(asked.usd_micros)}: {asked.word}" if asked and refused else ""
    raise ApprovalNeeded(
        said if refused else f"{said} at once. They were asked; do the same again, under the same key, once approved",
        next=f"patron watch --run {run.id}",
        run_id=run.id,
        token=token.name,
        usd_micros=usd_micros,
        ask=not refused,
    )
