"""Placement: the cheapest that fits, a reason for each that does not, and expected costs that simulation confirms."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from bench.spot_traces import exponential
from hypothesis import given, settings
from hypothesis import strategies as st

from patron_core.errors import InvalidInput, Refused
from patron_core.estimate import estimate
from patron_core.interval import Interval
from patron_core.market.placement import Placement, choose, rank
from patron_core.market.simulate import simulate
from patron_core.market.spot_cost import ASSUMED_RATE, ReclaimRate, spot_time
from patron_core.market.spot_policy import Terms, choose_machine
from patron_core.market.transfer import Place
from patron_core.market.ways import Limits, Way, Work, work_of
from patron_core.prices import Price, fallback_price
from trainer.contract.devices import DEVICES
from trainer.contract.spec import TrainSpec

HOUR = 3600.0


def work(device: str = "A100-40GB", hours: float = 1.0, **changes) -> Work:
    given = {
        "device": device,
        "startup_s": Interval(120, 240, 480),
        "work_s": Interval(0.9 * hours * HOUR, hours * HOUR, 1.15 * hours * HOUR),
        "stall_s": 2.0,
        "interval_s": 240.0,
        "fits_memory": True,
        "sentence": "Needs 50.0 to 60.0 GB of the 37.0 GB usable.",
    }
    return Work(**(given | changes))


def price(usd: float, device: str = "A100-40GB", *, spot: bool = False, where: str = "gcp/us-central1", gpus: int = 1):
    cloud, region = where.split("/")
    return Price(
        device=device,
        usd_micros_per_hour=round(1e6 * usd),
        source="skypilot catalog",
        as_of="2026-11-25",
        spot=spot,
        cloud=cloud,
        region=region,
        num_gpus=gpus,
    )


# ---- expected time on spot


def by_hand(rng: random.Random, *, work_s, startup_s, restart_s, interval_s, stall_s, wait_s, reclaims_per_hour):
    """One run, reclaim by reclaim: (paid, wall, reclaims)."""
    mean_s = 3600 / reclaims_per_hour
    paid = waited = done = 0.0
    reclaims = 0
    left, start_s = rng.expovariate(1 / mean_s), startup_s
    started = False
    while True:
        segment = min(interval_s, work_s - done)
        needs = stall_s * segment / interval_s + segment if started else start_s
        if left < needs:
            paid += left
            waited += wait_s
            reclaims += 1
            left = rng.expovariate(1 / mean_s)
            if started:
                start_s = restart_s
            started = False
            continue
        left -= needs
        paid += needs
        if not started:
            started = True
            continue
        done += segment
        if done >= work_s - 1e-6:
            return paid, paid + waited, reclaims


@pytest.mark.parametrize(
    "case",
    [
        {"work_s": 4 * HOUR, "restart_s": 300, "interval_s": 300, "stall_s": 5, "wait_s": 0, "reclaims_per_hour": 0.5},
        {"work_s": 2 * HOUR, "restart_s": 600, "interval_s": 900, "stall_s": 30, "wait_s": 400, "reclaims_per_hour": 2},
        {"work_s": 300, "restart_s": 100, "interval_s": 60, "stall_s": 1, "wait_s": 50, "reclaims_per_hour": 4},
    ],
)
def test_expected_time_on_spot_is_what_a_simulation_finds(case) -> None:
    """The formula restarts a first start that was cut short as a first start, and later ones as restarts."""
    rng = random.Random(7)
    case = case | {"startup_s": case["restart_s"]}
    runs = [by_hand(rng, **case) for _ in range(4000)]
    paid, wall, reclaims = (sum(values) / len(runs) for values in zip(*runs, strict=True))
    expected = spot_time(**case)
    assert expected.paid_s == pytest.approx(paid, rel=0.02)
    assert expected.wall_s == pytest.approx(wall, rel=0.02)
    assert expected.reclaims == pytest.approx(reclaims, rel=0.05)


def test_youngs_interval_is_near_the_best_one() -> None:
    def paid_s(interval_s: float) -> float:
        return spot_time(
            work_s=10 * HOUR,
            startup_s=300,
            restart_s=300,
            interval_s=interval_s,
            stall_s=10,
            wait_s=0,
            reclaims_per_hour=0.5,
        ).paid_s

    young = math.sqrt(2 * 10 * 2 * HOUR)
    best = min(paid_s(i) for i in range(10, 4000, 5))
    assert paid_s(young) < 1.001 * best
    assert paid_s(young / 5) > 1.01 * best
    assert paid_s(5 * young) > 1.01 * best


@given(
    hours=st.floats(0.01, 100),
    restart=st.floats(0, 3600),
    interval=st.floats(1, 7200),
    stall=st.floats(0, 300),
    rate=st.floats(0, 30),
)
def test_time_on_spot_is_never_less_than_undisturbed_and_grows_with_the_rate(hours, restart, interval, stall, rate):
    given_ = {
        "work_s": hours * HOUR,
        "startup_s": restart,
        "restart_s": restart,
        "interval_s": interval,
        "stall_s": stall,
        "wait_s": 60.0,
    }
    quiet, now, worse = (spot_time(**given_, reclaims_per_hour=r) for r in (0.0, rate, 2 * rate))
    assert quiet.reclaims == 0
    assert quiet.paid_s <= now.paid_s * (1 + 1e-9)
    assert now.paid_s <= worse.paid_s * (1 + 1e-9)
    assert now.wall_s >= now.paid_s
    assert now.lost_s >= 0
    if math.isfinite(now.paid_s):
        parts = quiet.paid_s + now.restart_s + now.lost_s
        assert parts == pytest.approx(now.paid_s, rel=1e-6)


# ---- choosing


def test_spot_wins_when_it_is_cheap_and_on_demand_when_it_is_not() -> None:
    cheap = choose({"A100-40GB": work()}, [price(3.0), price(1.0, spot=True)])
    assert cheap.chosen.way is Way.SPOT
    assert cheap.chosen.cost_usd_micros > 1_000_000  # more than an hour: starts and reclaims are counted
    assert [o.way for o in cheap.alternatives] == [Way.ON_DEMAND]
    assert cheap.alternatives[0].why_not.startswith("Costs $")
    dear = choose({"A100-40GB": work()}, [price(3.0), price(2.98, spot=True)])
    assert dear.chosen.way is Way.ON_DEMAND
    often = {"gcp": ReclaimRate(mid=10.0, high=12.0, source="seen this week")}
    rough = choose({"A100-40GB": work()}, [price(3.0), price(1.5, spot=True)], rates=often)
    assert rough.chosen.way is Way.ON_DEMAND
    assert choose({"A100-40GB": work()}, [price(3.0), price(1.5, spot=True)]).chosen.way is Way.SPOT


def test_a_faster_device_may_be_the_cheaper_one() -> None:
    works = {"A100-40GB": work(hours=2.0), "H100": work("H100", hours=0.9)}
    found = choose(works, [price(3.7), price(6.0, "H100")])
    assert found.chosen.price.device == "H100"
    assert "slower" in found.alternatives[0].why_not


def test_each_refusal_has_its_reason_in_one_sentence() -> None:
    works = {
        "A100-40GB": work(fits_memory=False),
        "H100": work("H100", hours=1.0),
        "L4": work("L4", hours=20.0),
        "A100-80GB": work("A100-80GB", hours=2.0),
    }
    offers = [
        price(1.0),
        price(9.0, "H100"),
        price(80.0, "H100", gpus=8, where="aws/us-east-1"),
        price(14.0, "H100", where="aws/us-east-1"),
        price(0.7, "L4"),
        price(0.3, "L4", spot=True, where="aws/us-east-1"),
        price(6.0, "A100-80GB"),
    ]
    limits = Limits(deadline_s=4 * HOUR, max_usd_micros_per_hour=10_000_000, budget_usd_micros=10_600_000)
    found = choose(works, offers, limits=limits)
    assert found.chosen.price.device == "H100"
    said = {(o.price.device, o.price.num_gpus, o.price.cloud): (o.refused_for, o.why_not) for o in found.refused}
    assert said["A100-40GB", 1, "gcp"] == ("memory", "Needs 50.0 to 60.0 GB of the 37.0 GB usable.")
    assert said["H100", 8, "aws"] == ("gpus", "Sold with 8 GPUs a machine, and the run uses 1.")
    assert said["H100", 1, "aws"] == ("hourly cap", "Costs $14.00 an hour on demand, above the cap of $10.00.")
    assert said["L4", 1, "gcp"][0] == "deadline"
    assert "4.0 h" in said["L4", 1, "gcp"][1] or "240 min" in said["L4", 1, "gcp"][1]
    assert "no on-demand machine there" in said["L4", 1, "aws"][1]
    assert said["A100-80GB", 1, "gcp"][0] == "budget"
    assert all(reason and sentence.endswith(".") for reason, sentence in said.values())
    assert found.to_dict()["chosen"]["why_not"] == ""


def test_nothing_fits_says_how_many_of_what_and_what_to_change() -> None:
    with pytest.raises(Refused, match="none of 2 offers fits: 2 for hourly cap") as refused:
        choose({"H100": work("H100")}, [price(9, "H100"), price(8, "H100")], limits=Limits(max_usd_micros_per_hour=1))
    assert "--max-usd-per-hour" in refused.value.next
    with pytest.raises(Refused, match="no price is known"):
        choose({"H100": work("H100")}, [price(9)])
    with pytest.raises(InvalidInput, match="deadline_s"):
        Limits(deadline_s=0.0)


def test_the_cap_holds_for_what_spot_falls_back_on() -> None:
    offers = [price(3.0), price(1.0, spot=True)]
    limits = Limits(deadline_s=3 * HOUR, max_usd_micros_per_hour=2_000_000)
    found = choose({"A100-40GB": work()}, offers, limits=limits)
    assert found.chosen.way is Way.SPOT  # nothing under the cap to end on, and reclaims included it makes three hours
    assert found.chosen.fallback is None
    assert [o.refused_for for o in found.refused] == ["hourly cap"]


def test_with_a_deadline_spot_ends_on_demand_in_its_own_region_if_it_can() -> None:
    offers = [
        price(3.0, where="gcp/europe-west4"),
        price(3.2),
        price(1.0, spot=True),
        price(0.1, where="aws/us-east-1"),
    ]
    found = rank({"A100-40GB": work()}, offers, limits=Limits(deadline_s=2 * HOUR, spot=True))
    best = found[0]
    assert best.way is Way.SPOT_THEN_ON_DEMAND
    assert best.fallback is not None
    assert best.fallback.region == "us-central1"
    assert best.longest_s <= 2 * HOUR
    assert {o.refused_for for o in found[1:]} == {"kind"}


@settings(max_examples=100, deadline=None)
@given(
    spot_usd=st.floats(0.5, 4.0),
    deadline_h=st.floats(1.5, 10.0),
    hours=st.floats(0.2, 1.0),
)
def test_what_is_held_is_never_less_than_what_is_expected(spot_usd, deadline_h, hours) -> None:
    options = rank(
        {"A100-40GB": work(hours=hours)},
        [price(3.0), price(spot_usd, spot=True)],
        limits=Limits(deadline_s=deadline_h * HOUR),
    )
    for option in options:
        assert option.cost_usd_micros <= option.hold_usd_micros, option


@pytest.mark.parametrize("slack", [0.15, 0.4, 1.0])
@pytest.mark.parametrize("up_h", [2.0, 6.0])
def test_the_expected_cost_is_near_the_simulated_policy(slack: float, up_h: float) -> None:
    """Against other random traces at a finer grain; within a twentieth of on-demand's cost."""
    one = work(hours=12.0, startup_s=Interval.exact(600), work_s=Interval.exact(12 * HOUR), stall_s=0.0)
    deadline_s = (1 + slack) * 12 * HOUR
    offers = [price(3.0), price(1.0, spot=True)]
    rate = {"gcp": ReclaimRate(mid=1 / up_h, high=2 / up_h, source="this test", away_s=120)}
    option = next(
        o for o in rank({one.device: one}, offers, limits=Limits(deadline_s=deadline_s), rates=rate) if o.price.spot
    )
    terms = Terms(
        work_s=12 * HOUR,
        deadline_s=deadline_s,
        restart_s=600,
        decide_every_s=60,
        loss_s=240,
        spot_price_share=1 / 3,
    )
    rng = random.Random(3)
    costs = []
    for _ in range(80):
        trace = exponential(rng, num_steps=2000, step_s=60, up_s=up_h * HOUR, down_s=120)
        outcome = simulate(choose_machine, terms, trace, step_s=60)
        assert not outcome.late
        costs.append(3.0 * outcome.cost(terms))
    simulated = sum(costs) / len(costs)
    assert option.cost_usd_micros / 1e6 == pytest.approx(simulated, abs=0.05 * 36)


