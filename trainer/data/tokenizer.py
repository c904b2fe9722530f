"""The tokenizer: byte-level BPE, trained on the run's own data and kept in the cache.

Ids: 9 special tokens first (`<|bos|>` is 0), then the 256 bytes, then merges. A small corpus may give fewer merges than
asked for; ids are always below the model's vocabulary. Special tokens never come out of text: a document that spells
`<|bos|>` is encoded as plain characters.

The same text gives the same tokenizer, whatever the number of threads. The file is the `tokenizers` library's JSON, so
other tools can read it; its sha256 lies beside it and is what a run records.
"""

from __future__ import annotations

import codecs
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from trainer.contract.files import write_atomic
from trainer.data.files import Progress, locked, no_progress, sha256_file, sha256_text

if TYPE_CHECKING:
    import tiktoken

# Pretraining needs only the first; a later chat stage finds the others at the same ids.
SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
# GPT-4's pattern with numbers in groups of at most 2 digits, which suits vocabularies of 32K and below.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
SMALLEST_VOCAB = len(SPECIAL_TOKENS) + 256
TOKENIZER_VERSION = 1  # count up when training would give other merges
# More text hardly helps: 4x as much shortens the standard library by 0.6 % at 4096 tokens, 1.3 % at 32768.
TRAIN_CHARS_PER_TOKEN = 4000


class Tokenizer:
    """Text to ids and back. Get one with `ensure_tokenizer` or `Tokenizer.load`."""

    def __init__(self, engine: tokenizers.Tokenizer, hash: str = ""):
        self._engine = engine
        self._engine.encode_special_tokens = True  # the library's name for: treat them as text
        self.hash = hash
        self.bos_id = SPECIAL_TOKENS.index("<|bos|>")
        self.num_ids: int = engine.get_vocab_size()

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        return cls(tokenizers.Tokenizer.from_file(str(path)), sha256_file(path))

    @classmethod
    def fits(cls, text: str, vocab_size: int) -> bool:
        """Whether this is a tokenizer of ours, of at most so many ids; any text may be asked about."""
        try:
            engine = tokenizers.Tokenizer.from_str(text)
            special = [engine.token_to_id(token) for token in SPECIAL_TOKENS]
            return (
                special == list(range(len(SPECIAL_TOKENS))) and SMALLEST_VOCAB <= engine.get_vocab_size() <= vocab_size
            )
        except Exception:  # the library raises Exception itself, and TypeError
            return False

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        if vocab_size < SMALLEST_VOCAB:
            raise ValueError(f"vocab_size {vocab_size} must be at least {SMALLEST_VOCAB}: special tokens and 256 bytes")
        engine = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        engine.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        engine.train_from_iterator(iter(texts), trainer)
        return cls(engine)

    def to_json(self) -> str:
        return self._engine.to_str()

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without BOS."""
        return self._engine.encode(text).ids

    def encode_documents(self, texts: Sequence[str], dtype: np.dtype) -> Iterator[np.ndarray]:
        """Each text as [BOS, ids...], encoded in as many threads as there are cores."""
        for ids in self._encode_all(texts):
            document = np.empty(len(ids) + 1, dtype=dtype)
            document[0] = self.bos_id
            document[1:] = ids
            yield document

    def _encode_all(self, texts: Sequence[str]) -> Iterator[Sequence[int] | np.ndarray]:
        """By tiktoken where it is installed, six times the text in a second of a core; the ids are the same."""
        fast = self._fast
        if fast is None:
            yield from (encoding.ids for encoding in self._engine.encode_batch_fast(texts))
            return
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            yield from threads.map(lambda text: fast.encode_to_numpy(text, disallowed_special=()), texts)

    @functools.cached_property
    def _fast(self) -> tiktoken.Encoding | None:
        try:
            import tiktoken
        except ImportError:  # a machine that somebody else set up
            return None
        vocab = self._engine.get_vocab()
        ranks = {_spelled(token): index for token, index in vocab.items() if token not in SPECIAL_TOKENS}
        return tiktoken.Encoding("patron", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of the ids. Bytes that are not UTF-8, as in a half-sampled character, become U+FFFD."""
        return self._engine.decode(list(ids), skip_special_tokens=skip_special)

    def stream_decoder(self) -> Callable[[int, bool], str]:
        """A function of (id, whether it is the last) to the text that is now whole: a token may be half a character.

        What it returns for some ids, one after the other, is what `decode` returns for all of them.
        """
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return lambda index, is_last: utf8.decode(self._spelled_bytes(index), is_last)

    def _spelled_bytes(self, index: int) -> bytes:
        token = self._engine.id_to_token(index)
        return b"" if token is None or token in SPECIAL_TOKENS else _spelled(token)

    def text_ids(self, vocab_size: int) -> list[bool]:
        """[vocab_size]: ids that occur in training data, which are those of text, and BOS."""
        first = len(SPECIAL_TOKENS)
        return [index == self.bos_id or first <= index < self.num_ids for index in range(vocab_size)]

    def token_bytes(self, vocab_size: int) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes each id stands for; 0 for special and unused ids."""
        sizes = np.zeros(vocab_size, dtype=np.int32)
        for token, index in self._engine.get_vocab().items():
            # the byte-level alphabet spells every byte as one character
            sizes[index] = 0 if token in SPECIAL_TOKENS else len(token)
        return sizes


def _spelled_alphabet() -> dict[str, int]:
    """Byte-level BPE spells each byte as one visible character: itself in Latin-1, the others from U+0100 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _spelled_alphabet()


def _spelled(token: str) -> bytes:
    return bytes(_BYTE_OF[char] for char in token)


def train_chars(vocab_size: int, asked: int | None = None) -> int:
    """How much text to train a tokenizer on."""
    return asked or TRAIN_CHARS_PER_TOKEN * vocab_size


def tokenizer_path(cache: Path, fingerprint: str, vocab_size: int, chars: int | None = None) -> Path:
    """Where the tokenizer of this text lies, whether or not it is there yet. `chars`: a spec's tokenizer_chars."""
    how = (TOKENIZER_VERSION, tokenizers.__version__, SPLIT_PATTERN, SPECIAL_TOKENS, train_chars(vocab_size, chars))
    return cache / "tokenizers" / f"{sha256_text(f'{how} {vocab_size} {fingerprint}')[:16]}.json"


def is_trained(path: Path) -> bool:
    """There, and as it was written."""
    seal = path.with_suffix(".sha256")
    return path.is_file() and seal.is_file() and seal.read_text() == sha256_file(path)


def ensure_tokenizer(
    texts: Iterable[str],
    fingerprint: str,
    vocab_size: int,
    cache: Path,
    progress: Progress = no_progress,
    chars: int | None = None,
) -> tuple[Path, Tokenizer]:
    """The tokenizer of these texts, trained unless the cache has it. `texts` is read only then, and only its start."""
    path = tokenizer_path(cache, fingerprint, vocab_size, chars)
    with locked(path, progress):
        if not is_trained(path):
            limit = train_chars(vocab_size, chars)
            progress(f"training a tokenizer of {vocab_size} tokens on up to {limit / 1e6:.0f}M characters", None)
            text = Tokenizer.train(_first_chars(texts, limit), vocab_size).to_json()
            write_atomic(path, text)
            write_atomic(path.with_suffix(".sha256"), sha256_text(text))
        return path, Tokenizer.load(path)


def _first_chars(texts: Iterable[str], limit: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        yield text[: limit - taken]
        taken += len(text)
        if taken >= limit:
            return
