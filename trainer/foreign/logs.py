"""What a command prints, read: lines of a log become metrics, evaluations and figures of its end.

Written by others, so that nothing here is believed to be there: a line that is not understood is only a line.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

from trainer.contract.exits import EXIT_OUT_OF_MEMORY
from trainer.foreign.tracked import Logged

MIB = 2**20
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
# nanochat's scripts.base_train: the counter on a line of training is that of the step before it was done
_STEP = re.compile(
    r"step (\d{1,9})/(\d{1,9}) .*?\| loss: (\S+) \| lrm: (\S+) \| dt: (\S+)ms \| tok/sec: ([\d,]+) \| (.*)"
)
_MFU = re.compile(r"(?:bf16_)?mfu: (\S+)")
_EVAL = re.compile(r"Step (\d{1,9}) \| Validation bpb: (\S+)")
_CORE = re.compile(r"Step (\d{1,9}) \| CORE metric: (\S+)")
_PEAK = re.compile(r"Peak memory usage: ([\d.]+)MiB")


def plain(line: str) -> str:
    """Without colours and other orders to a terminal."""
    return _ESCAPE.sub("", line)


@dataclass
class Log:
    """All that was heard so far. `points` are taken by whoever reads them."""

    kind: str
    points: list[Logged] = field(default_factory=list)
    evals: list[tuple[int, float, float]] = field(default_factory=list)  # step, val_bpb, time
    figures: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None  # what the words say of an end that its own code does not tell
    last_line: str = ""

    def hear(self, line: str) -> None:
        if line.strip():
            self.last_line = line.strip()[:1000]
        if _OUT_OF_MEMORY.search(line):
            self.exit_code = EXIT_OUT_OF_MEMORY
        if self.kind == "nanochat":
            self._hear_nanochat(line)

    def _hear_nanochat(self, line: str) -> None:
        now = time.time()
        if found := _STEP.search(line):
            step, num_steps, loss, lrm, dt_ms, tokens_per_s, rest = found.groups()
            mfu = _MFU.search(rest)
            values = {
                "train/loss": _number(loss),
                "train/lr_multiplier": _number(lrm),
                "train/step_s": _scaled(dt_ms, 1e-3),
                "train/tokens_per_s": _number(tokens_per_s.replace(",", "")),
                "train/mfu": _scaled(mfu[1], 1e-2) if mfu else None,
            }
            self.points += [
                Logged(key, value, now, int(step) + 1) for key, value in values.items() if value is not None
            ]
            self.figures |= {"tokens_per_s": values["train/tokens_per_s"], "mfu": values["train/mfu"]}
            self.figures["num_steps"] = int(num_steps)
        elif (found := _EVAL.search(line)) and (bpb := _number(found[2])) is not None:
            self.evals.append((int(found[1]), bpb, now))
            least = self.figures.get("min_val_bpb")
            self.figures |= {"val_bpb": bpb, "min_val_bpb": bpb if least is None else min(least, bpb)}
        elif (found := _CORE.search(line)) and (core := _number(found[2])) is not None:
            self.points.append(Logged("val/core", core, now, int(found[1])))
        elif (found := _PEAK.search(line)) and (mib := _number(found[1])):
            self.figures["peak_memory_bytes"] = int(mib * MIB)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scaled(text: str, factor: float) -> float | None:
    value = _number(text)
    return None if value is None else value * factor