# ---- from estimates


def test_an_estimate_becomes_work_and_back() -> None:
    row = estimate(TrainSpec(depth=12, data="climbmix"), DEVICES["A100-40GB"], price=fallback_price("A100", spot=False))
    one = work_of(row)
    assert one.fits_memory
    assert one.startup_s.mid + one.work_s.mid <= row.wall_s.mid
    assert one.wall_s.mid == pytest.approx(row.wall_s.mid, rel=0.02)
    on_spot = estimate(
        TrainSpec(depth=12, data="climbmix"), DEVICES["A100-40GB"], price=fallback_price("A100", spot=True)
    )
    assert work_of(on_spot) == replace(one, sentence=on_spot.sentence)  # reclaims are the market's business
    never = estimate(
        TrainSpec(depth=12, data="climbmix", checkpoint_every_s=0),
        DEVICES["H100"],
        price=fallback_price("H100", spot=True),
    )
    assert work_of(never).wall_s.mid > 0
    assert ASSUMED_RATE.high > ASSUMED_RATE.mid > 0


def test_a_machine_beside_the_bucket_beats_a_cheaper_one_whose_checkpoints_have_to_travel() -> None:
    offers = [price(3.0, where="gcp/us-central1"), price(2.8, where="aws/us-east-1")]
    big = work(checkpoint_bytes=6e9)

    def found(bucket: str | None) -> Placement:
        return choose({big.device: big}, offers, bucket=Place.of(bucket) if bucket else None)

    assert found(None).chosen.price.infra == "aws/us-east-1"
    assert found(None).chosen.egress_usd_micros == 0
    assert found("gcp/us-central1").chosen.price.infra == "gcp/us-central1"
    (away,) = found("gcp/us-central1").alternatives
    assert away.egress_usd_micros > 500_000
    assert "of it egress to the bucket" in away.sentence()
    assert away.cost_usd_micros - away.egress_usd_micros == found(None).chosen.cost_usd_micros


def test_the_hourly_cap_is_of_all_machines_together() -> None:
    limits = Limits(max_usd_micros_per_hour=6_000_000)
    (one,) = rank({"A100-40GB": work()}, [price(4.0)], limits=limits)
    (two,) = rank({"A100-40GB": work(num_nodes=2)}, [price(4.0)], limits=limits)
    assert (one.refused_for, two.refused_for) == ("", "hourly cap")
    assert "$8.00 an hour" in two.why_not
