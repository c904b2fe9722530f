"""Runs in short: a filtered list, or, with --run, metrics, log, checkpoints and the ledger of some, for programs.

patron runs --state running,paused --tag lr-study --json
patron runs --run A,B --keys train/loss,val/bpb --since-step 100 --json
patron runs --run A --log 40 --checkpoints --ledger --json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.store import Store
from patron_core.ui import show
from patron_core.ui.script import Arguments, Session, open_command
from patron_core.verbs import checkpoints
from patron_core.verbs.metrics import MAX_POINTS, metrics

_STATES = ", ".join(verbs.RunState)


class RunsArguments(Arguments):
    project: str = Field(default="", description="only of this project")
    state: tuple[str, ...] = Field(default=(), description=f"only in these: {_STATES}")
    tag: tuple[str, ...] = Field(default=(), description="only with all of these tags")
    text: str = Field(default="", max_length=200, description="looked for in name, id and detail")
    limit: int = Field(default=50, ge=1, le=500, description="at most so many, of runs or of the ledger's lines")
    cursor: int = Field(default=0, ge=0, description="`cursor` of the page before")
    run: tuple[str, ...] = Field(default=(), description="look at these instead, by id or name")
    keys: tuple[str, ...] = Field(default=(), description="their metrics: these, such as train/loss,val/bpb; or all")
    since_step: int = Field(default=-1, ge=-1, description="their metrics: only after this step")
    around: int = Field(default=-1, ge=-1, description="their metrics: all points next to this step")
    points: int = Field(default=200, ge=4, le=MAX_POINTS, description="their metrics: of each at most so many")
    log: int = Field(default=0, ge=0, le=2000, description="the last so many lines of their logs")
    checkpoints: bool = Field(default=False, description="their whole checkpoints, with files and hashes")
    ledger: bool = Field(default=False, description="what money moved for them; without --run, in the project")


def main(argv: Sequence[str]) -> int:
    session = open_command(RunsArguments, argv, prog="runs", description=__doc__ or "")
    args, store = session.args, session.open_lab()
    assert store is not None
    if args.run:
        found = {word: session.call(_one, store, word, args).value for word in args.run}
        session.emit({"runs": found}, "\n\n".join(f"{word}\n{_text(said or {})}" for word, said in found.items()))
    elif args.ledger:
        lines = session.call(verbs.statement, store, args.project or verbs.DEFAULT_PROJECT, args.limit).value or []
        session.emit({"transfers": [asdict(line) for line in lines]}, "\n".join(map(_line, lines)))
    else:
        _list(session, store)
    return 0


def _list(session: Session[RunsArguments], store: Store) -> None:
    args = session.args
    unknown = sorted(set(args.state) - {*verbs.RunState})
    if unknown:
        session.fail(InvalidInput([f"state: {', '.join(unknown)}; allowed {_STATES}"], next="patron runs --help"))
    page = session.call(
        verbs.list_runs,
        store,
        project=args.project or None,
        states=[verbs.RunState(state) for state in args.state] or None,
        tags=args.tag or None,
        text=args.text or None,
        limit=args.limit,
        cursor=args.cursor,
    ).value
    assert page is not None
    columns = [
        show.Column("run", lambda r: r.name, "left"),
        show.Column("id", lambda r: r.id, "left"),
        show.Column("project", lambda r: r.project, "left"),
        show.Column("state", lambda r: show.plain(r.state.value), "left"),
        show.Column("changed", lambda r: show.moment(r.updated_at), "left"),
        show.Column("tags", lambda r: ", ".join(page.tags[r.id]), "left"),
    ]
    more = f"\nmore: patron runs --cursor {page.cursor}" if page.cursor else ""
    session.emit(page.to_dict(), show.text_table(page.runs, columns) + more if page.runs else "No run is like that.")


def _one(store: Store, word: str, args: RunsArguments) -> dict[str, Any]:
    run = verbs.find_run(store, word)
    found = verbs.run_summary(run)
    if args.log:
        found["log"] = verbs.log_tail(store, run.id, args.log).splitlines()
    if args.checkpoints:
        found["checkpoints"] = checkpoints.every(store, run.id)
    if args.ledger:
        moved = verbs.statement(store, run.project, args.limit, run_id=run.id)
        found["transfers"] = [asdict(line) for line in moved]
    wants_metrics = args.keys or args.since_step >= 0 or args.around >= 0
    if wants_metrics or not (args.log or args.checkpoints or args.ledger):
        around = args.around if args.around >= 0 else None
        seen = metrics(
            store, [run.id], keys=args.keys or None, since_step=args.since_step, around=around, points=args.points
        )
        found |= seen[run.id]
    return found


def _text(said: dict[str, Any]) -> str:
    lines = [f"  {name} {value}" for name, value in said.items() if not isinstance(value, list | dict)]
    lines += [f"  {line}" for line in said.get("log", ())]
    lines += [
        f"  checkpoint of step {each['step']}, {show.size(each['bytes'])}" for each in said.get("checkpoints", ())
    ]
    lines += [f"  {each['kind']} {show.usd(each['usd_micros'])}" for each in said.get("transfers", ())]
    lines += [f"  {key}: step {series[-1][0]}, {series[-1][1]:.4g}" for key, series in _series(said) if series]
    return "\n".join(lines)


def _series(said: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    return list((said.get("metrics") or {}).items())


def _line(each: Any) -> str:
    return f"{show.moment(each.time)}  {show.plain(each.kind):<12} {show.usd(each.usd_micros):>12}  {each.actor}"
