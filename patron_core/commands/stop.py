"""`patron stop --all`: pause every launched run, with a checkpoint, and cancel every dryrun.

With --project or --token NAME only theirs; a token that may be stolen is revoked by `patron token revoke --name NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui.script import Arguments, open_command


class StopArguments(Arguments):
    all: bool = Field(default=False, description="of the whole lab")
    project: str = Field(default="", description="only of this project")
    token: str = Field(default="", description="only what the token of this name holds money for")


def main(argv: Sequence[str]) -> int:
    session = open_command(StopArguments, argv, prog="stop", description=__doc__ or "")
    args = session.args
    if not (args.all or args.project or args.token):
        session.fail(InvalidInput(["say what: --all, --project or --token"], next="patron stop --all"))
    store = session.open_lab()
    assert store is not None
    asked = {"project": args.project or None, "token": args.token or None, "actor": session.actor}
    answer = session.call(verbs.stop_all, store, **asked).value or {}
    lines = [f"stopping {run}" for run in answer["stopped"]]
    lines += [f"{run}: {why}" for run, why in answer["failed"].items()]
    session.emit(answer, "\n".join(lines) or "Nothing was under way.")
    return 3 if answer["failed"] else 0
