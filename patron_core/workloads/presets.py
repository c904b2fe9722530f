"""Presets by name: something that is known to run, and what came out of it before. Pure.

patron dryrun --workload hello                a minute on any machine
patron dryrun --workload nanochat-a100-d10    upstream's code, as its baseline was trained
patron dryrun --workload ours-a100-d10        the built-in trainer at the same depth, steps and batch
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_NANOCHAT = "https://github.com/karpathy/nanochat@92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Foreign code by `where` and `entry_point`, or a training of ours by the fields of its `spec`."""

    what: str
    where: str = ""
    entry_point: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    baseline: str = ""  # a finished run of it, by others


PRESETS: dict[str, Preset] = {
    "hello": Preset(what="a line is fitted to points for a minute", where="examples/hello"),
    "nanochat-a100-d10": Preset(
        what="nanochat's d10 for one A100-40GB, an hour",
        where=_NANOCHAT,
        entry_point="a100_preset",
        baseline="val_bpb 0.897 to 0.898 on one A100-40GB in 55 to 62 min, evaluated each 250 to 300 steps",
    ),
    "nanochat-h100-d12": Preset(
        what="nanochat's d12 for one H100, 50 minutes",
        where=_NANOCHAT,
        entry_point="h100_preset",
        baseline="val_bpb 0.854 on one H100 in 47 to 52 min, 0.96 s a step",
    ),
    "ours-a100-d10": Preset(
        what="the built-in trainer at the first one's depth, steps and batch",
        spec={
            "depth": 10, "num_steps": 1500, "batch_tokens": 2**19, "device_batch_size": 16, "window_pattern": "L",
            "eval_every_steps": 300, "data": "climbmix", "tokenizer_chars": 200_000_000,
        },
        baseline="nanochat's own at this size: val_bpb 0.897 to 0.898 in 55 to 62 min",
    ),
    "ours-h100-d12": Preset(
        what="the built-in trainer at the second one's depth, steps and batch",
        spec={
            "depth": 12, "num_steps": 2205, "batch_tokens": 2**19, "device_batch_size": 32, "eval_every_steps": 250,
            "data": "climbmix", "tokenizer_chars": 200_000_000,
        },
        baseline="nanochat's own at this size: val_bpb 0.854 in 47 to 52 min",
    ),
}  # fmt: skip
