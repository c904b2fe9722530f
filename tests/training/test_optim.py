"""Muon's properties, and the state that a checkpoint saves."""

from __future__ import annotations

import pytest
import torch

from trainer.contract.recipe import Features, Recipe, make_recipe
from trainer.model.gpt import build_model
from trainer.optim.muon import equilibrate_rows, frobenius_norm, muon_update, orthogonalize
from trainer.optim.optimizer import Optimizer, adam_update

CPU = torch.device("cpu")


def recipe(**features: bool) -> Recipe:
    return make_recipe(
        2, sequence_len=32, vocab_size=300, dim=32, head_dim=16, batch_tokens=64, num_steps=40,
        features=Features(**features),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 16), (2, 16, 64)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_singular_vectors(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(x)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.7
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    cosine = (result * (u @ vt)).sum() / (result.norm() * (u @ vt).norm())
    assert cosine > 0.98


def test_rows_get_one_norm_and_the_whole_keeps_its_own() -> None:
    x = torch.randn(2, 8, 16) * torch.logspace(-3, 2, 8).unsqueeze(1)
    result = equilibrate_rows(x)
    norms = result.norm(dim=-1)
    torch.testing.assert_close(norms, norms[:, :1].expand(2, 8))
    torch.testing.assert_close(frobenius_norm(result), frobenius_norm(x))


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 64, 16), (2, 16, 64)])
def test_an_update_has_the_size_of_an_orthogonal_matrix_whatever_the_gradients_size(shape: tuple[int, ...]) -> None:
    lr, rows, columns = 0.1, shape[-2], shape[-1]
    for scale in (1e-4, 1.0, 1e4):
        params = torch.zeros(shape)
        second = torch.zeros(2, rows, 1) if rows >= columns else torch.zeros(2, 1, columns)
        muon_update(
            params, scale * torch.randn(shape), torch.zeros(shape), second, torch.tensor(lr), torch.tensor(0.9),
            torch.tensor(0.0), 0.9, torch.float32,
        )  # fmt: skip
        expected = lr * max(1, rows / columns) ** 0.5 * min(rows, columns) ** 0.5
        torch.testing.assert_close(frobenius_norm(params), torch.full((2, 1, 1), expected))


def test_decay_acts_only_where_the_update_shrinks_a_weight() -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(1, 16, 16), torch.randn(1, 16, 16)

    def after(weight_decay: float) -> torch.Tensor:
        params = start.clone()
        muon_update(
            params, grads, torch.zeros(1, 16, 16), torch.zeros(1, 16, 1), torch.tensor(0.1), torch.tensor(0.9),
            torch.tensor(weight_decay), 0.9, torch.float32,
        )  # fmt: skip
        return params

    plain, decayed = after(0.0), after(0.5)
    shrinks = (start - plain) * start > 0
    assert shrinks.any()
    assert not shrinks.all()
    torch.testing.assert_close(decayed[shrinks], (plain - 0.1 * 0.5 * start)[shrinks])
    torch.testing.assert_close(decayed[~shrinks], plain[~shrinks])


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    ours, lr, betas, decay = torch.randn(8, 8), 0.01, (0.8, 0.95), 0.1
    theirs = torch.nn.Parameter(ours.clone())
    reference = torch.optim.AdamW([theirs], lr=lr, betas=betas, eps=1e-10, weight_decay=decay)
    mean, mean_square = torch.zeros(8, 8), torch.zeros(8, 8)
    for step in range(5):
        grad = torch.randn(8, 8)
        theirs.grad = grad.clone()
        reference.step()
        step_size = torch.tensor(lr / (1 - betas[0] ** (step + 1)))
        correction2 = torch.tensor(1 - betas[1] ** (step + 1))
        adam_update(ours, grad, mean, mean_square, step_size, torch.tensor(lr * decay), correction2, betas)
    torch.testing.assert_close(ours, theirs.detach())


def test_bfloat16_embeddings_keep_bfloat16_moments_and_are_updated_in_float32() -> None:
    model = build_model(recipe(), device=CPU, compute_dtype=torch.bfloat16, seed=0)
    optimizer = Optimizer(model, recipe())
    state = optimizer.state_dict()
    assert (
        state["adam.wte.weight.mean"].dtype == state["adam.value_embeds.1.weight.mean_square"].dtype == torch.bfloat16
    )
    assert state["adam.lm_head.weight.mean"].dtype == torch.float32

    grad = torch.randn(8, 8).bfloat16()
    rounded = [torch.randn(8, 8).bfloat16(), torch.rand(8, 8).bfloat16(), torch.rand(8, 8).bfloat16()]
    full = [value.float() for value in rounded]
    for param, mean, mean_square in (rounded, full):
        numbers = torch.tensor(0.01), torch.tensor(0.001), torch.tensor(0.05)
        adam_update(param, grad.to(param.dtype), mean, mean_square, *numbers, (0.8, 0.995))
    for one, other in zip(rounded, full, strict=True):
        assert torch.equal(one, other.bfloat16())


@pytest.mark.parametrize("muon", [True, False])
def test_a_loaded_state_goes_on_bit_for_bit(muon: bool) -> None:
    made = recipe(muon=muon)

    def advance(model: torch.nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            rng = torch.Generator().manual_seed(step)
            for param in model.parameters():
                param.grad = torch.randn(param.shape, generator=rng)
            optimizer.step(step)

    straight = build_model(made, device=CPU, compute_dtype=torch.float32, seed=0)
    advance(straight, Optimizer(straight, made), range(6))

    first = build_model(made, device=CPU, compute_dtype=torch.float32, seed=0)
    optimizer = Optimizer(first, made)
    advance(first, optimizer, range(3))
    second = build_model(made, device=CPU, compute_dtype=torch.float32, seed=9)
    second.load_state_dict(first.state_dict())
    resumed = Optimizer(second, made)
    resumed.load_state_dict(optimizer.state_dict())
    advance(second, resumed, range(3, 6))
    for (name, one), other in zip(straight.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_every_parameter_has_state_and_a_foreign_state_is_refused() -> None:
    made = recipe()
    optimizer = Optimizer(build_model(made, device=CPU, compute_dtype=torch.float32, seed=0), made)
    state = optimizer.state_dict()
    sizes = sum(value.numel() for key, value in state.items() if key.endswith((".momentum", ".mean")))
    assert sizes == made.num_params.total
    state.pop("muon.32x32.momentum")
    with pytest.raises(ValueError, match=r"muon\.32x32\.momentum"):
        optimizer.load_state_dict(state)
