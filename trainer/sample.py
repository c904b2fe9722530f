"""Talk to a run: text that goes on from a prompt, from a checkpoint.

    python -m trainer.sample RUN_DIR --prompt "Once upon a time" [--prompt ...] [--num-samples 3] [--json]
    python -m trainer.sample RUN_DIR < prompt.txt          all of it is one prompt
    python -m trainer.sample RUN_DIR                       in a terminal: each line is a prompt; Ctrl-D ends

Prints each text as it comes; the prompt and what follows on stdout, all else on stderr. A text ends with the document,
at --max-tokens, or when the context is full. It also works while the run trains, and on any machine that has RUN_DIR.
Exit codes: 0 done; 2 bad arguments or prompt; 1 nothing to talk to, with what to do next.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.contract.words import printable
from trainer.runtime.console import say

if TYPE_CHECKING:  # torch comes with them: imported once the arguments are good
    from trainer.sampling.generate import Generation, Sampling
    from trainer.sampling.loading import Talker

EXIT_DONE, EXIT_ERROR, EXIT_BAD_ARGUMENTS = 0, 1, 2


class BadPrompt(Exception):
    """`next` is what to do."""

    code = "bad_prompt"

    def __init__(self, problem: str, *, next: str):
        super().__init__(f"{problem}. Next: {next}")
        self.problem, self.next = problem, next


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    from trainer.sampling.loading import LoadError

    try:
        return _talk(args)
    except (BadPrompt, LoadError) as error:
        if args.json:
            print(json.dumps({"error": {"code": error.code, "message": error.problem, "next": error.next}}))
        say(f"sample: {error}")
        return EXIT_BAD_ARGUMENTS if isinstance(error, BadPrompt) else EXIT_ERROR
    except KeyboardInterrupt:
        say("\nsample: interrupted")
        return 130
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _talk(args: argparse.Namespace) -> int:
    import torch

    from trainer.sampling.generate import Sampling
    from trainer.sampling.loading import LoadError, load_talker

    prompts = [_checked(prompt) for prompt in args.prompt]
    if not prompts and not sys.stdin.isatty():
        prompts = [_checked(sys.stdin.read().removesuffix("\n"))]
    has_cuda = torch.cuda.is_available()
    if args.device == "cuda" and not has_cuda:
        raise LoadError("no_cuda", "torch sees no CUDA device here", next="leave --device out, or give --device cpu")
    device = torch.device(args.device or ("cuda" if has_cuda else "cpu"))
    sampling = Sampling(
        max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k or None, seed=args.seed
    )
    start = time.perf_counter()
    talker = load_talker(args.run_dir, which=args.step, device=device, warn=lambda text: say(f"warning: {text}"))
    val_bpb = talker.checkpoint.state.get("val_bpb_here")
    say(
        f"{talker.checkpoint.path} ({'not evaluated' if val_bpb is None else f'val_bpb {val_bpb:.4f}'}) on {device} "
        f"in {_dtype(talker)}, loaded in {time.perf_counter() - start:.1f} s"
    )
    samples = []
    for number, prompt in enumerate(prompts or _lines_of_terminal(), 1):
        title = f"prompt {number}" if len(prompts) > 1 else ""
        samples += _sample(talker, prompt, sampling, args.num_samples, title, show=not args.json)
    if args.json:
        about = {"run_dir": str(args.run_dir), "step": talker.checkpoint.step, "val_bpb": val_bpb}
        how = {"device": device.type, "dtype": _dtype(talker), "max_tokens": args.max_tokens}
        how |= {"temperature": args.temperature, "top_k": args.top_k or None, "seed": args.seed}
        print(json.dumps(about | how | {"samples": samples}))
    return EXIT_DONE


def _sample(
    talker: Talker, prompt: str, sampling: Sampling, num_rows: int, title: str, *, show: bool
) -> list[dict[str, Any]]:
    from trainer.sampling.generate import Generation, PromptTooLong

    try:
        generation = Generation(talker.model, talker.tokenizer, prompt, sampling, num_rows=num_rows)
    except PromptTooLong as error:
        raise BadPrompt(str(error), next="give a shorter prompt") from error
    start = time.perf_counter()
    if show:
        _show(generation, prompt, title)
    else:
        for _ in generation:
            pass
    seconds = time.perf_counter() - start
    speed = generation.num_tokens / seconds
    ends = ", ".join(str(end) for end in generation.ends)
    say(f"[{ends}; {generation.num_tokens} tokens in {seconds:.2f} s, {speed:.0f} tokens/s]")
    return [
        {"prompt": prompt, "text": text, "end": end, "tokens_per_s": speed}
        for text, end in zip(generation.texts, generation.ends, strict=True)
    ]


def _show(generation: Generation, prompt: str, title: str) -> None:
    """The first row as it comes; the others, made at the same time, after it. Several texts get headings."""

    def begin(row: int) -> None:
        words = [title, f"sample {row + 1}" if len(generation.texts) > 1 else ""]
        heading = ", ".join(word for word in words if word)
        print(printable(f"=== {heading} ===\n{prompt}" if heading else prompt), end="", flush=True)

    begin(0)
    for piece in generation:
        if piece.row == 0:
            print(printable(piece.text), end="" if piece.end is None else "\n", flush=True)
    for row in range(1, len(generation.texts)):
        begin(row)
        print(printable(generation.texts[row]), flush=True)


def _lines_of_terminal() -> Iterator[str]:
    say("Each line is a prompt; Ctrl-D ends.")
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            say("")
            return
        if line.strip():
            yield line.removesuffix("\n")


def _checked(prompt: str) -> str:
    if not prompt.strip():
        raise BadPrompt("the prompt is empty", next='give one: --prompt "Once upon a time", or text on stdin')
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise BadPrompt(f"the prompt is not UTF-8 ({error})", next="give it as UTF-8") from error
    return prompt


def _dtype(talker: Talker) -> str:
    return str(talker.model.compute_dtype).removeprefix("torch.")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="texts for each prompt")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="(default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=50, metavar="K", help="0: all tokens (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same texts")
    parser.add_argument("--step", type=_step, metavar="N|best", help="another checkpoint than the newest whole one")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args(argv)
    for name, low, high in (("num_samples", 1, 1024), ("max_tokens", 1, 10**6), ("top_k", 0, 10**6)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: allowed {low} to {high}")
    if not 0 <= args.temperature <= 100:
        parser.error(f"--temperature {args.temperature}: allowed 0 to 100")
    return args


def _step(text: str) -> int | str:
    if text != "best" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: a step's number, or best")
    return text if text == "best" else int(text)


if __name__ == "__main__":
    sys.exit(main())
