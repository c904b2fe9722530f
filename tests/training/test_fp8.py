"""The fp8 products against bfloat16's and against their own formula, and a run that trains with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training import Trainer, events, result

from tests.bench.lease.correct import GRADIENT_ERROR, LOSS_ERROR
from trainer.contract.recipe import make_recipe
from trainer.contract.spec import SpecError, TrainSpec
from trainer.model.fp8 import BACKWARD, FORWARD, fp8_linear, quantized
from trainer.model.gpt import build_model
from trainer.model.head import head_loss

SMALL = {"depth": 1, "sequence_len": 32, "vocab_size": 512, "dim": 64, "head_dim": 32, "batch_tokens": 64}
BF16 = {"device": "cpu", "dtype": "bfloat16"}


def error(got: Tensor | None, right: Tensor) -> float:
    assert got is not None
    got, right = got.detach().float(), right.detach().float()
    return float((got - right).norm() / right.norm())


@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4], ids="of size {}".format)
def test_a_product_and_its_gradients_are_those_of_the_rounded_factors(size: float) -> None:
    """Whatever the scale of a tensor, its scale takes it away."""
    rng = torch.Generator().manual_seed(0)
    x_NI = (size * torch.randn(32, 48, generator=rng)).bfloat16().requires_grad_()
    weight_OI = torch.randn(16, 48, generator=rng).requires_grad_()
    grad_NO = torch.randn(32, 16, generator=rng).bfloat16()
    y_NO = fp8_linear(x_NI, weight_OI)
    y_NO.backward(grad_NO)

    def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        eight, scale = quantized(tensor.detach(), dtype)
        return eight.float() * scale

    x, w, g = rounded(x_NI, FORWARD), rounded(weight_OI, FORWARD), rounded(grad_NO, BACKWARD)
    assert error(y_NO, x @ w.T) < 0.01  # one rounding to bfloat16, and sums that are not float32's
    assert error(x_NI.grad, g @ w) < 0.01
    assert error(weight_OI.grad, g.T @ x) < 0.01
    assert 0.01 < error(y_NO, F.linear(x_NI, weight_OI.bfloat16())) < 0.06, "fp8 rounds, and by no more than its bits"


def test_zeros_stay_zeros() -> None:
    """The first gradients of layers whose weights begin at zero."""
    x_NI = torch.zeros(16, 16, dtype=torch.bfloat16, requires_grad=True)
    weight_OI = torch.zeros(16, 16, requires_grad=True)
    y_NO = fp8_linear(x_NI, weight_OI)
    y_NO.backward(torch.zeros_like(y_NO))
    for tensor in (y_NO, x_NI.grad, weight_OI.grad):
        assert tensor is not None
        assert not tensor.any()


def test_the_model_trains_in_fp8_and_evaluates_in_bfloat16() -> None:
    recipe = make_recipe(2, sequence_len=32, vocab_size=512, dim=64, head_dim=32)
    tokens_BT = torch.randint(0, 512, (2, 33), generator=torch.Generator().manual_seed(1))
    found = {}
    for fp8 in (False, True):
        model = build_model(recipe, device=torch.device("cpu"), compute_dtype=torch.bfloat16, seed=0, fp8=fp8)
        with torch.no_grad():
            for param in model.parameters():  # projections begin as zeros, behind which no error would show
                if not param.any():
                    param.normal_(0, 0.02, generator=torch.Generator().manual_seed(2))
            evaluated = model(tokens_BT[:, :-1])
        x_ND = model(tokens_BT[:, :-1]).flatten(0, 1)
        loss = head_loss(x_ND, model.lm_head.weight, tokens_BT[:, 1:].flatten(), softcap=model.softcap)
        loss.backward()
        grad = torch.cat([block.mlp_in.weight.grad.flatten() for block in model.typed_blocks])
        found[fp8] = loss.item(), grad, evaluated
    (loss, grad, evaluated), (loss8, grad8, evaluated8) = found[False], found[True]
    assert abs(loss8 - loss) / loss < LOSS_ERROR["fp8"]
    assert 0.01 < error(grad8, grad) < GRADIENT_ERROR["fp8"], "as large as fp8's rounding, no larger"
    assert torch.equal(evaluated, evaluated8)


def test_a_run_with_it_says_that_a_cpu_emulates_it(trainer: Trainer, tmp_path: Path) -> None:
    assert trainer.train_here(tmp_path / "run", trainer.spec(**BF16, fp8=True, num_steps=6)) == 0
    assert "fp8_emulated" in [event["code"] for event in events(tmp_path / "run", "warning")]
    assert result(tmp_path / "run")["step"] == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequence_len": 24, "batch_tokens": 48}, "sequence_len is 24"),
        ({"dim": 40, "head_dim": 20}, "dim is 40"),
        ({"dtype": "float32"}, "not float32"),
        ({"fp8": 1}, "fp8: 1; allowed False, True"),
    ],
)
def test_what_the_hardware_cannot_multiply_is_no_spec(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        TrainSpec.from_dict({**SMALL, "fp8": True} | changes)


def test_a_spec_without_it_has_the_hash_it_always_had() -> None:
    assert "fp8" not in TrainSpec.from_dict(SMALL).to_dict()
    assert TrainSpec.from_dict({**SMALL, "fp8": True}).to_dict()["fp8"] is True
    assert "fp8" in TrainSpec.from_dict({**SMALL, "fp8": True}).shape(), "a dryrun of the other proves nothing"
