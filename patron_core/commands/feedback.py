"""Feedback on Patron: say something, see what others said, and answer it, as its owner."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core import verbs
from patron_core.ui import show, tables
from patron_core.ui.script import Arguments, open_command


class FeedbackArguments(Arguments):
    say: str = Field(default="", description="what works, what does not, what is missing")
    about: str = Field(default="", max_length=200, description="a run, a command, a page")
    key: str = Field(default="", description="idempotency key: the same key says it once")
    answer: str = Field(default="", description="the id of what is answered, with --word")
    word: str = Field(default="", description="the answer")
    unanswered: bool = Field(default=False, description="only what has no answer")
    limit: int = Field(default=50, ge=1, le=500, description="at most so many")


def main(argv: Sequence[str]) -> int:
    session = open_command(FeedbackArguments, argv, prog="feedback", description=__doc__ or "")
    args, store = session.args, session.open_lab()
    assert store is not None
    if args.say or args.answer:
        if args.answer:
            kept = session.call(verbs.answer_feedback, store, args.answer, args.word, actor=session.actor).value
        else:
            given = {"about": args.about, "actor": session.actor, "key": session.key}
            kept = session.call(verbs.give_feedback, store, args.say, **given).value
        assert kept is not None
        session.emit(kept.to_dict(), show.text_table([kept], tables.feedback()))
        return 0
    found = session.call(verbs.list_feedback, store, unanswered=args.unanswered, limit=args.limit).value or []
    text = show.text_table(found, tables.feedback()) if found else "Nobody said anything yet."
    session.emit({"feedback": [each.to_dict() for each in found]}, text)
    return 0
