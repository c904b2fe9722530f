"""Texts to train on, the same at each call."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = ("quick", "brown", "fox", "jumps", "lazy", "dog", "seven", "wizards", "box", "quartz", "pale", "moonlight")


def write_corpus(folder: Path, num_files: int) -> None:
    """About 36 KB a file."""
    dice = random.Random(1)
    for number in range(num_files):
        lines = [" ".join(dice.choices(WORDS, k=12)) + f" {dice.random():.6f}" for _ in range(450)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines), encoding="utf-8")
