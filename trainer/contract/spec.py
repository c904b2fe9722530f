"""The trainer's input: one frozen, validated description of a run, read from spec.json.

Pure standard library, so that whoever prepares a run checks it with the very code that will read it. A spec names every
value that can change the result; what is None is derived from depth by `trainer.contract.recipe`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os.path
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trainer.contract.recipe import HEAD_DIM, Features, Recipe, make_recipe

SOURCES = ("stdlib", "fineweb-edu", "climbmix")  # or path:/some/where
PATH = "path:"
FP8_DIVISOR = 16  # of every size of an fp8 product (trainer.model.fp8)


def absolute_data(data: str) -> str:
    """`path:` data means the folder of whoever gives it: a run is resumed from other working folders than that."""
    if not data.startswith(PATH):
        return data
    # not Path's: links stay as they are spelled, and a home that is not known is no error yet
    return PATH + os.path.abspath(os.path.expanduser(data.removeprefix(PATH)))  # noqa: PTH100, PTH111


class SpecError(ValueError):
    """A spec that cannot run. `problems` holds every fault found, each naming the value and the allowed range."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One run of the trainer. Times in seconds, sizes in tokens; None means: from the recipe."""

    depth: int
    # model
    sequence_len: int = 2048
    vocab_size: int = 32768
    window_pattern: str = "SSSL"
    dim: int | None = None
    head_dim: int = HEAD_DIM
    features: Features = field(default_factory=Features)
    # horizon and optimisation
    ratio: float = 12.0
    horizon_tokens: int | None = None
    batch_tokens: int | None = None
    num_steps: int | None = None
    device_batch_size: int | None = None  # sequences in a micro-batch; None: the largest that fits the batch and 16
    warmup_steps: int = 40
    warmdown_ratio: float = 0.65
    final_lr_frac: float = 0.05
    weight_decay: float = 0.28
    lr_scale: float = 1.0
    learning_rates: dict[str, float] = field(default_factory=dict)
    seed: int = 42
    # data
    data: str = "stdlib"
    data_shards: int | None = None  # shards to fetch of a remote source; None: as many as the horizon needs
    tokenizer_chars: int | None = None  # of text that the tokenizer is trained on; None: 4000 a token of vocabulary
    # evaluation, checkpoints, log
    eval_every_steps: int = 250  # also at step 0 and at the end; 0: only at the end
    eval_tokens: int = 80 * 524288
    bos_eval_tokens: int | None = None  # at the end also on nanochat's validation stream: its own are 80 * 524288
    checkpoint_every_s: float | None = None  # None: from the measured cost of a save; 0: only at the end
    checkpoint_every_steps: int | None = None  # beats checkpoint_every_s
    checkpoint_keep: int = 2
    log_every_steps: int = 1
    # machine
    device: str = "auto"  # auto, cpu, cuda
    dtype: str = "auto"  # auto, bfloat16, float32
    compile: bool | None = None  # None: on CUDA only
    fp8: bool = False  # the blocks' matrix products while training; evaluations stay in bfloat16
    deadline_s: float | None = None  # the process stops by itself this long after it started

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSpec:
        """A checked spec, its `path:` absolute. Raises SpecError with every problem at once."""
        problems = [unknown_field(name) for name in values if name not in FIELDS]
        problems += [] if "depth" in values else ["depth: missing; allowed 1 to 64"]
        wrong = field_problems(values)
        if not wrong and "depth" in values:  # what its fields do together, whatever else is misspelt
            given = {name: value for name, value in values.items() if name in FIELDS}
            given["features"] = Features(**given.get("features", {}))
            given["data"] = absolute_data(given.get("data", "stdlib"))
            spec = cls(**given)
            problems += spec._problems_together()
            if not problems:
                return spec
        raise SpecError([*problems, *wrong])

    def _problems_together(self) -> list[str]:
        try:
            recipe = self.recipe()
        except ValueError as error:
            return [str(error)]
        if self.device_batch_size and recipe.batch_tokens % (self.device_batch_size * self.sequence_len):
            return [
                f"device_batch_size: {self.device_batch_size} x sequence_len {self.sequence_len} does not divide "
                f"the batch of {recipe.batch_tokens} tokens"
            ]
        return self._fp8_problems(recipe.dim) if self.fp8 else []

    def _fp8_problems(self, dim: int) -> list[str]:
        sizes = {"sequence_len": self.sequence_len, "dim": dim}
        problems = [
            f"fp8: {name} is {size}; the hardware multiplies fp8 in sizes that {FP8_DIVISOR} divides"
            for name, size in sizes.items()
            if size % FP8_DIVISOR
        ]
        return problems + ([] if self.dtype != "float32" else ["fp8: goes with dtype bfloat16 or auto, not float32"])

    @classmethod
    def from_json(cls, text: str) -> TrainSpec:
        return cls.from_dict(json_object(text))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON. A field that came later is left out at its default: earlier runs keep their hash."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in _LATER or value != FIELDS[name].default}

    def to_json(self) -> str:
        return canonical_json(self.to_dict())

    def hash(self) -> str:
        """Sixteen hex digits that change when any value does."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def shape(self) -> dict[str, Any]:
        """What a dryrun measures depends on this and on nothing else: specs of one shape share a proof."""
        measured = {name: value for name, value in self.to_dict().items() if name not in UNMEASURED}
        return measured | {
            "batch_tokens": self.recipe().batch_tokens,  # a horizon chooses it
            "device_batch_size": self.micro_batch_size(),
        }

    def recipe(self) -> Recipe:
        return make_recipe(
            self.depth,
            sequence_len=self.sequence_len,
            vocab_size=self.vocab_size,
            window_pattern=self.window_pattern,
            dim=self.dim,
            head_dim=self.head_dim,
            ratio=self.ratio,
            horizon_tokens=self.horizon_tokens,
            batch_tokens=self.batch_tokens,
            num_steps=self.num_steps,
            warmup_steps=self.warmup_steps,
            warmdown_ratio=self.warmdown_ratio,
            final_lr_frac=self.final_lr_frac,
            weight_decay=self.weight_decay,
            lr_scale=self.lr_scale,
            learning_rates=self.learning_rates,
            features=self.features,
        )

    def micro_batch_size(self, num_processes: int = 1) -> int:
        """Sequences in a micro-batch: as given, else the largest power of two up to 16 that divides a process's share.

        Raises SpecError for a batch that cannot be divided over the processes.
        """
        rows = self.recipe().batch_tokens // self.sequence_len
        sizes = [self.device_batch_size] if self.device_batch_size else [16, 8, 4, 2, 1]
        for size in sizes:
            if rows % (size * num_processes) == 0:
                return size
        raise SpecError(
            [
                f"a step of {rows} sequences cannot be divided over {num_processes} processes in micro-batches of "
                f"{' or '.join(map(str, sizes))} (device_batch_size). Choose a number of processes that divides "
                f"{rows // min(sizes)}, or another device_batch_size or batch_tokens in a new run"
            ]
        )


FIELDS = {f.name: f for f in fields(TrainSpec)}
_LATER = frozenset({"tokenizer_chars", "bos_eval_tokens", "fp8"})
# What may differ between a run and the burst that proved it: how long it trains and by which rates, how often it looks
UNMEASURED = frozenset(
    {"ratio", "horizon_tokens", "num_steps", "warmup_steps", "warmdown_ratio", "final_lr_frac", "weight_decay"}
    | {"lr_scale", "learning_rates", "seed", "eval_every_steps", "eval_tokens", "log_every_steps", "deadline_s"}
    | {"bos_eval_tokens"}
    | {"checkpoint_every_s", "checkpoint_every_steps", "checkpoint_keep"}
)


def unknown_field(name: str, known: Iterable[str] = ()) -> str:
    """The problem of a key that no spec has: the names that are near, else all there are."""
    names = sorted(known or FIELDS)
    parts = [each for each in names if name and (name in each or each in name)]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, names, n=3, cutoff=0.6), *parts]))[:3]
    return f"{name}: unknown key; " + (
        f"did you mean {' or '.join(near)}?" if near else f"known keys are {', '.join(names)}"
    )


def json_object(text: str) -> dict[str, Any]:
    """Of a spec's file. Raises SpecError for anything else."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError([f"spec is not JSON: {error}"]) from error
    if not isinstance(values, dict):
        raise SpecError([f"spec must be a JSON object, not {type(values).__name__}"])
    return values


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# name: (types, lowest, highest); None is allowed where the field's default is None
RANGES: dict[str, tuple[tuple[type, ...], float, float]] = {
    "depth": ((int,), 1, 64),
    "sequence_len": ((int,), 16, 65536),
    "vocab_size": ((int,), 272, 262144),
    "dim": ((int,), 16, 16384),
    "head_dim": ((int,), 16, 256),
    "ratio": ((int, float), 0.01, 1000),
    "horizon_tokens": ((int,), 1, 10**14),
    "batch_tokens": ((int,), 16, 2**26),
    "num_steps": ((int,), 1, 10**8),
    "device_batch_size": ((int,), 1, 4096),
    "warmup_steps": ((int,), 0, 10**6),
    "warmdown_ratio": ((int, float), 0, 1),
    "final_lr_frac": ((int, float), 0, 1),
    "weight_decay": ((int, float), 0, 10),
    "lr_scale": ((int, float), 1e-6, 1e3),
    "seed": ((int,), 0, 2**31 - 1),
    "data_shards": ((int,), 1, 10**5),
    "tokenizer_chars": ((int,), 1000, 10**12),
    "eval_every_steps": ((int,), 0, 10**8),
    "eval_tokens": ((int,), 1, 10**10),
    "bos_eval_tokens": ((int,), 1, 10**10),
    "checkpoint_every_s": ((int, float), 0, 10**6),
    "checkpoint_every_steps": ((int,), 1, 10**8),
    "checkpoint_keep": ((int,), 1, 1000),
    "log_every_steps": ((int,), 1, 10**6),
    "deadline_s": ((int, float), 1, 10**8),
}
_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("auto", "bfloat16", "float32"),
    "compile": (None, True, False),
    "fp8": (False, True),
}


