"""Money as integer micro-dollars: reading it, showing it, and what time costs. Pure."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

from patron_core.errors import InvalidInput

MICROS_PER_USD = 1_000_000
MAX_USD_MICROS = 10**15  # a billion dollars: sums of many stay far inside 64 bits
# a point before the cents; commas only where they part thousands
_PLAIN = re.compile(r"-?\$?([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.[0-9]+)?|-?\$?\.[0-9]+")


def parse_usd(text: str | int | float | Decimal) -> int:
    """Micro-dollars from "$4.36", "1,234.50" or a number. Raises ValueError, with what to write instead.

    A text that could be read in two ways is refused: 0,10 is ten cents to one reader and ten dollars to another.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float | Decimal):
        raise ValueError(f"{text!r} is no amount in dollars; write it like 4.36")
    amount = _exact(text) if isinstance(text, str) else Decimal(str(text))
    if not amount.is_finite():
        raise ValueError(f"{text!r} is not a finite amount in dollars")
    micros = amount * MICROS_PER_USD
    if micros != micros.to_integral_value():
        raise ValueError(f"{text!r} is finer than a micro-dollar (0.000001)")
    return int(micros)


def _exact(text: str) -> Decimal:
    cleaned = text.strip()
    if _PLAIN.fullmatch(cleaned):
        return Decimal(cleaned.replace("$", "").replace(",", ""))
    meant = _likely_meant(cleaned)
    instead = f"write {meant}" if meant else "write it like 4.36"
    raise ValueError(f"{text!r} is not an amount in dollars that can be read in one way only; {instead}")


def _likely_meant(text: str) -> str | None:
    """The spelling for what a person probably meant; only shown, never taken."""
    bare = text.replace("$", "").replace(" ", "").replace("_", "")
    if re.fullmatch(r"-?[0-9.]*,[0-9]+", bare):  # a decimal comma, with points between the thousands or none
        return bare.replace(".", "").replace(",", ".")
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{1,2}", bare):
        return f"{Decimal(bare):f}"
    return bare if _PLAIN.fullmatch(bare) else None


def check_usd_micros(usd_micros: int, what: str = "an amount", *, most: int = MAX_USD_MICROS) -> None:
    """Raises InvalidInput for what is no whole number of micro-dollars from 1 to `most`."""
    if type(usd_micros) is not int or not 0 < usd_micros <= most:  # True is an int to Python, and no amount
        shown = format_usd(usd_micros) if type(usd_micros) is int else repr(usd_micros)
        raise InvalidInput(
            [f"{what}: {shown}; allowed above $0 and at most {format_usd(most)}, in whole micro-dollars"],
            next="give a positive whole number, for instance 4360000 for $4.36",
        )


def format_usd(usd_micros: int) -> str:
    """Dollars for people: cents, or as many digits as a small amount needs ("$4.36", "$0.0031", "-$1.00")."""
    sign, micros = ("-", -usd_micros) if usd_micros < 0 else ("", usd_micros)
    amount = Decimal(micros) / MICROS_PER_USD
    if micros == 0 or micros >= 100_000:
        return f"{sign}${amount:,.2f}"
    return f"{sign}${amount:.6f}".rstrip("0")


def typed_usd(usd_micros: int) -> str:
    """Dollars as a flag takes them, to the micro-dollar: 4.36, 0.0031."""
    exact = f"{Decimal(usd_micros) / MICROS_PER_USD:f}"
    return exact.rstrip("0").rstrip(".") if "." in exact else exact


def to_usd(usd_micros: int) -> float:
    """Dollars as a float, for charts and JSON only; sums are made in micro-dollars."""
    return usd_micros / MICROS_PER_USD


def from_usd(dollars: float) -> int:
    """Micro-dollars from a number of a form or a flag, to the nearest. Text goes through parse_usd."""
    return round(MICROS_PER_USD * dollars)


def cost_usd_micros(seconds: float, usd_micros_per_hour: int) -> int:
    """What `seconds` cost, rounded up: a part of a micro-dollar is owed. Raises ValueError below zero."""
    if seconds < 0 or usd_micros_per_hour < 0:
        raise ValueError(f"{seconds} s at {usd_micros_per_hour} micro-dollars an hour: neither may be negative")
    exact = Decimal(repr(float(seconds))) * usd_micros_per_hour / 3600
    return int(exact.to_integral_value(rounding=ROUND_CEILING))


def affordable_s(usd_micros: int, usd_micros_per_hour: int) -> float:
    """Seconds that an amount pays for."""
    if usd_micros_per_hour <= 0:
        raise ValueError(f"price of {usd_micros_per_hour} micro-dollars an hour must be above 0")
    return max(0, usd_micros) * 3600 / usd_micros_per_hour
