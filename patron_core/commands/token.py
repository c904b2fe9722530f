"""Tokens for people and agents. A token is printed once and kept as a hash.

patron token                                        lists them, with their limits
patron token make --name bot --scope read,run,spend --total 5
patron token revoke --name bot
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.store import Store
from patron_core.store.tokens import SCOPE_WORDS, SCOPES, Allowance, Token
from patron_core.ui import show
from patron_core.ui.script import Arguments, Session, Usd, open_command

DAY_S = 86_400.0
_SCOPES = "; ".join(f"{scope}: {SCOPE_WORDS[scope]}" for scope in SCOPES)
_WHAT = ("list", "make", "revoke")


class TokenArguments(Arguments):
    name: str = Field(default="", description="who it is for: the actor in ledger and notes; never given twice")
    scope: str = Field(default="read", description=f"comma between: {_SCOPES}")
    days: float = Field(default=30.0, gt=0, le=3650, description="until it expires")
    total: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars it may hold in all; needed to spend")
    per_day: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars it may hold in any 24 hours")
    per_run: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars it may hold for one run")
    per_hour: Usd | None = Field(default=None, gt=0, le=1e6, description="dollars an hour of its machines may cost")
    approve_above: Usd | None = Field(default=None, gt=0, le=1e6, description="a larger hold waits for a person")
    at_once: int | None = Field(default=None, ge=1, le=10_000, description="runs under way at once")
    devices: str = Field(default="", description="only these, comma between, such as local,H100")
    executors: str = Field(default="", description="only these, comma between, such as local,sky")


def main(argv: Sequence[str]) -> int:
    what, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("list", argv)
    session = open_command(TokenArguments, rest, prog=f"token {what}", description=__doc__ or "")
    if what not in _WHAT:
        session.fail(InvalidInput([f"{what!r}; allowed {', '.join(_WHAT)}"], next="patron token list"))
    store = session.open_lab()
    assert store is not None
    {"list": _list, "make": _make, "revoke": _revoke}[what](session, store)
    return 0


def _make(session: Session[TokenArguments], store: Store) -> None:
    args = session.args
    session.require("--name", args.name, next="patron token make --help")
    allowance = Allowance(
        total_usd_micros=_micros(args.total),
        day_usd_micros=_micros(args.per_day),
        run_usd_micros=_micros(args.per_run),
        usd_micros_per_hour=_micros(args.per_hour),
        approve_above_usd_micros=_micros(args.approve_above),
        runs_at_once=args.at_once,
        devices=_words(args.devices),
        executors=_words(args.executors),
    )
    made = session.call(
        verbs.make_token,
        store,
        name=args.name,
        scopes=_words(args.scope),
        allowance=allowance,
        expires_in_s=args.days * DAY_S,
        actor=session.actor,
    ).value
    assert made is not None
    token, secret = made
    session.emit(token.to_dict() | {"secret": secret}, f"{secret}\n\nIt is shown this once. {_line(token)}")


def _list(session: Session[TokenArguments], store: Store) -> None:
    found = session.call(verbs.list_tokens, store).value or []
    text = "\n".join(map(_line, found)) or "There is no token. Make one: patron token make --name NAME --scope read"
    session.emit({"tokens": [token.to_dict() for token in found]}, text)


def _revoke(session: Session[TokenArguments], store: Store) -> None:
    session.require("--name", session.args.name, next="patron token list")
    token = session.call(verbs.revoke_token, store, session.args.name, actor=session.actor).value
    assert token is not None
    session.emit(token.to_dict(), _line(token))


def _line(token: Token) -> str:
    scopes = ", ".join(scope for scope in SCOPES if token.may(scope))
    limits = [f"{name.replace('_usd_micros', '').replace('_', ' ')} {said}" for name, said in _limits(token)]
    end = f"revoked {show.moment(token.revoked_at)}" if token.revoked_at else f"until {show.moment(token.expires_at)}"
    return f"{token.name}: {scopes}; {', '.join(limits) or 'no limits'}; {end}"


def _limits(token: Token) -> list[tuple[str, str]]:
    return [(name, _said(name, value)) for name, value in token.allowance.to_dict().items() if value]


def _said(name: str, value: Any) -> str:
    if "usd_micros" in name:
        return show.usd(value)
    return " or ".join(value) if isinstance(value, list) else str(value)


def _micros(dollars: float | None) -> int | None:
    return None if dollars is None else verbs.from_usd(dollars)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
