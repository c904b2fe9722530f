"""Money as integer micro-dollars: reading it, showing it, and what time costs. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

MICROS_PER_USD = 1_000_000


def parse_usd(text: str | int | float | Decimal) -> int:
    """Micro-dollars from "$4.36", "4.36" or a number. Raises ValueError for what is no finite amount."""
    cleaned = str(text).strip().removeprefix("$").replace(",", "")
    try:
        amount = Decimal(cleaned)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount in dollars, for instance 4.36") from None
    if not amount.is_finite():
        raise ValueError(f"{text!r} is not a finite amount in dollars")
    micros = amount * MICROS_PER_USD
    if micros != micros.to_integral_value():
        raise ValueError(f"{text!r} is finer than a micro-dollar (0.000001)")
    return int(micros)


def format_usd(usd_micros: int) -> str:
    """Dollars for people: cents, or as many digits as a small amount needs ("$4.36", "$0.0031", "-$1.00")."""
    sign, micros = ("-", -usd_micros) if usd_micros < 0 else ("", usd_micros)
    amount = Decimal(micros) / MICROS_PER_USD
    if micros == 0 or micros >= 100_000:
        return f"{sign}${amount:,.2f}"
    return f"{sign}${amount:.6f}".rstrip("0")


def to_usd(usd_micros: int) -> float:
    """Dollars as a float, for charts and JSON only; sums are made in micro-dollars."""
    return usd_micros / MICROS_PER_USD


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
