"""How much a source has to train on: counted before anything is paid for, and prepared for whoever trains on it next.

    python -m trainer.data.count < SPEC.json        {"train_tokens": N, "val_tokens": N}, in rows of its sequence_len

Of a remote source one part is counted. Exit code 78, and the reason on stderr, where there is nothing that can be used.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from trainer.contract.exits import EXIT_BAD_SPEC
from trainer.contract.files import cache_folder
from trainer.contract.spec import SpecError, TrainSpec
from trainer.contract.words import printable
from trainer.data.errors import DataError
from trainer.data.making import Wanted
from trainer.data.prepare import prepare


def main() -> int:
    try:
        spec = TrainSpec.from_json(sys.stdin.read())
        one_row = replace(spec, num_steps=1, batch_tokens=spec.sequence_len, device_batch_size=1, data_shards=1)
        data = prepare(one_row, cache_folder(), wanted=Wanted())
    except (SpecError, DataError, OSError) as error:
        print(printable(str(error)), file=sys.stderr)
        return EXIT_BAD_SPEC
    print(json.dumps({"train_tokens": data.num_train_tokens, "val_tokens": data.num_val_tokens}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
