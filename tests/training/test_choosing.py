"""Which kernel is taken is measured, kept for the card, and never a wrong or a missing one. Without a GPU: by fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.contract.recipe import make_recipe
from trainer.model import attention_kernels
from trainer.model.attention import blockwise_attention
from trainer.model.attention_kernels import KERNELS, candidates
from trainer.model.gpt import build_model
from trainer.runtime import attention_choice
from trainer.runtime.attention_choice import WrongAnswer, choose_attention, measure
from trainer.runtime.choosing import choose, kept

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def fail() -> float:
    raise RuntimeError("no such kernel\nand more")


def never() -> float:
    raise AssertionError("measured a second time")


def test_the_quickest_that_works_is_taken_and_why_the_others_are_not() -> None:
    choice = choose("kind", {"slow": lambda: 3.0, "broken": fail, "quick": lambda: 2.0}, platform="card")
    assert choice.name == "quick"
    assert choice.seconds == {"slow": 3.0, "quick": 2.0}
    assert choice.failed == {"broken": "RuntimeError: no such kernel"}


def test_it_is_measured_once_for_a_card_a_kind_and_a_set_of_candidates() -> None:
    first = choose("kind", {"a": lambda: 3.0, "b": lambda: 2.0}, platform="card")
    assert choose("kind", {"b": never, "a": never}, platform="card") == first
    assert choose("other kind", {"a": lambda: 1.0, "b": lambda: 2.0}, platform="card").name == "a"
    assert choose("kind", {"a": lambda: 1.0, "b": lambda: 2.0}, platform="other card").name == "a"
    assert choose("kind", {"a": lambda: 1.0, "b": lambda: 2.0, "c": lambda: 0.5}, platform="card").name == "c"
    assert choose("kind", {"b": never, "a": never}, platform="card").name == "b", (
        "the others' results do not replace it"
    )
    assert len(kept("card")) == 4  # the platform's name too


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"kind: a, b": {"name": "gone", "seconds": {}, "failed": {}}}'])
def test_a_damaged_file_is_measured_again(tmp_path: Path, content: str) -> None:
    choose("kind", {"a": lambda: 3.0, "b": lambda: 2.0}, platform="card")
    (path,) = tmp_path.glob("quickest-*.json")
    path.write_text(content)
    assert choose("kind", {"a": lambda: 1.0, "b": lambda: 2.0}, platform="card").name == "a"
    assert choose("kind", {"a": never, "b": never}, platform="card").name == "a"


def test_where_none_works_none_is_taken_and_all_are_tried_again() -> None:
    assert choose("kind", {"a": fail}, platform="card").name is None
    assert choose("kind", {"a": lambda: 1.0}, platform="card").name == "a"


def windowed(window: int, wrong: Callable[[Tensor], Tensor] = lambda y: y) -> attention_choice.Attend:
    return lambda q, k, v: wrong(blockwise_attention(q, k, v, window))


def test_a_kernel_that_is_wrong_forward_or_backward_is_refused() -> None:
    def measured(attention: attention_choice.Attend) -> float:
        return measure(attention, (2, 2, 96, 16), 20, CPU, torch.float32, lambda: None)

    assert measured(windowed(20)) > 0
    with pytest.raises(WrongAnswer, match="output is off"):
        measured(windowed(19))
    with pytest.raises(WrongAnswer, match="output is off by nan"):
        measured(windowed(20, lambda y: y * float("nan")))
    with pytest.raises(WrongAnswer, match="dq is off"):
        measured(windowed(20, lambda y: y.detach() + 0.5 * (y - y.detach())))


def test_each_kind_of_layer_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"sdpa": 2.0, "cudnn": 1.0, "flash": 3.0, "flex": 2.0, "flex_tma": 4.0}
    monkeypatch.setattr(attention_choice, "_measured", lambda name, *_: seconds[name])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "card")
    recipe = make_recipe(4, sequence_len=512, vocab_size=512, window_pattern="SSSL")
    found = choose_attention(recipe, CPU, torch.bfloat16, 32)
    assert {window: choice.name for window, choice in found.items()} == {128: "flex", 512: "cudnn"}


def test_a_model_uses_what_was_chosen_for_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(4, sequence_len=512, vocab_size=512, window_pattern="SSSL")
    called: list[tuple[str, int, bool]] = []
    for name in ("flash", "flex"):

        def fake(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Any, name: str = name) -> Tensor:
            called.append((name, window, mask is not None))
            return blockwise_attention(q, k, v, window)

        monkeypatch.setitem(KERNELS, name, fake)
    plain = build_model(recipe, device=CPU, compute_dtype=torch.float32, seed=0)
    chosen = build_model(recipe, device=CPU, compute_dtype=torch.float32, seed=0, attention={128: "flex", 512: "flash"})
    tokens_BT = torch.randint(0, 512, (1, 512))
    with torch.no_grad():
        torch.testing.assert_close(chosen(tokens_BT), plain(tokens_BT))
        assert called == [("flex", 128, True)] * 3 + [("flash", 512, False)]
        chosen(tokens_BT[:, :300])  # the mask is of another length: the plain way, exact at any
    assert [name for name, *_ in called[4:]] == ["flash"]


def test_what_is_not_installed_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fa3" not in candidates(128, 512) + candidates(512, 512)
    seen: dict[str, Any] = {}

    def flash_attn_func(q: Tensor, _k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, None]:
        seen.update(options, shape=tuple(q.shape))
        return v, None

    monkeypatch.setattr(attention_kernels, "FLASH_ATTENTION_3", flash_attn_func)
    assert candidates(128, 512)[-1] == candidates(512, 512)[-1] == "fa3"
    q_BHTK = torch.zeros(1, 2, 512, 16)
    assert KERNELS["fa3"](q_BHTK, q_BHTK, q_BHTK, 128, None).shape == q_BHTK.shape
    assert seen == {"causal": True, "window_size": (128, 0), "shape": (1, 512, 2, 16)}
    KERNELS["fa3"](q_BHTK, q_BHTK, q_BHTK, 512, None)
    assert seen["window_size"] == (-1, -1)


def test_flash_attention_2_is_asked_for_the_window_and_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own schema: a CPU has no such kernel."""
    asked: list[dict[str, Any]] = []
    schema = torch.ops.aten._flash_attention_forward.default._schema
    names = [argument.name for argument in schema.arguments]

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        asked.append(dict(zip(names, args, strict=False)) | kwargs)
        assert set(asked[-1]) <= set(names)
        return (args[0],)

    monkeypatch.setattr(
        attention_kernels.torch, "ops", SimpleNamespace(aten=SimpleNamespace(_flash_attention_forward=forward))
    )
    q_BHTK = torch.zeros(1, 2, 512, 16)
    for window in (128, 512):
        assert KERNELS["flash"](q_BHTK, q_BHTK, q_BHTK, window, None).shape == q_BHTK.shape
    assert [(a["window_size_left"], a["window_size_right"], a["is_causal"], a["max_q"]) for a in asked] == [
        (128, 0, True, 512),
        (None, None, True, 512),
    ]
