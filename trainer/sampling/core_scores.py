"""Whether a model has an item of a CORE task right."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from trainer.contract.core_tasks import Task
from trainer.data.tokenizer import Tokenizer
from trainer.model.gpt import Model
from trainer.model.head import head_logits


@torch.no_grad()
def is_right(model: Model, tokenizer: Tokenizer, task: Task, index: int) -> bool:
    """Texts longer than the context lose their beginning."""
    context = model.recipe.sequence_len
    rows = [
        (tokens[-context:], max(1, start - cut), end - cut)
        for tokens, start, end in task.rows(index, tokenizer.encode, tokenizer.bos_id)
        for cut in (max(0, len(tokens) - context),)
    ]
    longest = max(len(tokens) for tokens, _, _ in rows)
    padded = [tokens + [tokenizer.bos_id] * (longest - len(tokens)) for tokens, _, _ in rows]  # nothing looks ahead
    device = model.lm_head.weight.device
    x_BTD = model(torch.tensor(padded, device=device))
    losses = []
    for number, (tokens, start, end) in enumerate(rows):
        logits_NV = head_logits(x_BTD[number, start - 1 : end - 1], model.lm_head.weight, softcap=model.softcap).float()
        wanted_N = torch.tensor(tokens[start:end], device=device)
        if task.kind == "language_modeling":
            return bool((logits_NV.argmax(dim=-1) == wanted_N).all())
        losses.append(float(F.cross_entropy(logits_NV, wanted_N)) if len(wanted_N) else math.inf)
    return losses.index(min(losses)) == task.gold(index)
