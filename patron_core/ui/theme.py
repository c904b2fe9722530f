"""One look in three themes: light, dark, and projector, which is read from the last row. Pure.

Pages take the colours as CSS variables (`--p-ink`), curves as `THEMES` of their widget. Altair's charts are drawn in
colours that are seen on light and dark alike (`SERIES_ON_BOTH`), words in them in the ink of marimo's theme.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

COOKIE = "patron_look"  # what somebody chose; without it the system's light or dark


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours as #rrggbb. Words are read on paper and card with a contrast of 4.5 and more, lines are seen with 3."""

    paper: str
    card: str
    ink: str
    quiet: str  # words that step back
    line: str  # between things: a border, a grid
    accent: str  # links, the first curve
    second: str
    good: str
    warn: str
    bad: str
    live: str
    series: tuple[str, ...]  # curves, in order
    font_px: int = 11  # of a chart's axes
    stroke_px: float = 1.6  # of a curve
    chart_height_px: int = 240


THEMES = {
    "light": Theme(
        paper="#ffffff",
        card="#f5f7fa",
        ink="#1a202c",
        quiet="#566173",
        line="#d8dee8",
        accent="#1f5fa8",
        second="#b4530f",
        good="#1e6b42",
        warn="#8a5a06",
        bad="#b02525",
        live="#1f5fa8",
        series=(
            "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#c53030", "#23787c", "#975a16", "#4a5568", "#b83280",
            "#2c5282",
        ),
    ),
    "dark": Theme(
        paper="#14181f",
        card="#1c222c",
        ink="#e8ecf2",
        quiet="#a9b4c4",
        line="#353f4e",
        accent="#8fbcf0",
        second="#f2a15f",
        good="#77cf9f",
        warn="#e3bb6a",
        bad="#f49b9b",
        live="#8fbcf0",
        series=(
            "#63b3ed", "#f6ad55", "#68d391", "#b794f4", "#fc8181", "#4fd1c5", "#ecc94b", "#a0aec0", "#f687b3",
            "#90cdf4",
        ),
    ),
    "projector": Theme(
        paper="#ffffff",
        card="#ffffff",
        ink="#000000",
        quiet="#2d3440",
        line="#6b7280",
        accent="#0b3d91",
        second="#8f3400",
        good="#0a5a2a",
        warn="#6b4300",
        bad="#9b0f1f",
        live="#0b3d91",
        series=(
            "#0b4fb3", "#b03a00", "#0a6b2d", "#5b1fa8", "#b00020", "#005f66", "#7a4a00", "#2b2f36", "#99006b",
            "#1c2f7a",
        ),
        font_px=16,
        stroke_px=3.5,
        chart_height_px=340,
    ),
}  # fmt: skip
SERIES_ON_BOTH = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#d53f3f", "#23858a", "#a36a12", "#718096")
PILL_INK = "#ffffff"
_COLOURS = ("paper", "card", "ink", "quiet", "line", "accent", "second", "good", "warn", "bad", "live")


def css() -> str:
    """The variables of every theme: the system's light or dark, or what `data-look` of the root says."""
    light, dark, projector = (_variables(THEMES[name]) for name in ("light", "dark", "projector"))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f":root[data-look=light] {{ color-scheme: light; {light} }}\n"
        f":root[data-look=dark] {{ color-scheme: dark; {dark} }}\n"
        f":root[data-look=projector] {{ color-scheme: light; font-size: 125%; {projector} }}\n"
        "@media print { :root:root { color-scheme: light; " + light + " } }\n"
    )


def for_charts() -> str:
    """The themes for a widget, as JSON."""
    return json.dumps({name: asdict(theme) for name, theme in THEMES.items()})


def _variables(theme: Theme) -> str:
    return "; ".join(f"--p-{name}: {getattr(theme, name)}" for name in _COLOURS)
