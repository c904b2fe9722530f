"""Prices: a dated fallback for every device, and no belief in the impossible."""

from dataclasses import replace

import pytest

from patron_core.errors import InvalidInput, Refused
from patron_core.prices import Price, checked_price, fallback_price, local_price, plausible_usd_micros_per_hour
from trainer.contract.devices import DEVICES


def price(device: str, usd_micros_per_hour) -> Price:
    return Price(device=device, usd_micros_per_hour=usd_micros_per_hour, source="skypilot catalog", as_of="2026-07-01")


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_has_a_dated_fallback(device):
    on_demand, spot = fallback_price(device, spot=False), fallback_price(device, spot=True)
    assert 0 < spot.usd_micros_per_hour < on_demand.usd_micros_per_hour
    for found in (on_demand, spot):
        assert found.is_fallback
        assert checked_price(found) is found
        assert found.as_of in found.sentence()
        assert "fallback" in found.sentence()
        assert isinstance(found.to_dict()["usd_micros_per_hour"], int)


def test_fallback_knows_skypilots_names():
    assert fallback_price("A100", spot=False).device == "A100-40GB"
    assert fallback_price("NVIDIA H100 80GB HBM3", spot=False).device == "H100"


def test_unknown_device_has_no_fallback():
    with pytest.raises(Refused, match="V100") as refused:
        fallback_price("V100", spot=True)
    assert "--usd-per-hour" in refused.value.next


@pytest.mark.parametrize(
    ("device", "hourly"),
    [("B200", 10_000), ("H100", 0), ("H100", -1), ("A100-40GB", 1), ("L4", 700_000_000), ("H100", 3.4), ("H100", None)],
)
def test_implausible_prices_are_refused(device, hourly):
    with pytest.raises(Refused, match=device) as refused:
        checked_price(price(device, hourly))
    assert refused.value.next


def test_missing_price_is_refused():
    with pytest.raises(Refused, match="never counts as zero"):
        checked_price(None, device="H100")


def test_refusal_shows_the_plausible_range():
    with pytest.raises(Refused, match=r"\$0\.01 an hour; plausible is \$2\.04 to \$170\.00"):
        checked_price(price("B200", 10_000))


@pytest.mark.parametrize("device", DEVICES)
def test_the_range_holds_real_markets(device):
    """Spot on small clouds has been seen at a quarter of a large one's."""
    for spot in (True, False):
        low, high = plausible_usd_micros_per_hour(device, spot=spot)
        assert low < 0.25 * fallback_price(device, spot=spot).usd_micros_per_hour
        assert high > 2 * fallback_price(device, spot=False).usd_micros_per_hour


def test_on_demand_has_a_floor_of_its_own():
    """An H100 at 41 cents may be a spot market in a bad hour; nobody sells it on demand for that."""
    assert checked_price(replace(price("H100", 410_000), spot=True))
    with pytest.raises(Refused, match=r"plausible is \$1\.32 to"):
        checked_price(price("H100", 410_000))


def test_local_price_may_be_tiny_and_not_zero():
    assert local_price(1, as_of="2026-07-01").usd_micros_per_hour == 1
    with pytest.raises(Refused):
        local_price(0, as_of="2026-07-01")


def test_refusals_have_the_common_shape():
    with pytest.raises(Refused) as refused:
        checked_price(price("H100", 0))
    assert set(refused.value.to_dict()["error"]) == {"code", "message", "next", "retryable"}
    assert not isinstance(refused.value, InvalidInput)
