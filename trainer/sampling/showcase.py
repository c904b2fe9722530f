"""A few texts at the end of a run: what the model learnt, to read. They become one `sample` event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from trainer.data import PreparedData, Tokenizer
from trainer.model.gpt import Model
from trainer.sampling.generate import Generation, PromptTooLong, Sampling

# fixed, so that the texts of several runs can be held side by side
PYTHON_PROMPTS = ("import ", "def main(", "class Error(Exception):\n")
ENGLISH_PROMPTS = ("The capital of France is", "Once upon a time", "The most important thing about water is")
HELD_OUT_TOKENS = 8
SAMPLING = Sampling(max_tokens=40, temperature=0.7, top_k=40, seed=0)
MAX_S = 3.0  # for all prompts together


def closing_prompts(source: str, data: PreparedData, tokenizer: Tokenizer) -> tuple[str, ...]:
    """By the source of the data; for files of the user's own, how the first held-out documents begin."""
    if source == "stdlib":
        return PYTHON_PROMPTS
    if not source.startswith("path:"):
        return ENGLISH_PROMPTS
    shard = data.val.whole(0)
    tokens = shard.tokens()
    starts = shard.offsets()[: len(ENGLISH_PROMPTS)] + 1  # behind BOS
    begun = (tokenizer.decode(tokens[start : start + HELD_OUT_TOKENS].tolist()) for start in starts)
    return tuple(text.strip("\ufffd") for text in begun if text.strip("\ufffd \n"))


def closing_samples(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], *, should_stop: Callable[[], bool], max_s: float = MAX_S
) -> dict[str, Any] | None:
    """What goes into the event; None without a text. Uses no global random numbers and changes nothing.

    A prompt that is longer than the context is left out; each gets its share of the time.
    """
    start = time.perf_counter()
    made: list[tuple[str, Generation]] = []
    for number, prompt in enumerate(prompts, 1):
        end = start + max_s * number / len(prompts)
        try:
            generation = Generation(model, tokenizer, prompt, SAMPLING, should_stop=_by(end, should_stop))
        except PromptTooLong:
            continue
        if should_stop():
            break
        for _ in generation:
            pass
        made.append((prompt, generation))
    seconds = time.perf_counter() - start
    num_tokens = sum(generation.num_tokens for _, generation in made)
    if not num_tokens:
        return None
    return {
        "prompts": [prompt for prompt, _ in made],
        "texts": [generation.texts[0] for _, generation in made],  # what follows the prompt
        "ends": [generation.ends[0] for _, generation in made],
        "tokens_per_s": num_tokens / seconds,
        "seconds": seconds,
    }


def _by(end: float, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Whether to stop, at the latest when the performance counter says `end`."""
    return lambda: should_stop() or time.perf_counter() >= end
