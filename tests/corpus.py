"""Texts to train on, the same at each call."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

WORDS = ("quick", "brown", "fox", "jumps", "lazy", "dog", "seven", "wizards", "box", "quartz", "pale", "moonlight")


def write_corpus(folder: Path, num_files: int) -> None:
    """About 36 KB a file."""
    dice = random.Random(1)
    for number in range(num_files):
        lines = [" ".join(dice.choices(WORDS, k=12)) + f" {dice.random():.6f}" for _ in range(450)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines), encoding="utf-8")


def some_texts(files: Sequence[Path], num_chars: int) -> list[str]:
    """What is in them, in an order that mixes them, until there is more than so much."""
    texts: list[str] = []
    mixed = list(files)
    random.Random(0).shuffle(mixed)
    for file in mixed:
        texts.append(file.read_text(encoding="utf-8", errors="ignore"))
        num_chars -= len(texts[-1])
        if num_chars < 0:
            break
    return texts
