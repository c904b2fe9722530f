"""The lab in a terminal: its text, and what a script asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.ui import inert, show, tables

if TYPE_CHECKING:
    from patron_core.mirror.lag import Lag
    from patron_core.store import Store
    from patron_core.ui.script import Session
    from patron_core.verbs import Lab

Words = Callable[[], list[str]]
MOST_LATE = 3  # runs in words
_START = "No run yet. Start with: patron search, or estimate one: patron estimate"


def text(found: Lab) -> str:
    """Money, runs, what waits for a person, and what is not as it should be."""
    wallet = found.wallet
    columns = tables.runs(lambda notebook, run_id: None, found.whose)
    return "\n".join(
        [
            f"{found.project}: {show.usd(wallet.available_usd_micros)} available, {show.usd(wallet.held_usd_micros)} "
            f"held, {show.usd(wallet.spent_usd_micros)} spent, burning "
            f"{show.usd(found.burn_usd_micros_per_hour)} an hour",
            "",
            *([f"{found.counted}:", show.text_table(found.rows, columns)] if found.rows else [_START]),
            *(f"waits: {one.run.name}: {one.words} next: {one.next}" for one in found.waiting),
            *late(found),
            *found.problems,
        ]
    )


def late(found: Lab) -> list[str]:
    """What of MLflow is behind: the first few, where all are; runs that lag for one reason in one sentence."""
    by_why: dict[str | None, list[Lag]] = {}
    for lag in found.late:
        by_why.setdefault(lag.why, []).append(lag)
    return [_late_together(lags) for lags in by_why.values()]


def _late_together(lags: Sequence[Lag]) -> str:
    most, others = max(lags, key=lambda lag: lag.seconds), len(lags) - 1
    named = [lag.name for lag in lags if lag is not most][:MOST_LATE]
    more = f" and {others - len(named):,} more" if others > len(named) else ""
    return most.sentence + (f". So it is, by less, on {', '.join(named)}{more}." if others else "")


def tag_elements(ui: Any, change: Callable[[Words, Words], object]) -> list[Any]:
    """The buttons that pin and tag, and the field with the tag. `change(added, removed)` gets what gives the tags when
    they are wanted: those that are in the field then. `ui` is marimo's; the caller keeps the list."""
    typed = {"word": ""}

    def none() -> list[str]:
        return []

    def pinned() -> list[str]:
        return [verbs.PINNED]

    def named() -> list[str]:
        return [typed["word"]]

    def button(words: str, added: Words, removed: Words) -> Any:
        return ui.button(label=inert.md("{}", words), on_click=lambda _: change(added, removed))

    return [
        button("Pin", pinned, none),
        button("Unpin", none, pinned),
        ui.text(placeholder="a word", label="Tag", on_change=lambda value: typed.update(word=value)),
        button("Add tag", named, none),
        button("Remove tag", none, named),
    ]


def act(session: Session[Any], store: Store, args: Any, *, project: str, key: str, actor: str) -> None:
    """What the flags of a script ask for: move money, write a run off, tag runs. Nothing on a page."""
    if not session.is_script:
        return
    wishes = [(verbs.deposit, args.deposit, "a deposit of {} authorises spending")]
    wishes += [(verbs.withdraw, args.withdraw, "a withdrawal of {} takes it back")]
    for verb, dollars, what in wishes:
        if dollars:
            micros = verbs.from_usd(dollars)
            session.confirm(args.yes, what.format(show.usd(micros)), "--yes")
            own = f"{verb.__name__}:{key}"
            session.call(verb, store, project=project, usd_micros=micros, key=own, actor=actor)
    if args.write_off:
        session.confirm(args.yes, f"the write-off of run {args.write_off}", "--yes")
        session.call(verbs.write_off, store, args.write_off, actor=actor)
    if args.tag or args.untag or args.pin or args.unpin:
        session.require("--runs", args.runs, next="patron lab")
        add = [*args.tag, *([verbs.PINNED] if args.pin else [])]
        remove = [*args.untag, *([verbs.PINNED] if args.unpin else [])]
        for run in args.runs:
            session.call(verbs.tag, store, run, add=add, remove=remove, actor=actor)
