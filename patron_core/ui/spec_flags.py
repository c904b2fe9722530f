"""The flags of a spec, the same in every notebook that takes one, and the fields that a page offers for them.

Ranges are the trainer's own. What is not given is the device's default (`verbs.spec_door`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from patron_core.errors import InvalidInput
from patron_core.ui.flags import Arguments, repeated
from patron_core.verbs.spec_door import NAMED, asked_fields
from trainer.contract.spec import RANGES

__all__ = ["FIRST", "FormField", "SpecArguments", "form", "of_form", "repeated", "run_problems"]


def _flag(name: str, description: str) -> Any:
    _, low, high = RANGES.get(NAMED[name], ((), None, None))
    return Field(default=None, ge=low, le=high, description=description)


class SpecArguments(Arguments):
    """Arguments of a notebook that takes a spec; what is left out is the device's default."""

    spec: str = Field(default="", description="a JSON file with fields of a spec, say a run's spec.json; flags beat it")
    set_fields: tuple[str, ...] = repeated(alias="set", description="any field of a spec, say --set final_lr_frac=0.1")
    data: str | None = Field(default=None, description="stdlib, fineweb-edu, climbmix or path:/a/file/or/folder")
    num_shards: int | None = _flag("num_shards", "shards to fetch of a remote source; else as many as are needed")
    vocab_size: int | None = _flag("vocab_size", "tokens in the vocabulary")
    tokenizer_chars: int | None = _flag("tokenizer_chars", "characters that the tokenizer is trained on")
    sequence_len: int | None = _flag("sequence_len", "tokens the model looks back over")
    window_pattern: str | None = Field(default=None, description="S and L for short and long windows: SSSL, L")
    steps: int | None = _flag("steps", "training steps; beats the ratio")
    ratio: float | None = _flag("ratio", "training tokens per scaling parameter")
    batch_tokens: int | None = _flag("batch_tokens", "tokens in a step")
    device_batch_size: int | None = _flag("device_batch_size", "sequences in a micro-batch")
    eval_every: int | None = _flag("eval_every", "steps between evaluations; 0: only at the end")
    eval_tokens: int | None = _flag("eval_tokens", "tokens of an evaluation")
    lr_scale: float | None = _flag("lr_scale", "every learning rate times this")
    seed: int | None = _flag("seed", "of weights and order")

    def given_fields(self) -> dict[str, Any]:
        """The fields of a spec that were given."""
        named = {name: getattr(self, name) for name in NAMED if hasattr(self, name)}
        return asked_fields(named, settings=self.set_fields, file=self.spec)

    @classmethod
    def problems_together(cls, given: dict[str, Any]) -> list[str]:
        named = {name: given[name] for name in NAMED if isinstance(given.get(name), str)}
        checked = {NAMED[name] for name in named if NAMED[name] in RANGES}  # by their own type and range
        try:
            asked_fields(named, settings=given.get("set") or (), file=str(given.get("spec") or ""))
        except InvalidInput as error:
            return [one for one in error.problems if one.partition(":")[0] not in checked or "given twice" in one]
        return []


FROM_ADDRESS = {"depth", "set"} | set(NAMED)  # what an address may fill a page's form with: never a file to read


def with_depth(given: Mapping[str, Any], asked: int | None, in_field: int) -> dict[str, Any]:
    """The fields of a spec with their depth: a file or key=value may say it where no flag did."""
    return dict(given) if asked is None and "depth" in given else {**given, "depth": in_field}


def run_problems(model: type[Arguments], given: Mapping[str, Any]) -> list[str]:
    """A run that was planned has its spec and its place: flags of either are for a new one, or for --amend."""
    of_spec = sorted(
        set(given) & {"depth", *(field.alias or name for name, field in SpecArguments.model_fields.items())}
    )
    said = ", ".join("--" + name.replace("_", "-") for name in of_spec if name != "json")
    if given.get("run") and said and not given.get("amend"):
        return [f"run: it is planned already; {said} would change it: add --amend, or leave --run out"]
    if given.get("amend") and not (given.get("run") and (said or given.get("param"))):
        return ["amend: name the run (--run) and what is to change, for instance --steps 400 or --set lr_scale=2"]
    return []


@dataclass(frozen=True, kw_only=True)
class FormField:
    """One field of a page's form: empty text means the device's default, which is shown in its place."""

    name: str
    label: str
    text: str
    default: str


FIRST = ("steps", "data", "vocab_size", "sequence_len", "batch_tokens")  # the others are behind "More"
_LABELS = {
    "steps": "Steps",
    "ratio": "Tokens per parameter",
    "data": "Data",
    "num_shards": "Shards",
    "vocab_size": "Vocabulary",
    "tokenizer_chars": "Tokenizer, characters",
    "sequence_len": "Context, tokens",
    "window_pattern": "Windows",
    "batch_tokens": "Batch, tokens",
    "device_batch_size": "Micro-batch, sequences",
    "eval_every": "Steps between evaluations",
    "eval_tokens": "Evaluation, tokens",
    "lr_scale": "Learning rates times",
    "seed": "Seed",
}


def form(args: SpecArguments, defaults: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, FormField]:
    """The named flags as fields of a form. `defaults`: a spec of the device, as a dictionary."""
    found = {}
    for name, label in _LABELS.items():
        if name in without:
            continue
        value, default = getattr(args, name), defaults.get(NAMED[name])
        shown = "by the recipe" if default is None else str(default)
        found[name] = FormField(name=name, label=label, text="" if value is None else str(value), default=shown)
    return found


def of_form(texts: Mapping[str, str], others: str = "", *, file: str = "") -> dict[str, Any]:
    """What a form gives, through the same door: an empty field was left out; `others` has a key=value a line.

    Raises InvalidInput with every problem at once.
    """
    settings = [f"{NAMED[name]}={text}" for name, text in texts.items() if text.strip()]
    settings += [line for line in others.splitlines() if line.strip()]
    return asked_fields({}, settings=settings, file=file)
