"""What agents and people say of Patron, and the owner's answers."""

from __future__ import annotations

import time
import uuid

from patron_core.errors import InvalidInput
from patron_core.store import Store, feedback
from patron_core.store.feedback import Feedback
from patron_core.verbs.access import asks

MAX_FEEDBACK_CHARS = 10_000


@asks("read")
def give_feedback(store: Store, body: str, *, about: str = "", actor: str, key: str | None = None) -> Feedback:
    """Say what works, what does not, what is missing. Raises InvalidInput, Conflict for a key with other words."""
    _check(body)
    return feedback.give(store, actor=actor, key=key or uuid.uuid4().hex, about=about[:200], body=body, now=time.time())


@asks("admin")
def answer_feedback(store: Store, feedback_id: str, answer: str, *, actor: str) -> Feedback:
    """A person's answer, which stands beside it."""
    _check(answer)
    return feedback.answer(store, feedback_id, answer=answer, actor=actor, now=time.time())


def list_feedback(store: Store, *, by: str | None = None, unanswered: bool = False, limit: int = 100) -> list[Feedback]:
    """Newest first; `by`: of this actor alone."""
    return feedback.listed(store, actor=by, unanswered=unanswered, limit=limit)


def _check(text: str) -> None:
    if not text.strip() or len(text) > MAX_FEEDBACK_CHARS:
        raise InvalidInput(
            [f"{len(text)} characters; allowed 1 to {MAX_FEEDBACK_CHARS}, not only blanks"], next="patron feedback"
        )
