"""NaN and infinity: noticed wherever they arise, traced to where they began, and never saved or applied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import Trainer, events, losses, result

from trainer import divergence
from trainer.checkpoint.checkpoint import Checkpointer, NotFinite, Snapshot
from trainer.contract.recipe import Features, make_recipe
from trainer.divergence import is_finite
from trainer.model.gpt import Model, build_model
from trainer.model.head import head_loss, softcap_cross_entropy_
from trainer.optim.optimizer import Optimizer
from trainer.runtime import machine

DEPTH = 3


def model_after_backward(spoiled: str | None = None, **features: bool) -> Model:
    """A tiny model with gradients. In backward, NaN appears at one position behind the module named `spoiled`."""
    recipe = make_recipe(
        DEPTH, vocab_size=512, sequence_len=32, window_pattern="L", batch_tokens=128, features=Features(**features)
    )
    model = build_model(recipe, device=torch.device("cpu"), compute_dtype=torch.float32, seed=1)
    for parameter in model.parameters():  # projections begin at zero, which would hide what is behind them
        parameter.data.add_(0.01)

    def spoil(_module: Any, _inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda grad: grad.index_fill(1, torch.tensor([7]), torch.nan))

    if spoiled is not None:
        model.get_submodule(spoiled).register_forward_hook(spoil)
    tokens_BT = torch.arange(4 * 32).view(4, 32)
    loss = head_loss(model(tokens_BT).flatten(0, 1), model.lm_head.weight, tokens_BT.flatten(), softcap=model.softcap)
    loss.backward()
    assert torch.isfinite(loss)
    return model


MODULES = [f"blocks.{layer}{part}" for layer in range(DEPTH) for part in ("", ".attention", ".mlp_out", ".mlp_in")]
MODULES += [f"blocks.{layer}.attention.{part}" for layer in range(DEPTH) for part in ("query", "key", "value")]


@pytest.mark.parametrize("features", [{}, {"residual_scalars": False}, {"relu2": False, "rope": False}])
@pytest.mark.parametrize("spoiled", [None, *MODULES])
def test_one_bad_gradient_anywhere_in_the_stream_shows_in_the_probe(
    spoiled: str | None, features: dict[str, bool]
) -> None:
    model = model_after_backward(spoiled, **features)
    params = divergence.probe_params(model)
    assert sum(param.numel() for param in params) < 0.2 * sum(param.numel() for param in model.parameters())
    behind_the_probe = not features.get("residual_scalars", True) and (spoiled or "").startswith("blocks.0.attention")
    assert bool(torch.isfinite(divergence.probe(params))) == (spoiled is None or behind_the_probe)


@pytest.mark.parametrize("spoiled", ["blocks.2", "blocks.1.mlp_in", "blocks.0.attention"])
def test_a_gradient_is_traced_to_the_last_layer_that_has_it(spoiled: str) -> None:
    model = model_after_backward(spoiled)
    culprit = divergence.trace(model, 3.0)
    assert (culprit.quantity, culprit.value, culprit.group) == ("gradient", "nan", "matrices")
    assert culprit.name is not None
    assert culprit.name.startswith(spoiled[: len("blocks.0")])
    assert 0 < culprit.num_bad <= culprit.num_values == model.get_parameter(culprit.name).numel()
    assert culprit.num_tensors > 1  # backward has carried it on to the input
    assert f"the gradient of {culprit.name} (matrices) has nan in" in str(culprit)


def test_a_weight_explains_the_loss_and_the_loss_its_gradients() -> None:
    model = model_after_backward("blocks.1")
    assert divergence.trace(model, float("inf")).quantity == "loss"
    assert str(divergence.trace(model, float("inf"), "val_loss")) == "the val_loss is inf"
    model.lm_head.weight.data[3, 4] = -torch.inf
    culprit = divergence.trace(model, float("nan"))
    assert (culprit.quantity, culprit.name, culprit.value) == ("weight", "lm_head.weight", "-inf")
    assert (culprit.num_bad, culprit.num_tensors, culprit.group) == (1, 1, "lm_head")


def test_before_the_first_backward_the_probe_is_finite() -> None:
    recipe = make_recipe(1, vocab_size=512, sequence_len=32, batch_tokens=128)
    model = build_model(recipe, device=torch.device("cpu"), compute_dtype=torch.float32, seed=1)
    assert divergence.probe(divergence.probe_params(model)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_of_many_is_found(dtype: torch.dtype, bad: float) -> None:
    values = torch.randn(1000, 33).to(dtype)
    assert is_finite(values)
    values[999, 32] = bad
    assert not is_finite(values)


def test_large_values_whose_norm_overflows_are_finite() -> None:
    assert is_finite(torch.full((100,), 3e38))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.tensor([1, 2], dtype=torch.uint8))


@pytest.mark.parametrize(("file", "quantity"), [("model", "weight"), ("optimizer", "optimizer state")])
def test_nothing_that_is_not_finite_is_saved(tmp_path: Path, file: str, quantity: str) -> None:
    files = {name: {"a": torch.ones(3), "b": torch.ones(2)} for name in ("model", "optimizer", "rng")}
    checkpointer = Checkpointer(tmp_path, keep=2)
    checkpointer.save(Snapshot(step=1, files=files, state={}))
    files[file]["b"][1] = torch.nan
    with pytest.raises(NotFinite) as caught:
        checkpointer.save(Snapshot(step=2, files=files, state={}))
    assert (caught.value.culprit.quantity, caught.value.culprit.name) == (quantity, "b")
    assert [path.name for path in checkpointer.folder.iterdir()] == ["step-000001"]


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_a_weight(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def spoiled(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None) -> Tensor:
        nonlocal calls
        calls += 1
        loss_C = softcap_cross_entropy_(logits_CV, targets_C, softcap, factor)  # logits are gradients now
        if calls == 6:
            logits_CV[5, 6] = torch.inf
        return loss_C

    monkeypatch.setattr(machine, "load_cpu_kernel", lambda _warn: spoiled)
    run_dir = tmp_path / "run"
    spec = trainer.spec(num_steps=12, batch_tokens=256, checkpoint_every_steps=2, eval_every_steps=0)
    assert trainer.train_here(run_dir, spec) == 77
    last_word = result(run_dir)
    assert (last_word["exit_code"], last_word["reason"], last_word["step"]) == (77, "diverged", 5)
    assert last_word["divergence"]["step"] == 6
    assert (last_word["divergence"]["quantity"], last_word["divergence"]["name"]) == ("gradient", "lm_head.weight")
    assert last_word["last_checkpoint_step"] == 4
    assert last_word["message"].startswith("step 6 was not applied (train/loss ")
    assert "the gradient of lm_head.weight (lm_head) has " in last_word["message"]
    assert "The last good checkpoint is of step 4" in last_word["message"]
    assert list(losses(run_dir)) == [1, 2, 3, 4, 5]
    assert trainer.train_here(run_dir, spec) == 0  # from step 4, as it was a fault of this machine and moment
    assert result(run_dir)["resumed_step"] == 4


@pytest.mark.parametrize(
    ("rows", "changes", "what_happened", "saved_step"),
    [
        # written while training goes on: the next step may be the first to notice
        (slice(0, 1), {"checkpoint_every_steps": 2}, r"the checkpoint of step 6 was not written|step 7 was not ap", 4),
        (slice(None), {"checkpoint_every_steps": 5}, r"step 7 was not applied \(train/loss nan\)", 5),
        (slice(None), {"checkpoint_every_steps": 3, "eval_every_steps": 6}, "the evaluation after step 6 failed", 3),
    ],
)
def test_an_update_that_spoils_a_weight_ends_the_run_with_good_checkpoints(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: slice,
    changes: dict[str, int],
    what_happened: str,
    saved_step: int,
) -> None:
    apply = Optimizer.step

    def spoil(self: Optimizer, step: int) -> None:
        apply(self, step)
        if step == 5:
            self._params["wte.weight"].data[rows, 0] = torch.nan

    monkeypatch.setattr(Optimizer, "step", spoil)
    run_dir = tmp_path / "run"
    assert trainer.train_here(run_dir, trainer.spec(num_steps=12) | {"eval_every_steps": 0} | changes) == 77
    last_word = result(run_dir)
    assert re.match(what_happened, last_word["message"])
    assert (last_word["divergence"]["quantity"], last_word["divergence"]["name"]) == ("weight", "wte.weight")
    assert last_word["last_checkpoint_step"] == saved_step
    assert max(path.name for path in (run_dir / "checkpoints").iterdir()) == f"step-{saved_step:06d}"
    assert events(run_dir)[-1]["reason"] == "diverged"
