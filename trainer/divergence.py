"""NaN and infinity: noticed before they reach a weight or a checkpoint, and traced to where they came from.

A healthy step pays for one number more than its loss: a sum over gradients of a few values at the model's input. All
gradients of the residual stream flow through there, so one that is not finite anywhere above makes that sum so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.gpt import Model, param_group

SAVED = ("weight", "optimizer state")  # quantities that are in a checkpoint


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """What was not finite. JSON knows no NaN, so values are words: nan, inf, -inf."""

    quantity: str  # loss, val_loss, gradient, weight, optimizer state
    value: str
    name: str | None = None  # of the tensor
    group: str | None = None  # of the parameter
    num_bad: int = 1  # values of the tensor that are not finite
    num_values: int = 1
    num_tensors: int = 1  # that hold such values

    def __str__(self) -> str:
        if self.name is None:
            return f"the {self.quantity} is {self.value}"
        group = f" ({self.group})" if self.group else ""
        others = f", and so have {self.num_tensors - 1} others" if self.num_tensors > 1 else ""
        count = f"{self.num_bad:,} of its {self.num_values:,} values"
        return f"the {self.quantity} of {self.name}{group} has {self.value} in {count}{others}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_params(model: Model) -> list[nn.Parameter]:
    """The small parameters that see every gradient of the residual stream: those at its first layer."""
    scalars = [p for p in (model.residual_scale, model.x0_scale) if p is not None]
    return scalars or [model.get_parameter("blocks.0.mlp_in.weight")]


def probe(params: Sequence[nn.Parameter]) -> Tensor:
    """A number that is finite as long as their gradients are; 0-d."""
    sums = [param.grad.sum() for param in params if param.grad is not None]  # none yet, when a step stops at once
    return torch.stack(sums).sum() if sums else torch.zeros((), device=params[0].device)


def trace(model: Model, loss: float, quantity: str = "loss") -> Culprit:
    """What went wrong first. Reads everything: only for a step, or an evaluation, that has gone wrong.

    A weight explains a loss, and a loss explains the gradients. `quantity` says which loss it is.
    """
    weights = find(model.named_parameters(), "weight")
    if weights is not None:
        return weights
    if not math.isfinite(loss):
        return Culprit(quantity=quantity, value=str(loss))
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    # backward comes from the last layer, and what it meets first has infected the rest
    found = find(sorted(gradients, key=lambda item: _depth(item[0]), reverse=True), "gradient")
    return found or Culprit(quantity="gradient", value="nan")  # of another process


def find(tensors: Iterable[tuple[str, Tensor]], quantity: str) -> Culprit | None:
    """The first tensor with a value that is not finite, and how many more there are."""
    bad = [(name, tensor) for name, tensor in tensors if not is_finite(tensor)]
    if not bad:
        return None
    name, tensor = bad[0]
    values = tensor.detach()[~torch.isfinite(tensor.detach())]
    return Culprit(
        quantity=quantity,
        value=str(float(values[0])),
        name=name,
        group=param_group(name) if quantity in ("weight", "gradient") else None,
        num_bad=values.numel(),
        num_values=tensor.numel(),
        num_tensors=len(bad),
    )


def find_in_files(files: Mapping[str, Mapping[str, Tensor]]) -> Culprit | None:
    """Of a checkpoint's tensors: its weights first, then the optimizer's state."""
    for file, quantity in zip(("model", "optimizer"), SAVED, strict=True):
        found = find(files.get(file, {}).items(), quantity)
        if found is not None:
            return found
    return None


def is_finite(tensor: Tensor) -> bool:
    """One pass over the values, and a second only where their norm leaves a doubt, for it overflows before they do."""
    tensor = tensor.detach()
    if not tensor.is_floating_point() or math.isfinite(torch.linalg.vector_norm(tensor).item()):
        return True
    return bool(torch.isfinite(tensor).all())


def _depth(name: str) -> int:
    """How late forward comes to a parameter."""
    parts = name.split(".")
    if parts[0] == "lm_head":
        return 10**6
    return int(parts[1]) if parts[0] in ("blocks", "value_embeds") else -1
