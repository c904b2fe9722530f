"""Approve what a token asked to hold, with a word, or refuse it. Without --id what waits is listed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core import verbs
from patron_core.ui import show, tables
from patron_core.ui.script import Arguments, open_command


class ApproveArguments(Arguments):
    id: str = Field(default="", description="of what waits, as it is listed")
    word: str = Field(default="", max_length=1000, description="what the other is told")
    refuse: bool = Field(default=False, description="refuse it instead")
    yes: bool = Field(default=False, description="confirm")


def main(argv: Sequence[str]) -> int:
    session = open_command(ApproveArguments, argv, prog="approve", description=__doc__ or "")
    args, store = session.args, session.open_lab()
    assert store is not None
    if not args.id:
        found = session.call(verbs.waiting, store).value or []
        text = show.text_table(found, tables.approvals()) if found else "Nothing waits for a word."
        session.emit({"approvals": [asked.to_dict() for asked in found]}, text)
        return 0
    session.confirm(args.yes, f"the {'refusal' if args.refuse else 'approval'} of {args.id}", "--yes")
    decision = "refused" if args.refuse else "approved"
    decided = session.call(verbs.decide, store, args.id, decision, word=args.word, actor=session.actor).value
    assert decided is not None
    text = f"{decided.token} may hold {show.usd(decided.usd_micros)} for {decided.run_id}: {decided.state}"
    session.emit(decided.to_dict(), text)
    return 0
