"""The page from which an agent can do everything here: printed, or installed as an agent's skill with --install DIR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from patron_core.server.skill import install, skill
from patron_core.ui.script import Arguments, open_command


class SkillArguments(Arguments):
    install: str = Field(default="", description="write DIR/patron/SKILL.md instead, such as ~/.claude/skills")


def main(argv: Sequence[str]) -> int:
    session = open_command(SkillArguments, argv, prog="skill", description=__doc__ or "")
    if session.args.install:
        file = session.call(install, Path(session.args.install).expanduser()).value
        session.emit({"file": str(file)}, str(file))
    else:
        page = skill()
        session.emit({"skill": page}, page)
    return 0
