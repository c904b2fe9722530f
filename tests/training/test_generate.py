"""Decoding with a cache against the full forward pass, the choice of tokens, and why a text ends."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.contract.recipe import Features, make_recipe
from trainer.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from trainer.model.cache import Cache
from trainer.model.gpt import Model, build_model
from trainer.model.head import token_losses
from trainer.sampling.generate import (
    CONTEXT_FULL,
    END_OF_DOCUMENT,
    MAX_TOKENS,
    STOPPED,
    Chooser,
    Generation,
    PromptTooLong,
    Sampling,
    cast_matrices,
    next_logits,
)

CPU = torch.device("cpu")
ALL_ON = Features()
SWITCHES = [field.name for field in fields(Features)]
VOCAB_SIZE = 300
CONTEXT = 180  # above the short window of 128


def noisy(features: Features = ALL_ON, *, dtype: torch.dtype = torch.float32, depth: int = 3) -> Model:
    """A model whose every parameter matters: an untrained one has many zeros."""
    recipe = make_recipe(
        depth,
        sequence_len=CONTEXT,
        vocab_size=VOCAB_SIZE,
        dim=32,
        head_dim=16,
        batch_tokens=CONTEXT,
        num_steps=10,
        window_pattern="SSL",
        features=features,
    )
    model = build_model(recipe, device=CPU, compute_dtype=dtype, seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng).to(parameter.dtype)
    return model


def random_tokens(rows: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def cached(model: Model, tokens_BT: Tensor, prompt: int) -> Tensor:
    """Hidden states of all tokens: the prompt at once, then one by one."""
    cache = Cache(model.recipe, tokens_BT.size(1))
    parts = [model(tokens_BT[:, :prompt], cache)]
    parts += [model(tokens_BT[:, place : place + 1], cache) for place in range(prompt, tokens_BT.size(1))]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("switch", [None, "all", *SWITCHES])
@pytest.mark.parametrize("prompt", [1, 140], ids=["from one token", "from a prompt longer than the window"])
def test_decoding_with_a_cache_is_the_full_forward_pass(switch: str | None, prompt: int) -> None:
    features = Features.plain() if switch == "all" else Features(**({switch: False} if switch else {}))
    model = noisy(features)
    assert model.recipe.windows == (128, 128, CONTEXT)
    tokens_BT = random_tokens(2, CONTEXT)
    with torch.no_grad():
        full = model(tokens_BT)
    torch.testing.assert_close(cached(model, tokens_BT, prompt), full, rtol=2e-4, atol=2e-4)


def test_decoding_in_bfloat16_stays_near_the_full_forward_pass() -> None:
    model = noisy(dtype=torch.bfloat16)
    tokens_BT = random_tokens(1, 40)
    with torch.no_grad():
        full = model(tokens_BT).float()
    assert (cached(model, tokens_BT, 8).float() - full).abs().mean() < 0.02


def test_each_layer_keeps_its_window_and_no_more() -> None:
    model = noisy()
    cache = Cache(model.recipe, CONTEXT)
    with torch.no_grad():
        model(random_tokens(1, 150), cache)
    assert [layer._keys_BHSK.size(2) for layer in cache.layers] == [129, 129, CONTEXT]
    assert [layer.num_slots for layer in Cache(model.recipe, 20).layers] == [20, 20, 20]


def test_a_shared_prompt_is_read_once_for_several_rows() -> None:
    model = noisy()
    tokens_BT = random_tokens(3, 20)
    tokens_BT[:, :12] = tokens_BT[:1, :12]
    cache = Cache(model.recipe, 20)
    with torch.no_grad():
        full = model(tokens_BT)
        model(tokens_BT[:1, :12], cache)
        cache.expand(3)
        parts = [model(tokens_BT[:, place : place + 1], cache) for place in range(12, 20)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full[:, 12:], rtol=2e-4, atol=2e-4)


def test_a_cache_refuses_what_it_cannot_hold() -> None:
    model = noisy()
    with pytest.raises(ValueError, match="from 1 to sequence_len 180"):
        Cache(model.recipe, CONTEXT + 1)
    cache = Cache(model.recipe, 10)
    with torch.no_grad():
        model(random_tokens(1, 5), cache)
        with pytest.raises(ValueError, match="only one at a time"):
            model(random_tokens(1, 2), cache)
        with pytest.raises(ValueError, match="does not fit a cache of 10"):
            model(random_tokens(1, 9), cache)


def test_training_still_compiles_to_one_graph() -> None:
    model = noisy()
    tokens_BT = random_tokens(2, CONTEXT)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(tokens_BT), model(tokens_BT))


@pytest.mark.parametrize("features", [Features(), Features.plain()], ids=["nanochat", "plain"])
def test_the_next_tokens_logits_are_those_that_evaluation_scores(features: Features) -> None:
    model = noisy(features)
    tokens_BT, targets_N = random_tokens(4, 9), torch.tensor([5, 6, 7, 8])
    scored = token_losses(model(tokens_BT)[:, -1], model.lm_head.weight, targets_N, softcap=model.softcap)
    torch.testing.assert_close(cross_entropy(next_logits(model, tokens_BT), targets_N, reduction="none"), scored)


def test_matrices_in_the_compute_dtype_change_no_result() -> None:
    model, tokens_BT = noisy(dtype=torch.bfloat16), random_tokens(1, 30)
    before = next_logits(model, tokens_BT)
    cast_matrices(model)
    assert torch.equal(next_logits(model, tokens_BT), before)
    assert model.lm_head.weight.dtype == model.blocks[0].attention.query.weight.dtype == torch.bfloat16


# --- choosing ---------------------------------------------------------------------------------------------------------

ALL = [True] * VOCAB_SIZE


def draws(logits: list[float], count: int = 2000, **how: Any) -> list[int]:
    logits_BV = torch.tensor([logits]).expand(count, -1)
    return Chooser(Sampling(**how), [True] * len(logits))(logits_BV).tolist()


def test_temperature_zero_takes_the_likeliest_and_top_one_does_too() -> None:
    logits_BV = torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    best = logits_BV.argmax(-1).tolist()
    assert Chooser(Sampling(temperature=0), ALL)(logits_BV).tolist() == best
    assert Chooser(Sampling(temperature=1.5, top_k=1), ALL)(logits_BV).tolist() == best


def test_draws_follow_the_probabilities_at_the_temperature() -> None:
    logits = [0.0, 1.0, 2.0]
    for temperature in (0.5, 1.0, 3.0):
        expected = torch.tensor(logits).div(temperature).softmax(-1)
        found = torch.tensor(draws(logits, 20_000, temperature=temperature, top_k=None)).bincount(minlength=3) / 20_000
        torch.testing.assert_close(found, expected, rtol=0, atol=0.015)


def test_top_k_draws_from_the_likeliest_only() -> None:
    assert set(draws([5.0, 1.0, 4.0, 2.0, 3.0], temperature=5.0, top_k=3)) == {0, 2, 4}


def test_the_smallest_temperature_does_not_overflow() -> None:
    assert set(draws([1e4, -1e4, 0.0], temperature=1e-6, top_k=None)) == {0}


def test_what_never_occurs_in_text_never_comes_out() -> None:
    allowed = [index != 1 for index in range(3)]
    logits_BV = torch.tensor([[1.0, 50.0, 1.0]]).expand(200, -1)
    for sampling in (Sampling(temperature=0), Sampling(temperature=9.0, top_k=3), Sampling(top_k=None)):
        assert 1 not in Chooser(sampling, allowed)(logits_BV).tolist()


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"temperature": torch.nan}])
def test_sampling_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- generating -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat and the dog ran to the house " * 20], VOCAB_SIZE)


def generate(model: Model, tokenizer: Tokenizer, prompt: str, **how: Any) -> Generation:
    num_rows = how.pop("num_rows", 1)
    generation = Generation(model, tokenizer, prompt, Sampling(**how), num_rows=num_rows)
    assert [piece.text for piece in generation]  # iterating is what generates
    return generation


def test_greedy_text_is_that_of_the_full_forward_pass(tokenizer: Tokenizer) -> None:
    model = noisy()
    made = generate(model, tokenizer, "the cat", temperature=0, max_tokens=40)
    ids = [tokenizer.bos_id, *tokenizer.encode("the cat")]
    start = len(ids)
    allowed_V = torch.tensor(tokenizer.text_ids(VOCAB_SIZE))
    for _ in range(made.num_tokens):
        ids.append(int(next_logits(model, torch.tensor([ids]))[0].masked_fill(~allowed_V, -torch.inf).argmax()))
    assert made.texts == [tokenizer.decode(ids[start:])]
    assert made.ends == [END_OF_DOCUMENT if ids[-1] == tokenizer.bos_id else MAX_TOKENS]


def test_one_seed_one_text_and_rows_differ(tokenizer: Tokenizer) -> None:
    model = noisy()
    one, same, other = (
        generate(model, tokenizer, "the", num_rows=3, max_tokens=20, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert one.texts == same.texts
    assert len({*one.texts, *other.texts}) == 6


def test_a_text_ends_with_the_document_which_is_no_text(tokenizer: Tokenizer) -> None:
    model = noisy()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all alike: the first allowed id, BOS, is the likeliest
    made = generate(model, tokenizer, "the", temperature=0)
    assert (made.texts, made.ends, made.num_tokens) == ([""], [END_OF_DOCUMENT], 1)


def test_a_row_that_ended_gets_nothing_more_while_others_go_on(tokenizer: Tokenizer) -> None:
    model = noisy()
    pieces = list(Generation(model, tokenizer, "the", Sampling(temperature=3.0, top_k=None), num_rows=8))
    ends = {piece.row: place for place, piece in enumerate(pieces) if piece.end}
    assert len(ends) == 8
    assert len({pieces[place].end for place in ends.values()}) == 2
    assert all(place <= ends[piece.row] for place, piece in enumerate(pieces))


def test_a_text_ends_when_the_context_is_full_to_the_last_token(tokenizer: Tokenizer) -> None:
    model = noisy()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.bos_id] = 0
        model.lm_head.weight *= 100
    prompt = "the cat "
    made = generate(model, tokenizer, prompt, temperature=0, max_tokens=10_000)
    assert made.ends == [CONTEXT_FULL]
    assert made.num_tokens == CONTEXT + 1 - (1 + len(tokenizer.encode(prompt)))


def test_a_prompt_that_fills_the_context_gets_one_token_and_a_longer_one_none(tokenizer: Tokenizer) -> None:
    model = noisy()
    full = tokenizer.decode(tokenizer.encode("the cat sat on " * 200)[: CONTEXT - 1])
    assert len(tokenizer.encode(full)) == CONTEXT - 1
    assert generate(model, tokenizer, full).num_tokens == 1
    with pytest.raises(PromptTooLong, match=rf"has {CONTEXT + 1} tokens.*context is {CONTEXT}"):
        Generation(model, tokenizer, full + "x", Sampling())


def test_generation_stops_when_asked(tokenizer: Tokenizer) -> None:
    answers = iter([False, False, True])
    made = Generation(noisy(), tokenizer, "the", Sampling(seed=3), should_stop=lambda: next(answers))
    assert [piece.end for piece in made] == [None, None, STOPPED]


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_streamed_text_is_the_decoded_text_also_for_bytes_that_are_no_text(tokenizer: Tokenizer) -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = torch.randint(0, tokenizer.num_ids, (12,), generator=rng).tolist()
        decode = tokenizer.stream_decoder()
        streamed = "".join(decode(index, place == 11) for place, index in enumerate(ids))
        assert streamed == tokenizer.decode(ids)


def test_a_character_in_pieces_comes_when_it_is_whole(tokenizer: Tokenizer) -> None:
    decode = tokenizer.stream_decoder()
    ids = tokenizer.encode("é🦜")  # never seen by the tokenizer: a token a byte
    assert [decode(index, False) for index in ids] == ["", "é", "", "", "", "🦜"]
    assert decode(ids[0], True) == "\ufffd"


def test_text_ids_are_bos_bytes_and_merges(tokenizer: Tokenizer) -> None:
    allowed = tokenizer.text_ids(tokenizer.num_ids + 5)
    assert allowed[0]
    assert not any(allowed[1 : len(SPECIAL_TOKENS)])
    assert all(allowed[len(SPECIAL_TOKENS) : tokenizer.num_ids])
    assert not any(allowed[tokenizer.num_ids :])