def field_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with each field by itself; what they do together is seen when a spec is made of them."""
    defaults = {f.name: f.default for f in fields(TrainSpec)}
    problems = []
    for name, (types, low, high) in RANGES.items():
        value: Any = values.get(name, low)
        if value is None and defaults[name] is None:
            continue
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            problems.append(f"{name}: {value!r}; allowed {low} to {high}")
    for name, choices in _CHOICES.items():
        if name in values and not any(type(values[name]) is type(c) and values[name] == c for c in choices):
            problems.append(f"{name}: {values[name]!r}; allowed {', '.join(map(str, choices))}")
    head_dim = values.get("head_dim", HEAD_DIM)
    if isinstance(head_dim, int) and head_dim % 2:
        problems.append(f"head_dim: {head_dim}; must be even, since rotary embeddings turn its halves")
    problems += _data_problems(values.get("data", "stdlib"))
    pattern = values.get("window_pattern", "L")
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"S", "L"}:
        problems.append(f"window_pattern: {pattern!r}; made of S and L, for instance SSSL or L")
    known_features = {f.name for f in fields(Features)}
    switches = values.get("features", {})
    if not isinstance(switches, Mapping) or not all(
        k in known_features and isinstance(v, bool) for k, v in switches.items()
    ):
        problems.append(f"features: {switches!r}; true or false for any of {', '.join(sorted(known_features))}")
    rates = values.get("learning_rates", {})
    if not isinstance(rates, Mapping) or not all(isinstance(v, int | float) and v >= 0 for v in rates.values()):
        problems.append(f"learning_rates: {rates!r}; a number >= 0 by group")
    return problems


def _data_problems(source: Any) -> list[str]:
    if isinstance(source, str) and source.startswith(PATH):
        if not source.removeprefix(PATH).strip():
            return [f"data: {source!r} names no path; give path:/a/file/or/folder"]
        return [f"data: {source!r} has a NUL character in it"] if "\0" in source else []
    if source in SOURCES:
        return []
    return [f"data: {source!r}; allowed {', '.join(SOURCES)} or path:/a/file/or/folder"]
