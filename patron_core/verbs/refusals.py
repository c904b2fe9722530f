"""A refusal costs nothing, and is still something that happened to a run: it is kept, and a later look can tell it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from patron_core.errors import PatronError, Refused
from patron_core.store import Store, runs
from patron_core.store.records import RunEvent

KIND = "refused"

F = TypeVar("F", bound=Callable[..., Any])


def kept_with_the_run(verb: F) -> F:
    """A verb about one run: what it refuses is written down as an event of the run, then raised as before."""

    @functools.wraps(verb)
    def wrapped(store: Store, run_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return verb(store, run_id, *args, **kwargs)
        except Refused as error:
            if not error.retryable:  # a store that is busy would only be kept waiting again
                _keep(store, run_id, verb.__name__, error, str(kwargs.get("actor", "")))
            raise

    return cast(F, wrapped)


def newest_refusal(history: Sequence[RunEvent]) -> dict[str, Any] | None:
    """The last thing that happened to the run, where that is a refusal: {verb, message, next}."""
    return dict(history[-1].detail) if history and history[-1].kind == KIND else None


def _keep(store: Store, run_id: str, verb: str, error: Refused, actor: str) -> None:
    detail = {"verb": verb, "message": error.message, "next": error.next}
    with suppress(PatronError):  # the refusal is what its caller has to hear
        run = runs.get_run(store, run_id)
        if newest_refusal(runs.events(store, run.id)) == detail:
            return  # said already
        with store.begin() as conn:
            runs.add_event(conn, run.id, kind=KIND, actor=actor, now=time.time(), detail=detail)
