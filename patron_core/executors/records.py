"""Small JSON files in a run directory that the machine and the core write for each other.

machines/<key>-<n>.json   the machine's: one for each start of the job `key`, from 1; rewritten while it runs.
                          Of several machines that start together the first one's; what they cost is counted by it
machines/<key>-node<r>-<n>.json   the others'
stops/<key>.json          the core's: please stop; `kill_after_s` seconds later, by force
"""

from __future__ import annotations

import json
from typing import Any

from patron_core.rundir.places import place_of
from trainer.contract import shapes
from trainer.contract.masking import masked

MAX_STARTS = 10_000


class Records:
    """Of one job. Raises OSError when the run directory cannot be reached."""

    def __init__(self, run_dir: str, key: str, *, node: int = 0):
        self._place, self._key = place_of(run_dir), key
        self._name = f"{key}-node{node}" if node else key

    def starts(self) -> list[dict[str, Any]]:
        """The records of every start so far, in order."""
        found: list[dict[str, Any]] = []
        while len(found) < MAX_STARTS and (content := self._place.read(self._machine(len(found) + 1))) is not None:
            # a damaged one hides none of those after it
            found.append(masked(shapes.start_record(shapes.object_of(content))))
        return found

    def claim_start(self, number: int, record: dict[str, Any]) -> bool:
        """Write the first record of a start; False where somebody else just wrote one of that number."""
        return self._place.create(self._machine(number), json.dumps(record).encode())

    def write_start(self, number: int, record: dict[str, Any]) -> None:
        self._place.write(self._machine(number), json.dumps(record).encode())

    def stop(self) -> dict[str, Any] | None:
        wish = shapes.object_of(self._place.read(self._stop()))
        return None if wish is None else shapes.stop_wish(wish)

    def write_stop(self, wish: dict[str, Any]) -> None:
        self._place.write(self._stop(), json.dumps(wish).encode())

    def _machine(self, number: int) -> str:
        return f"machines/{self._name}-{number}.json"

    def _stop(self) -> str:
        return f"stops/{self._key}.json"
