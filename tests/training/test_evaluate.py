"""Validation: bits per byte of text, whatever the batches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.evaluate import evaluate

TOKEN_BYTES_V = torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32)  # token 0 is special
EMBEDDING_VD = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
HEAD_VD = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
ROWS_BT = torch.randint(0, 5, (7, 9), generator=torch.Generator().manual_seed(2))


def forward(x_BT: Tensor) -> Tensor:
    assert x_BT.shape == (3, 8), "a compiled model must see one shape only"
    return F.embedding(x_BT, EMBEDDING_VD)


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(rows[:, :-1], rows[:, 1:]) for rows in ROWS_BT.split(3)]  # 3, 3 and 1 rows


def test_bits_per_byte_leave_out_special_tokens_and_the_loss_does_not() -> None:
    result = evaluate(forward, HEAD_VD, batches(), TOKEN_BYTES_V, softcap=None, batch_size=3)
    assert result is not None
    x_N, y_N = ROWS_BT[:, :-1].flatten(), ROWS_BT[:, 1:].flatten()
    losses_N = F.cross_entropy(F.embedding(x_N, EMBEDDING_VD) @ HEAD_VD.T, y_N, reduction="none").double()
    text_nats, num_bytes = losses_N[y_N > 0].sum().item(), int(TOKEN_BYTES_V[y_N].sum())
    assert result.val_bpb == pytest.approx(text_nats / math.log(2) / num_bytes)
    assert result.val_loss == pytest.approx(losses_N.mean().item())
    assert result.tokens == 7 * 8


def test_it_can_be_stopped_between_batches() -> None:
    answers = iter([False, True])
    stopped = evaluate(
        forward, HEAD_VD, batches(), TOKEN_BYTES_V, softcap=15.0, batch_size=3, should_stop=lambda: next(answers)
    )
    assert stopped is None
    assert next(answers, "asked twice") == "asked twice"


def test_keeping_the_graph_changes_nothing() -> None:
    plain, kept = (
        evaluate(forward, HEAD_VD, batches(), TOKEN_BYTES_V, softcap=15.0, batch_size=3, keep_graph=keep)
        for keep in (False, True)
    )
    assert plain is not None
    assert kept is not None
    assert plain.val_bpb == kept.val_bpb


def test_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch with text"):
        evaluate(forward, HEAD_VD, [], TOKEN_BYTES_V, softcap=15.0, batch_size=3)
