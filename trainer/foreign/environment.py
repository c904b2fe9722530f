"""Print, as JSON, what a foreign run would be started in on this machine now.

python -m trainer.foreign.environment SPEC.json
"""

from __future__ import annotations

import json
import sys

from trainer.contract.exits import TrainerExit
from trainer.foreign import surroundings
from trainer.foreign.run import load_spec, say


def main(argv: list[str]) -> int:
    try:
        spec = load_spec(argv[0])
    except TrainerExit as error:
        say(str(error))
        return error.exit_code
    print(json.dumps(surroundings.record(spec, surroundings.find(spec.environment))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
