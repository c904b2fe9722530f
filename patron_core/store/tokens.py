"""Tokens: who may ask for what, and up to how much. A token is shown once; only its hash is kept.

A token is bound to a store by `Store.acting_as`: from then on everything that is written through it is checked here,
inside the transaction that writes, whatever verb asks. A store without a token acts as the owner.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import InvalidInput, NotFound, Refused
from patron_core.money import check_usd_micros
from patron_core.store.engine import Store, insert_or_nothing, reading
from patron_core.store.names import check_names
from patron_core.store.schema_of_access import tokens

SCOPES = ("read", "note", "run", "spend", "admin")  # each says what it allows beside the others
SCOPE_WORDS = {
    "read": "look at everything",
    "note": "write notes",
    "run": "plan, amend, pause and cancel runs; launch what is funded",
    "spend": "dryrun, fund and search, within the allowance",
    "admin": "a person: deposit, approve, make and revoke tokens, without limits",
}
_SHAPE = re.compile(r"patron_[A-Za-z0-9_-]{43}")


class Forbidden(Refused):
    """The token may not do this."""

    code = "forbidden"


class Unauthorised(Refused):
    """No token, or one that is unknown, revoked or expired."""

    code = "unauthorised"


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How much a token may hold, by what it has asked for itself. None or empty: not limited in this way."""

    total_usd_micros: int | None = None
    day_usd_micros: int | None = None  # in any 24 hours
    run_usd_micros: int | None = None
    usd_micros_per_hour: int | None = None  # the price of a machine
    approve_above_usd_micros: int | None = None  # a larger hold waits for a person
    runs_at_once: int | None = None
    devices: tuple[str, ...] = ()
    executors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Allowance:
        known = {each.name for each in fields(cls)}
        found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items() if k in known}
        return cls(**found)

    def check(self) -> None:
        """Raises InvalidInput."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and "usd_micros" in each.name:
                check_usd_micros(value, each.name)
        if self.runs_at_once is not None and not 1 <= self.runs_at_once <= 10_000:
            problem = f"runs_at_once: {self.runs_at_once}; allowed 1 to 10000"
            raise InvalidInput([problem], next="patron token make --help")


@dataclass(frozen=True, kw_only=True)
class Token:
    id: str
    name: str  # the actor in ledger, events and notes; never given twice
    scopes: frozenset[str]
    allowance: Allowance = field(default_factory=Allowance)
    actor: str  # who made it
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def is_person(self) -> bool:
        return "admin" in self.scopes

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.is_person or scope == "read"

    def is_valid(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def to_dict(self) -> dict[str, Any]:
        return {
            "token": self.name,
            "scopes": [scope for scope in SCOPES if self.may(scope)],
            "allowance": self.allowance.to_dict(),
            "made_by": self.actor,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }


def looks_like_one(text: str) -> bool:
    return _SHAPE.search(text) is not None


def make(
    store: Store,
    *,
    name: str,
    scopes: Iterable[str],
    allowance: Allowance | None = None,
    expires_at: float | None,
    actor: str,
    now: float,
) -> tuple[Token, str]:
    """The token, and its secret, which is kept nowhere. Raises InvalidInput for a name that was given before."""
    check_names(name=name)
    wanted = frozenset(scopes) | {"read"}
    allowance = allowance or Allowance()
    allowance.check()
    problems = [f"scope: {scope!r}; allowed {', '.join(SCOPES)}" for scope in sorted(wanted - {*SCOPES})]
    if "spend" in wanted and "admin" not in wanted and allowance.total_usd_micros is None:
        problems.append("a token that spends needs a total: how many dollars may it hold in all?")
    if expires_at is not None and expires_at <= now:
        problems.append("it would have expired already")
    if problems:
        raise InvalidInput(problems, next="patron token make --help")
    secret = f"patron_{secrets.token_urlsafe(32)}"
    values = {
        "id": f"t{secrets.token_hex(6)}",
        "name": name,
        "hash": _hash(secret),
        "scopes": sorted(wanted),
        "allowance": allowance.to_dict(),
        "actor": actor,
        "created_at": now,
        "expires_at": expires_at,
    }
    with store.begin() as conn:
        need(conn, "admin", "make tokens")
        row = insert_or_nothing(conn, tokens, values, unique=["name"])
    if row is None:
        problem = f"name: a token {name!r} was made before; in ledger and notes the two could not be told apart"
        raise InvalidInput([problem], next="patron token list")
    return _token(row), secret


def by_secret(store: Store, secret: str, *, now: float) -> Token:
    """Raises Unauthorised: unknown, revoked or expired."""
    with store.read() as conn:
        row = conn.execute(sa.select(tokens).where(tokens.c.hash == _hash(secret))).first()
    return _valid(row, now)


def by_id(store: Store | Connection, token_id: str, *, now: float) -> Token:
    """Raises Unauthorised: unknown, revoked or expired."""
    with reading(store) as conn:
        row = conn.execute(sa.select(tokens).where(tokens.c.id == token_id)).first()
    return _valid(row, now)


def by_name(store: Store | Connection, name: str) -> Token:
    with reading(store) as conn:
        row = conn.execute(sa.select(tokens).where(tokens.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no token {name!r}", next="patron token list")
    return _token(row)


def every(store: Store | Connection) -> list[Token]:
    """Newest first, with those that are over."""
    with reading(store) as conn:
        rows = conn.execute(sa.select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id))
        return [_token(row) for row in rows]


def revoke(store: Store, name: str, *, now: float) -> Token:
    """From now on it opens nothing. Safe to repeat."""
    token = by_name(store, name)
    with store.begin() as conn:
        need(conn, "admin", "revoke tokens")
        alive = (tokens.c.id == token.id) & tokens.c.revoked_at.is_(None)
        conn.execute(sa.update(tokens).where(alive).values(revoked_at=now))
    return by_name(store, name)


def lock(conn: Connection, token: Token) -> Token:
    """The token as it is now; until the transaction ends nobody else holds money by it. Raises Unauthorised."""
    row = conn.execute(sa.select(tokens).where(tokens.c.id == token.id).with_for_update()).first()
    return _valid(row, time.time())


def bound(conn: Connection) -> Token | None:
    """The token that this connection's store acts as."""
    token: Token | None = conn.get_execution_options().get("patron_token")
    return token


def need(conn: Connection, scope: str, what: str) -> None:
    """Raises Forbidden unless the store acts as its owner, or as a token that may."""
    token = bound(conn)
    if token is not None:
        check_scope(token, scope, what)


def is_person(conn: Connection) -> bool:
    """The owner, or somebody with a person's token."""
    token = bound(conn)
    return token is None or token.is_person


def check_scope(token: Token, scope: str, what: str) -> None:
    if not token.may(scope):
        has = ", ".join(each for each in SCOPES if token.may(each))
        raise Forbidden(f"token {token.name!r} may {has}, not {scope}: it cannot {what}", next="patron token list")


def _valid(row: Row[Any] | None, now: float) -> Token:
    token = None if row is None else _token(row)
    if token is not None and token.is_valid(now):
        return token
    why = "not known" if token is None else "revoked" if token.revoked_at is not None else "expired"
    raise Unauthorised(f"this token is {why}", next="patron token make --help")


def _hash(secret: str) -> str:
    """Of 256 random bits: nothing to guess, so nothing to stretch."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: Row[Any]) -> Token:
    values = {k: v for k, v in row._mapping.items() if k != "hash"}
    return Token(**values | {"scopes": frozenset(row.scopes), "allowance": Allowance.from_dict(row.allowance)})
