"""The model against the recipe, against plain formulas, and with each switch of the family."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contract.recipe import Features, Recipe, make_recipe
from trainer.model.attention import window_block_mask, windowed_attention
from trainer.model.gpt import Model, build_model, count_model_params
from trainer.model.head import head_loss
from trainer.optim.optimizer import Optimizer

CPU = torch.device("cpu")
ALL_ON = Features()
SWITCHES = [field.name for field in fields(Features)]


def tiny(features: Features = ALL_ON, **changes: int) -> Recipe:
    """Rates raised: those of so small a batch would move nothing in a few steps."""
    values: dict[str, Any] = {
        "sequence_len": 32,
        "vocab_size": 300,
        "dim": 32,
        "head_dim": 16,
        "batch_tokens": 64,
        "num_steps": 40,
    }
    return make_recipe(2, features=features, lr_scale=8.0, **(values | changes))


@pytest.mark.parametrize("features", [Features(), Features.plain()], ids=["nanochat", "plain"])
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 24])
def test_the_model_has_exactly_the_recipes_parameters(depth: int, features: Features) -> None:
    recipe = make_recipe(depth, features=features)
    with torch.device("meta"):
        model = Model(recipe)
    assert count_model_params(model) == asdict(recipe.num_params)


@pytest.mark.parametrize("switch", SWITCHES)
def test_parameters_agree_with_each_switch_off(switch: str) -> None:
    recipe = make_recipe(3, features=Features(**{switch: False}))
    with torch.device("meta"):
        model = Model(recipe)
    assert count_model_params(model) == asdict(recipe.num_params)


@pytest.mark.parametrize(
    ("depth", "total", "scaling", "flops", "steps"),
    [
        (6, 73_531_538, 23_199_852, 167_510_808, 1062),
        (8, 125_829_354, 41_943_232, 295_699_728, 1920),
        (10, 195_952_986, 70_123_820, 495_454_104, 1605),
        (12, 286_261_730, 110_100_912, 759_696_048, 2520),
        (20, 896_533_746, 435_160_240, 2_886_212_784, 4980),
        (24, 1_384_122_122, 729_810_624, 4_775_225_616, 8352),
    ],
)
def test_the_recipe_gives_the_published_table(depth: int, total: int, scaling: int, flops: int, steps: int) -> None:
    recipe = make_recipe(depth)
    found = (recipe.num_params.total, recipe.num_params.scaling, recipe.flops_per_token, recipe.num_steps)
    assert found == (total, scaling, flops, steps)


def plain_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    distance = torch.arange(q.size(2)).unsqueeze(1) - torch.arange(q.size(2))
    scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill((distance < 0) | (distance > window), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("length", "window"), [(32, 32), (32, 8), (37, 8), (20, 16), (9, 8), (16, 1)])
def test_attention_in_a_window_is_the_plain_formula_with_its_gradients(length: int, window: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    ours, plain = windowed_attention(q, k, v, window), plain_window_attention(q, k, v, window)
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), (q, k, v)),
        torch.autograd.grad((plain * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_the_same_window() -> None:
    q, k, v = (torch.randn(1, 2, 256, 16) for _ in range(3))
    mask = window_block_mask(256, 70, CPU)
    torch.testing.assert_close(windowed_attention(q, k, v, 70, "flex", mask), plain_window_attention(q, k, v, 70))


@pytest.mark.parametrize("features", [Features(), Features.plain()], ids=["nanochat", "plain"])
def test_no_token_sees_the_future(features: Features) -> None:
    recipe = tiny(features, sequence_len=200, batch_tokens=400)
    model = trained_a_little(recipe)
    tokens_BT = torch.randint(0, 300, (1, 200))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 150] = (changed_BT[0, 150] + 1) % 300
    with torch.no_grad():
        before, after = model(tokens_BT), model(changed_BT)
    torch.testing.assert_close(before[:, :150], after[:, :150])
    assert not torch.equal(before[:, 150:], after[:, 150:])


def trained_a_little(recipe: Recipe, steps: int = 3, dtype: torch.dtype = torch.float32) -> Model:
    """Past its initial zeros."""
    model = build_model(recipe, device=CPU, compute_dtype=dtype, seed=0)
    optimizer = Optimizer(model, recipe)
    rng = torch.Generator().manual_seed(1)
    for step in range(steps):
        tokens_BT = torch.randint(0, recipe.vocab_size, (2, recipe.sequence_len + 1), generator=rng)
        loss_of(model, tokens_BT).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    return model


def loss_of(model: Model, tokens_BT: Tensor) -> Tensor:
    x_ND = model(tokens_BT[:, :-1]).flatten(0, 1)
    return head_loss(x_ND, model.lm_head.weight, tokens_BT[:, 1:].flatten(), softcap=model.softcap)


@pytest.mark.parametrize("switch", [*SWITCHES, None, "all"])
def test_every_switch_trains(switch: str | None) -> None:
    features = Features.plain() if switch == "all" else Features(**({switch: False} if switch else {}))
    recipe = tiny(features)
    model = build_model(recipe, device=CPU, compute_dtype=torch.float32, seed=0)
    optimizer = Optimizer(model, recipe)
    tokens_BT = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(1))
    first = loss_of(model, tokens_BT)
    assert first.item() == pytest.approx(5.70, abs=0.02)  # log 300: the head begins near zero
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for step in range(20):
        loss_of(model, tokens_BT).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    assert loss_of(model, tokens_BT).item() < first.item() - 0.1
    unmoved = [name for name, param in model.named_parameters() if torch.equal(param, before[name])]
    assert unmoved == []


@pytest.mark.parametrize("features", [Features(), Features.plain()], ids=["nanochat", "plain"])
def test_one_batch_is_learnt_by_heart(features: Features) -> None:
    recipe = tiny(features, num_steps=150)
    model = build_model(recipe, device=CPU, compute_dtype=torch.float32, seed=0)
    optimizer = Optimizer(model, recipe)
    tokens_BT = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(1))
    for step in range(recipe.num_steps):
        loss_of(model, tokens_BT).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    assert loss_of(model, tokens_BT).item() < 0.5


def test_bfloat16_keeps_matrices_in_float32_and_embeddings_in_bfloat16() -> None:
    model = trained_a_little(tiny(), dtype=torch.bfloat16)
    in_bf16 = {name for name, param in model.named_parameters() if param.dtype == torch.bfloat16}
    assert in_bf16 == {"wte.weight", "value_embeds.1.weight"}
    assert model(torch.zeros(1, 8, dtype=torch.int64)).dtype == torch.bfloat16


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    one, same, other = (
        build_model(tiny(), device=CPU, compute_dtype=torch.float32, seed=seed).lm_head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_rotary_positions_depend_on_distance_only() -> None:
    from trainer.model.gpt import rotate

    model = build_model(tiny(), device=CPU, compute_dtype=torch.float32, seed=0)
    q, k = torch.randn(2, 16)
    q_BTHK, k_BTHK = (t.expand(1, 32, 1, 16) for t in (q, k))
    q_TK, k_TK = (rotate(t, model.cos_TK, model.sin_TK)[0, :, 0] for t in (q_BTHK, k_BTHK))
    scores = q_TK @ k_TK.T
    torch.testing.assert_close(scores[5, 2], scores[25, 22])
    torch.testing.assert_close(q_TK.norm(dim=-1), q.norm().expand(32))
    assert F.cosine_similarity(q_TK[0], q_TK[20], dim=0) < 0.999
