"""One look in three themes: what is read is read by everybody (WCAG 2.2 AA), and what is drawn is seen."""

from __future__ import annotations

import re

import pytest

from patron_core.server import bar, pages
from patron_core.ui import charts, report_page, show, theme
from patron_core.ui.plot.board import Board

WORDS = ("ink", "quiet", "accent", "second", "good", "warn", "bad", "live")


def luminance(colour: str) -> float:
    """Relative, of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", theme.THEMES)
def test_words_are_read_and_curves_are_seen(name: str) -> None:
    """4.5 for words, 3 for what is drawn; on a projector, which washes out, 7 and 4.5."""
    found, read, seen = theme.THEMES[name], *((7.0, 4.5) if name == "projector" else (4.5, 3.0))
    for ground in (found.paper, found.card):
        too_pale = {word: contrast(getattr(found, word), ground) for word in WORDS}
        assert not {word: much for word, much in too_pale.items() if much < read}
        assert not {line: contrast(line, ground) for line in found.series if contrast(line, ground) < seen}
    assert len(set(found.series)) == len(found.series) == len(theme.THEMES["light"].series)


def test_what_follows_no_theme_is_seen_in_each() -> None:
    assert set(show.TONE_OF.values()) <= set(show.PILLS)
    assert all(contrast(theme.PILL_INK, ground) >= 4.5 for ground in show.PILLS.values())
    grounds = [each.paper for each in theme.THEMES.values()]
    assert not {line for line in charts.COLOURS for ground in grounds if contrast(line, ground) < 3}


def test_every_page_has_its_colours_from_here() -> None:
    light = f"--p-accent: {theme.THEMES['light'].accent}"
    for page in (bar.navigation([]), pages.login_page().body.decode(), report_page._STYLE):
        assert light in page
        used, known = set(re.findall(r"var\((--p-\w+)", page)), set(re.findall(r"(--p-\w+):", page))
        assert used
        assert used <= known
    assert theme.THEMES["projector"].series[0] in Board._esm
