"""The core of Patron: specs, estimates, the run state machine, the ledger, executors, the supervisor and the verbs.

from patron_core import verbs
from patron_core.store import Store

store = Store.open()
run = verbs.plan(store, spec={"depth": 2, "vocab_size": 4096, "sequence_len": 256}, actor="me")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patron_core.notebook import Lab


def open(project: str | None = None) -> Lab:
    """The lab at PATRON_HOME, for a notebook of your own: `lab.sweep`, `lab.runs`, `lab.metrics`, `lab.note`."""
    from patron_core.notebook import open_lab

    return open_lab(project)
