"""Micro-dollars: reading, showing, and what time costs."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patron_core.money import affordable_s, cost_usd_micros, format_usd, parse_usd, to_usd

MICROS = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("text", "usd_micros"),
    [
        ("$4.36", 4_360_000),
        (" 4.36 ", 4_360_000),
        ("1,234.5", 1_234_500_000),
        (0.1, 100_000),
        (7, 7_000_000),
        (Decimal("0.000001"), 1),
        ("0", 0),
        ("-2.5", -2_500_000),
        ("1,000", 1_000_000_000),
        (".5", 500_000),
    ],
)
def test_parse(text: object, usd_micros: int) -> None:
    assert parse_usd(text) == usd_micros  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "$", "a lot", "nan", "inf", "0.0000001", 1e-9, "4.36 EUR", True, None, "٣"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="dollar"):
        parse_usd(text)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("0,10", "0.10"),
        ("1,50", "1.50"),
        ("1.234,56", "1234.56"),
        ("1.000,5", "1000.5"),
        ("$ 5", "5"),
        ("1 000", "1000"),
        ("1e3", "1000"),
        ("1,2,3", "it like 4.36"),
        ("5.", "it like 4.36"),
        ("NaN", "it like 4.36"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_what_to_write(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match=f"write {instead}$"):
        parse_usd(text)


@pytest.mark.parametrize(
    ("usd_micros", "text"),
    [
        (4_360_000, "$4.36"),
        (3_100, "$0.0031"),
        (1, "$0.000001"),
        (0, "$0.00"),
        (-1_000_000, "-$1.00"),
        (1_234_567_890_000, "$1,234,567.89"),
        (100_000, "$0.10"),
    ],
)
def test_format(usd_micros: int, text: str) -> None:
    assert format_usd(usd_micros) == text


@given(st.integers(0, 10**9))
def test_whole_cents_survive_being_shown(cents: int) -> None:
    assert parse_usd(format_usd(cents * 10_000)) == cents * 10_000


@given(st.floats(0, 10**7), MICROS)
def test_cost_is_never_less_than_owed_and_less_than_a_micro_dollar_more(seconds: float, rate: int) -> None:
    exact = Decimal(repr(seconds)) * rate / 3600
    assert 0 <= cost_usd_micros(seconds, rate) - exact < 1 + Decimal("1e-9")


@given(MICROS, st.integers(1, 10**9))
def test_what_is_affordable_costs_no_more(usd_micros: int, rate: int) -> None:
    seconds = affordable_s(usd_micros, rate)
    assert cost_usd_micros(seconds * (1 - 1e-12), rate) <= usd_micros + 1


def test_an_hour_costs_the_price() -> None:
    assert cost_usd_micros(3600, 1_290_000) == 1_290_000
    assert cost_usd_micros(0.001, 1) == 1  # a part of a micro-dollar is owed
    assert cost_usd_micros(0, 1_290_000) == 0
    assert to_usd(1_290_000) == 1.29


@pytest.mark.parametrize(("seconds", "rate"), [(-1, 5), (1, -5)])
def test_nothing_costs_less_than_nothing(seconds: float, rate: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        cost_usd_micros(seconds, rate)


@pytest.mark.parametrize("rate", [0, -1])
def test_an_unknown_price_buys_nothing(rate: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        affordable_s(1, rate)
