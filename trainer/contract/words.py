"""Foreign text made fit for a terminal: what a person sees is what is there. Pure."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"
# Format characters that are part of how a language is written: a joiner and a non-joiner. All others can hide text.
_KEPT = frozenset("\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` without what a terminal or a page obeys instead of showing it: escapes, C0 and C1, bidi, hidden marks.

    Each such character becomes U+FFFD, so that its place is seen; those in `keep` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not is_hidden(char) else REPLACEMENT for char in text)


def is_hidden(char: str) -> bool:
    """Whether a character is obeyed rather than shown: a control, a direction, a mark without width, a half pair."""
    return char not in _KEPT and unicodedata.category(char) in _HIDDEN
