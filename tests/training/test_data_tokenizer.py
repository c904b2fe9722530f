"""The tokenizer: whole round trips, exact bytes, the same result each time, and a cache that notices damage."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainer.contract.recipe
from trainer.data.tokenizer import SMALLEST_VOCAB, SPECIAL_TOKENS, Tokenizer, ensure_tokenizer

TEXTS = [
    Path(trainer.contract.recipe.__file__).read_text(encoding="utf-8"),
    "naïve café 日本語 🙂 12345 don't\r\n\t x\n\n\n" * 20,
]
VOCAB = 512
STDLIB = Path(sysconfig.get_path("stdlib"))
tokenizer = Tokenizer.train(TEXTS, VOCAB)
token_bytes = tokenizer.token_bytes(VOCAB)


@given(st.text())
def test_text_comes_back_and_its_bytes_add_up(text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert token_bytes[ids].sum() == len(text.encode())
    assert all(len(SPECIAL_TOKENS) <= index < VOCAB for index in ids)


@pytest.mark.parametrize(
    "text", ["<|bos|>", "a<|user_start|>b", "🙂🙂", "\x00\x7f", "é" * 50, "  \n \t\r\n", "1234567"]
)
def test_odd_text_comes_back(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_first_weigh_nothing_and_never_come_from_text() -> None:
    assert tokenizer.bos_id == 0
    assert (token_bytes[: len(SPECIAL_TOKENS)] == 0).all()
    assert (token_bytes[len(SPECIAL_TOKENS) : tokenizer.num_ids] > 0).all()
    assert 0 not in tokenizer.encode("<|bos|> and <|user_end|>")
    assert tokenizer.decode([0, *tokenizer.encode("a")]) == "a"
    assert tokenizer.decode([0, *tokenizer.encode("a")], skip_special=False) == "<|bos|>a"


def test_documents_are_what_encode_gives_after_bos() -> None:
    documents = list(tokenizer.encode_documents([*TEXTS, "x"], np.dtype("<u2")))
    assert [d.tolist() for d in documents] == [[0, *tokenizer.encode(text)] for text in [*TEXTS, "x"]]


def test_tiktoken_gives_the_same_ids_on_a_corpus_and_on_what_is_odd() -> None:
    """Its rule of merging is another, so that only text can show it: real code, and runs of few characters."""
    corpus = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(STDLIB.glob("*.py"))]
    ours = Tokenizer.train(corpus[::4], 4096)
    rng = random.Random(0)
    odd = ["".join(rng.choices(some, k=5000)) for some in ("ab ", "aab", "\n\t \r", "=-_", "äöü日本👍🏽", "01a")]
    odd += ["a" * 50_000, " " * 50_000 + "x", "<|bos|> <|endoftext|>", "\0" * 999, ""]
    texts = [*corpus, *odd]
    fast = [document[1:].tolist() for document in ours.encode_documents(texts, np.dtype("<u2"))]
    assert ours._fast is not None
    assert fast == [encoding.ids for encoding in ours._engine.encode_batch_fast(texts)]
    assert sum(map(len, fast)) > 1_000_000


def test_numbers_go_in_pairs() -> None:
    wide = Tokenizer.train(["2024 1999 123456 " * 200], 400)
    assert all(len(wide.decode([index]).strip()) <= 2 for index in wide.encode("123456"))


def test_training_twice_gives_the_same_merges() -> None:
    assert Tokenizer.train(TEXTS, VOCAB).to_json() == tokenizer.to_json()


def test_a_small_corpus_gives_fewer_ids() -> None:
    small = Tokenizer.train(["ab"], 4096)
    assert SMALLEST_VOCAB <= small.num_ids < 300
    assert len(small.token_bytes(4096)) == 4096
    with pytest.raises(ValueError, match="at least 265"):
        Tokenizer.train(["ab"], 256)


def test_the_cache_is_used_and_damage_is_mended(tmp_path: Path) -> None:
    path, first = ensure_tokenizer(TEXTS, "text 1", VOCAB, tmp_path)
    again, cached = ensure_tokenizer(iter(()), "text 1", VOCAB, tmp_path)  # no text: it must not train
    assert (again, cached.hash) == (path, first.hash)
    assert Tokenizer.load(path).encode("for x in range(3)") == first.encode("for x in range(3)")

    path.write_text(path.read_text()[:-100])
    _, mended = ensure_tokenizer(TEXTS, "text 1", VOCAB, tmp_path)
    assert mended.hash == first.hash
    assert ensure_tokenizer(TEXTS, "text 2", VOCAB, tmp_path)[0] != path
    assert ensure_tokenizer(TEXTS, "text 1", VOCAB + 1, tmp_path)[0] != path
    assert not list(tmp_path.rglob("*.part"))


def test_training_reads_a_bounded_amount_of_text(tmp_path: Path) -> None:
    taken = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield f"text {taken} " * 10_000

    ensure_tokenizer(endless(), "endless", 300, tmp_path)
    assert taken < 20
