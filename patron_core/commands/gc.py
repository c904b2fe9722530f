"""`patron gc`: jobs and clusters at SkyPilot that are this lab's and that no live run owns, with what they cost so far.

Without --yes it ends nothing; exit 4 where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from patron_core.lifecycle import orphans
from patron_core.store import Store
from patron_core.ui.script import Arguments, open_command


class GcArguments(Arguments):
    yes: bool = Field(default=False, description="end what is found")


def main(argv: Sequence[str]) -> int:
    session = open_command(GcArguments, argv, prog="gc", description=__doc__ or "")
    answer = session.call(_collect, yes=session.args.yes).value or {}
    found = answer["orphans"]
    lines = [("ended: " if session.args.yes else "") + orphan["sentence"] for orphan in found]
    text = "\n".join(lines) or "nothing of this lab runs that no run owns"
    if found and not session.args.yes:
        answer["next"] = "patron gc --yes"
        text += f"\nnext: {answer['next']}"
    session.emit(answer, text)
    return 4 if found and not session.args.yes else 0


def _collect(*, yes: bool) -> dict[str, Any]:
    """Raises Unavailable where SkyPilot cannot be asked."""
    store = Store.open()
    try:
        found = orphans.collect(store, listing=not yes)
    finally:
        store.close()
    return {"ended": yes, "orphans": [orphan.to_dict() for orphan in found]}
