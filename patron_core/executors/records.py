"""Small JSON files in a run directory that the machine and the core write for each other.

machines/<key>-<n>.json   the machine's: one for each start of the job `key`, from 1; rewritten while it runs
stops/<key>.json          the core's: please stop; `kill_after_s` seconds later, by force
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from patron_core.files import read_json, write_json


class Records:
    """Of one job. Raises OSError when the run directory cannot be reached."""

    def __init__(self, run_dir: str, key: str):
        self._root, self._key = Path(run_dir), key

    def starts(self) -> list[dict[str, Any]]:
        """The records of every start so far, in order."""
        found: list[dict[str, Any]] = []
        while (record := read_json(self._machine(len(found) + 1))) is not None:
            found.append(record)
        return found

    def claim_start(self, number: int, record: dict[str, Any]) -> bool:
        """Write the first record of a start; False where somebody else just wrote one of that number."""
        path = self._machine(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(record, file)
        except FileExistsError:
            return False
        return True

    def write_start(self, number: int, record: dict[str, Any]) -> None:
        write_json(self._machine(number), record)

    def stop(self) -> dict[str, Any] | None:
        return read_json(self._stop())

    def write_stop(self, wish: dict[str, Any]) -> None:
        path = self._stop()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, wish)

    def _machine(self, number: int) -> Path:
        return self._root / "machines" / f"{self._key}-{number}.json"

    def _stop(self) -> Path:
        return self._root / "stops" / f"{self._key}.json"
