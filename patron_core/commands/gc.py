"""`patron gc`: what costs money or disk though no run needs it, and how much: this lab's jobs and clusters at SkyPilot
that no live run owns, SkyPilot's jobs controller, folders of ended runs on this machine, leftovers in the bucket.
With --checkpoints also what ended runs saved there, but for the last one of those that came to their end and all of
pinned runs; the events, the logs and the result of every run stay.

Without --yes it ends and removes nothing; exit 4 where there is something to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from patron_core.executors.skypilot_client import Client
from patron_core.lifecycle import leftovers, orphans
from patron_core.store import Store
from patron_core.ui.script import Arguments, open_command


class GcArguments(Arguments):
    checkpoints: bool = Field(default=False, description="also checkpoints of ended runs; a finished one's last stays")
    yes: bool = Field(default=False, description="end and remove what is found")


def main(argv: Sequence[str]) -> int:
    session = open_command(GcArguments, argv, prog="gc", description=__doc__ or "")
    answer = session.call(_collect, yes=session.args.yes, checkpoints=session.args.checkpoints).value or {}
    found = [*answer["orphans"], *(one for one in answer["leftovers"] if one["removable"])]
    kept = [one["sentence"] for one in answer["leftovers"] if not one["removable"]]
    lines = [("ended: " if session.args.yes else "") + one["sentence"] for one in found]
    text = "\n".join(lines) or "nothing of this lab runs that no run owns"
    text += "".join(f"\nstays: {line}" for line in kept)
    if found and not session.args.yes:
        answer["next"] = "patron gc --checkpoints --yes" if session.args.checkpoints else "patron gc --yes"
    elif any(one["kind"] == "checkpoints" and not one["removable"] for one in answer["leftovers"]):
        answer["next"] = "patron gc --checkpoints"
    if "next" in answer:
        text += f"\nnext: {answer['next']}"
    session.emit(answer, text)
    return 4 if found and not session.args.yes else 0


def _collect(*, yes: bool, checkpoints: bool) -> dict[str, Any]:
    """Raises Unavailable or Busy where SkyPilot or the bucket cannot be asked."""
    store = Store.open()
    site = Client() if orphans.uses_sky(store) else None
    try:
        found = orphans.collect(store, listing=not yes)
        left = leftovers.find_leftovers(store, site, checkpoints=checkpoints)
        if yes:
            leftovers.remove_leftovers(site, left)
    finally:
        store.close()
        if site is not None:
            site.close()
    dicts = {"orphans": [one.to_dict() for one in found], "leftovers": [one.to_dict() for one in left]}
    return {"ended": yes, **dicts}
