"""A search or a sweep, asked for on a page: what is in the fields at the press, under a key of its own.

    plan = Unattended(verb=..., store=store, actor="ada", key="k")
    plan.question = verbs.Question(...)          # whenever a field changes; None where a field cannot be read
    set_work(plan.begin())                       # a press: safe to repeat
    set_work(plan.followed(get_work()))          # at a tick: from asking on to what was asked

A press goes on under the key that the page has where that asked the same question, or the same with less money; a
corrected question is another one, and has another key.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui import background

if TYPE_CHECKING:
    from patron_core.store import Store
    from patron_core.ui.background import Work

_ASKING = "ask:"


def work_of(key: str) -> Work | None:
    """What was asked for under this key, by whichever page, or is being asked."""
    return background.find(key) or background.find(_ASKING + key)


@dataclass(kw_only=True)
class Unattended:
    verb: Callable[..., Any]
    store: Store
    actor: str
    key: str
    project: str = verbs.DEFAULT_PROJECT
    question: Any = None
    texts: dict[str, str] = field(default_factory=dict)  # of fields that are drawn anew, as they were typed

    def begin(self) -> Work:
        """Ask what is in the fields, once what was typed before the press has come too."""
        return background.pressed(_ASKING + self.key, self._ask)

    def followed(self, work: Work | None) -> Work | None:
        """What a page follows: while a question is asked that, then what was asked."""
        is_asked = work is not None and work.key.startswith(_ASKING) and work.value
        return background.find(work.value) if work is not None and is_asked else work

    def _ask(self, _: Work) -> str:
        question, project = self.question, self.project
        if question is None:
            raise InvalidInput(["a field above cannot be read"], next="correct it, and press again")
        key = self.key
        if not verbs.goes_on(self.store, question, project=project, key=key):
            key = uuid.uuid4().hex[:12]
        background.start(
            key,
            lambda work: self.verb(
                self.store, question, project=project, actor=self.actor, key=key, on_progress=work.say
            ),
        )
        return key
