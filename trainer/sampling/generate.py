"""Text from a model: one prompt, several rows that go on from it, a token each at a time.

Shapes: B rows, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.tokenizer import Tokenizer
from trainer.model.cache import Cache
from trainer.model.gpt import Linear, Model
from trainer.model.head import head_logits

# why a row ended
END_OF_DOCUMENT, MAX_TOKENS, CONTEXT_FULL, STOPPED = "end of document", "max tokens", "context full", "stopped"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen. Raises ValueError for what cannot work."""

    max_tokens: int = 128
    temperature: float = 0.8  # 0 takes the likeliest
    top_k: int | None = 50  # only the likeliest so many; None: all
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be 0 or above")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1")


@dataclass(frozen=True)
class Piece:
    """What one row got in one step: some text, which is empty amid a character, and at its end the reason."""

    row: int
    text: str
    end: str | None = None


class PromptTooLong(ValueError):
    pass


class Generation:
    """Iterate once for the pieces of all rows, as they come; `texts`, `ends` and `num_tokens` hold what came so far."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompt: str,
        sampling: Sampling,
        *,
        num_rows: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        """Raises PromptTooLong when the model cannot read the prompt at once."""
        self._model, self._tokenizer, self._sampling, self._should_stop = model, tokenizer, sampling, should_stop
        self._prompt = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        context = model.recipe.sequence_len
        if len(self._prompt) > context:
            raise PromptTooLong(
                f"the prompt has {len(self._prompt)} tokens, its BOS included, and the model's context is {context}"
            )
        self.texts = [""] * num_rows
        self.ends: list[str | None] = [None] * num_rows
        self.num_tokens = 0  # made, in all rows together
        # the last token is not read again, so it may stand just behind the context
        self._num_steps = min(sampling.max_tokens, context + 1 - len(self._prompt))
        self._last_end = MAX_TOKENS if self._num_steps == sampling.max_tokens else CONTEXT_FULL

    def __iter__(self) -> Iterator[Piece]:
        rows = range(len(self.texts))
        decoders = [self._tokenizer.stream_decoder() for _ in rows]
        for step, tokens in enumerate(self._steps(len(rows)), 1):
            for row in (row for row in rows if self.ends[row] is None):
                self.num_tokens += 1
                end = END_OF_DOCUMENT if tokens[row] == self._tokenizer.bos_id else None
                if end is None and step == self._num_steps:
                    end = self._last_end
                elif end is None and self._should_stop():
                    end = STOPPED
                text = decoders[row](tokens[row], end is not None)
                self.texts[row] += text
                self.ends[row] = end
                yield Piece(row, text, end)
            if all(self.ends):
                return

    def _steps(self, num_rows: int) -> Iterator[list[int]]:
        """The next token of each row, for as long as it is asked for."""
        model, device = self._model, self._model.lm_head.weight.device
        choose = Chooser(self._sampling, self._tokenizer.text_ids(model.recipe.vocab_size))
        cache = Cache(model.recipe, len(self._prompt) + self._num_steps - 1)
        logits_BV = next_logits(model, torch.tensor([self._prompt], device=device), cache).expand(num_rows, -1)
        cache.expand(num_rows)
        while True:
            tokens_B = choose(logits_BV)
            yield tokens_B.tolist()
            logits_BV = next_logits(model, tokens_B.unsqueeze(1).to(device), cache)


@torch.inference_mode()
def next_logits(model: Model, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
    """Logits B x V of the token after the last."""
    x_BD = model(tokens_BT, cache)[:, -1]
    return head_logits(x_BD, model.lm_head.weight, softcap=model.softcap)


class Chooser:
    """Draws on the CPU, so that one seed means the same draws wherever the logits come from."""

    def __init__(self, sampling: Sampling, allowed_V: Sequence[bool]):
        """`allowed_V`: ids that may come out, the end of a document among them."""
        self._sampling = sampling
        self._forbidden_V = ~torch.tensor(allowed_V)
        self._rng = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Token ids B, on the CPU."""
        logits_BV = logits_BV.to("cpu", torch.float32).masked_fill(self._forbidden_V, -math.inf)
        if self._sampling.temperature == 0:
            return logits_BV.argmax(dim=-1)
        if self._sampling.top_k is not None:
            top_BK, ids_BK = logits_BV.topk(min(self._sampling.top_k, logits_BV.size(-1)))
            return ids_BK.gather(-1, self._draw(top_BK)).squeeze(-1)
        return self._draw(logits_BV).squeeze(-1)

    def _draw(self, logits_BK: Tensor) -> Tensor:
        scaled_BK = (logits_BK - logits_BK.amax(dim=-1, keepdim=True)) / self._sampling.temperature
        return torch.multinomial(scaled_BK.softmax(dim=-1), 1, generator=self._rng)


def cast_matrices(model: Model) -> None:
    """Keep matrices in the compute dtype, to which each use rounds them anyway; faster. Not for training."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.weight = torch.nn.Parameter(module.weight.to(model.compute_dtype), requires_grad=False)
