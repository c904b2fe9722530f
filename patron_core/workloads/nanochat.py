"""Upstream nanochat from its git folder, unchanged: its commands, and how its log, checkpoints and folders are read.

base_train      the model alone, on data and a tokenizer that are there
a100_preset     d10 on an A100: shards, tokenizer and model, as in the preset whose baseline it names
h100_preset     d12 on an H100
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from patron_core.workloads.mlproject import EntryPoint, Parameter, Project
from trainer.contract.foreign import Environment, Value

_TAG = "patron"
_BASE = "base"  # NANOCHAT_BASE_DIR, in the work folder: tokenizer and checkpoints are the run's own
_TRAIN = (
    "python -m scripts.base_train --depth={depth} --num-iterations={num_iterations}"
    " --device-batch-size={device_batch_size} --max-seq-len={max_seq_len} --total-batch-size={total_batch_size}"
    " --window-pattern={window_pattern} --eval-every={eval_every} --eval-tokens={eval_tokens}"
    " --core-metric-every=-1 --sample-every=-1 --save-every={save_every} --model-tag=patron --run=dummy {resume}"
)
_TOKENIZER = (
    "(test -e base/tokenizer/token_bytes.pt || python -m scripts.tok_train --max-chars={tok_max_chars}"
    " --vocab-size={vocab_size}) && "
)
_PREPARE = "python -m nanochat.dataset -n {num_data_shards} && " + _TOKENIZER


def is_nanochat(names: Collection[str]) -> bool:
    """By the names of a repository's files."""
    return {"scripts/base_train.py", "nanochat/gpt.py"} <= set(names)


def project() -> Project:
    return Project(
        name="nanochat",
        environment=Environment(),
        entry_points={
            "base_train": EntryPoint(command=_TOKENIZER + _TRAIN, parameters=_parameters()),
            "a100_preset": EntryPoint(
                command=_PREPARE + _TRAIN,
                parameters=_parameters(
                    depth=10, num_iterations=1500, device_batch_size=16, max_seq_len=2048, eval_every=300,
                    num_data_shards=12, tok_max_chars=200_000_000,
                ),
            ),
            "h100_preset": EntryPoint(
                command=_PREPARE + _TRAIN,
                parameters=_parameters(
                    depth=12, num_iterations=2205, device_batch_size=32, max_seq_len=2048, eval_every=250,
                    num_data_shards=20, tok_max_chars=200_000_000, window_pattern="SSSL",
                ),
            ),
        },
    )  # fmt: skip


def extra() -> dict[str, Any]:
    """What a spec says beside its command."""
    return {
        "log": "nanochat",
        "variables": {"NANOCHAT_BASE_DIR": f"{{work}}/{_BASE}", "WANDB_MODE": "offline"},
        "shared": [f"{_BASE}/base_data_climbmix"],
        "checkpoints": {
            "folder": f"{_BASE}/base_checkpoints/{_TAG}",
            "pattern": r"(?:model|meta|optim)_(\d{6,9})(?:_rank\d+)?\.(?:pt|json)",
            "resume": "--resume-from-step={step}",
        },
    }


def _parameters(**changed: Value) -> dict[str, Parameter]:
    values: dict[str, Value] = {
        "depth": 4,
        "tok_max_chars": 2_000_000,
        "vocab_size": 32768,
        "num_iterations": 100,
        "device_batch_size": 1,
        "max_seq_len": 512,
        "total_batch_size": 524288 if changed else 512,
        "window_pattern": "L",
        "eval_every": 50,
        "eval_tokens": 80 * 524288 if changed else 4096,
        "save_every": 100 if changed else 20,
        **changed,
    }
    kinds = {int: "int", float: "float", str: "string"}
    return {name: Parameter(type=kinds[type(value)], default=value) for name, value in values.items()}
