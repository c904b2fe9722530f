"""What a trainer leaves, without torch: workload.py train|dryrun|environment RUN_DIR ATTEMPT.

A training goes on until a file `go` is in its run directory, and ends with 75 when it is asked to, or finds `leave`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

from trainer.contract.code import code_hash

what, run_dir, attempt = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
environment = {"python": platform.python_version(), "code_hash": code_hash(), "packages": packages}
environment["hash"] = environment["code_hash"]
if what == "environment":
    print(json.dumps(environment))
    sys.exit(0)


def end(code: int, **result: object) -> None:
    last_word = {"attempt": attempt, "exit_code": code, **result}
    (run_dir / "result.json").write_text(json.dumps(last_word))
    sys.exit(code)


signal.signal(signal.SIGTERM, lambda *_: end(75, step=1))
run_dir.mkdir(parents=True, exist_ok=True)
with (run_dir / "starts").open("a") as file:
    file.write(f"{what} {os.uname().nodename}\n")
(run_dir / "environment.json").write_text(json.dumps(environment))
if what == "dryrun":
    burst = {"step_s": 0.02, "step_s_iqr": 0.0, "start_s": 0.5, "first_step_s": 0.02, "data_s": 0.0, "tokenizer_s": 0.0}
    end(0, burst=burst, rehearsal={"ok": True})
while not (run_dir / "go").exists():
    if (run_dir / "leave").exists():
        (run_dir / "leave").unlink()
        end(75, step=1)
    time.sleep(0.05)
end(0, val_bpb=2.0, step=10)
