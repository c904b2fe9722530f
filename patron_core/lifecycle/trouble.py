"""What stands in a run's way, written down once: why it cannot be submitted, or why its last word cannot be read.

It is shown with the run, and says for how long the trouble lasts; after decide.TROUBLE_S the run rests.
"""

from __future__ import annotations

from dataclasses import dataclass

from patron_core.store import Store, runs
from patron_core.store.records import Run, RunEvent

KIND = "trouble"


@dataclass(frozen=True, kw_only=True)
class Trouble:
    message: str
    since: float  # when it was first noted
    on_its_way: bool = False  # what was asked for takes minutes, and nothing is wrong


def standing(history: list[RunEvent]) -> Trouble | None:
    """The newest one since the run's state last changed. `history` is in order."""
    noted: list[RunEvent] = []
    for event in history:
        if event.kind == "transition":
            noted = []
        elif event.kind == KIND:
            noted.append(event)
    if not noted:
        return None
    last = noted[-1].detail
    same = [event for event in noted if bool(event.detail.get("on_its_way")) == bool(last.get("on_its_way"))]
    return Trouble(message=str(last.get("message", "")), since=same[0].time, on_its_way=bool(last.get("on_its_way")))


def note(store: Store, run: Run, message: str, *, actor: str, now: float, on_its_way: bool = False) -> None:
    """Again with the same message it writes nothing."""
    known = standing(runs.events(store, run.id))
    if known is None or known.message != message:
        with store.begin() as conn:
            runs.add_event(
                conn, run.id, kind=KIND, actor=actor, now=now, detail={"message": message, "on_its_way": on_its_way}
            )
