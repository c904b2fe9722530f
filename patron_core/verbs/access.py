"""Who may call a verb, and the record that somebody did: `asks` stands on every verb that changes something."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from patron_core.errors import PatronError
from patron_core.store import Store, approvals, audit, tokens
from patron_core.store.allowances import ApprovalNeeded
from patron_core.store.approvals import Approval

# what the audit log keeps of a call: amounts, names and keys; never a text or a spec
_KEPT = frozenset(
    {
        "usd_micros", "deposit_usd_micros", "max_usd_micros", "changes", "burst_steps",
        "key", "name", "kind", "note_id", "approval_id", "decision", "scopes",
    }
)  # fmt: skip
_MAX_CHARS = 300

log = logging.getLogger("patron.access")
F = TypeVar("F", bound=Callable[..., Any])


def asks(scope: str) -> Callable[[F], F]:
    """A verb of (store, ..., actor) that needs `scope` of whoever the store acts as, and is written into the audit log.

    The actor of a token is the token's name, whatever the caller says. A hold that a person has to approve first is
    put before them.
    """

    def decorated(verb: F) -> F:
        signature = inspect.signature(verb)

        @functools.wraps(verb)
        def wrapped(store: Store, *args: Any, **kwargs: Any) -> Any:
            if store.token is not None:
                kwargs["actor"] = store.token.name
            given = signature.bind_partial(store, *args, **kwargs).arguments
            outcome = "internal"
            try:
                if store.token is not None:
                    tokens.check_scope(store.token, scope, verb.__name__.replace("_", " "))
                answer = verb(store, *args, **kwargs)
                outcome = "done"
                return answer
            except PatronError as error:
                outcome = error.code
                if isinstance(error, ApprovalNeeded) and error.ask:
                    approvals.ask(
                        store, run_id=error.run_id, token=error.token, usd_micros=error.usd_micros, now=time.time()
                    )
                raise
            finally:
                _record(store, verb.__name__, given, outcome)

        wrapped.scope = scope  # type: ignore[attr-defined]
        return cast(F, wrapped)

    return decorated


def _record(store: Store, verb: str, given: Mapping[str, Any], outcome: str) -> None:
    detail = {name: _short(value) for name, value in given.items() if name in _KEPT and value is not None}
    project, run_id = given.get("project"), given.get("run_id")
    try:
        audit.write(
            store,
            actor=str(given.get("actor", "")),
            verb=verb,
            project=None if project is None else str(project)[:_MAX_CHARS],
            run_id=None if run_id is None else str(run_id)[:_MAX_CHARS],
            outcome=outcome,
            detail=detail,
            now=time.time(),
        )
    except PatronError as error:  # what was done is done: its caller hears that, and not this
        log.warning("%s is not in the audit log: %s", verb, error)


def _short(value: Any) -> Any:
    if isinstance(value, int | float) or value is None:
        return value
    return str(value if not isinstance(value, frozenset | set | tuple | list) else ", ".join(map(str, value)))[
        :_MAX_CHARS
    ]


@asks("admin")
def decide(
    store: Store, approval_id: str, decision: approvals.Decision, *, word: str, actor: str
) -> approvals.Approval:
    """Approve or refuse what a token asked for, with a word. The token holds it by asking again, under the same key."""
    return approvals.decide(store, approval_id, decision, word=word, actor=actor, now=time.time())


def waiting(store: Store, project: str | None = None) -> list[Approval]:
    """What waits for a person's word, oldest first."""
    return approvals.waiting(store, project=project)


@asks("admin")
def make_token(
    store: Store,
    *,
    name: str,
    scopes: tuple[str, ...],
    allowance: tokens.Allowance | None = None,
    expires_in_s: float | None = None,
    actor: str,
) -> tuple[tokens.Token, str]:
    """The token and its secret, which is shown once. Raises InvalidInput."""
    now = time.time()
    expires_at = None if expires_in_s is None else now + expires_in_s
    return tokens.make(
        store, name=name, scopes=scopes, allowance=allowance, expires_at=expires_at, actor=actor, now=now
    )


@asks("admin")
def revoke_token(store: Store, name: str, *, actor: str) -> tokens.Token:
    """From now on it opens nothing."""
    return tokens.revoke(store, name, now=time.time())


def list_tokens(store: Store) -> list[tokens.Token]:
    """Newest first, with those that are over."""
    return tokens.every(store)


def audit_log(
    store: Store, *, actor: str | None = None, before: int | None = None, limit: int = 100
) -> list[audit.AuditEntry]:
    """Who changed what, newest first."""
    return audit.entries(store, actor=actor, before=before, limit=limit)
