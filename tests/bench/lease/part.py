"""One part of a lease, in a process of its own: python -m tests.bench.lease.part NAME SETTING RESULT.json

The result is rewritten whenever something is known, so that a part which is ended in time or crashes keeps the rest.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.lease.setting import Report, Setting, Skip
from trainer.contract.files import write_json
from trainer.runtime.transfer import use_expandable_segments

Part = Callable[[Setting, Report], None]


def find_part(name: str) -> Part:
    """By `module.function`, so that a part imports what it needs and nothing else."""
    import importlib

    module, _, function = name.partition(".")
    part: Part = getattr(importlib.import_module(f"tests.bench.lease.{module}"), function)
    return part


def main(argv: list[str]) -> int:
    name, setting_text, path = argv
    values = json.loads(setting_text)
    setting = Setting(smoke=values["smoke"], vs=Path(values["vs"]) if values["vs"] else None, out=Path(values["out"]))
    result: dict[str, Any] = {}

    def report(**found: Any) -> None:
        result.update(found)
        write_json(Path(path), finite(result))

    use_expandable_segments()
    try:
        find_part(name)(setting, report)
    except Skip as reason:
        report(skipped=str(reason))
    except Exception as error:  # the other parts go on; what went wrong is a result too
        traceback.print_exc()
        report(error=f"{type(error).__name__}: {error}"[:2000], traceback=traceback.format_exc()[-4000:])
        return 1
    return 0


def finite(value: Any) -> Any:
    """NaN and infinity are no JSON: as text."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
