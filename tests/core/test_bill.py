"""What is charged: machine time by the machines' own records, at the price of the place; each kind by its name."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import ENDED, SECOND, START, World

from patron_core.errors import Unavailable
from patron_core.estimate import estimate
from patron_core.estimate.wall import MOST_LOST_S
from patron_core.executors import skypilot
from patron_core.executors.base import Observation, ObservedStatus
from patron_core.executors.fake import Script
from patron_core.executors.records import Records
from patron_core.executors.sky_view import UNSEEN_S, observe_job
from patron_core.lifecycle import apply, bill, holds
from patron_core.lifecycle.workload import check_spec
from patron_core.machines.target import Target
from patron_core.market import transfer
from patron_core.prices import Price
from patron_core.states import RunState
from patron_core.store import attempts, ledger
from patron_core.store.records import Attempt
from trainer.contract.devices import find_device

CHEAP, DEAR = "gcp/us-central1/us-central1-a", "gcp/us-east1/us-east1-b"


def row(place: str, hourly: int) -> dict[str, Any]:
    return {**dict(zip(("cloud", "region", "zone"), place.split("/"), strict=True)), "usd_micros_per_hour": hourly}


def rented(hourly: int = 4_000_000, **changes: Any) -> Attempt:
    price = {"machine": {"spot": True}, "market": [row(CHEAP, 3_000_000), row(DEAR, 4_000_000)]}
    values: dict[str, Any] = {
        "id": "r-train-1", "run_id": "r", "number": 1, "kind": "train", "executor": "sky", "state": "submitted",
        "handle": None, "usd_micros_per_hour": hourly, "price": price, "deadline_s": None, "stop_cause": None,
        "control_key": None,
        "stop_asked_at": None, "started_at": START, "ended_at": None, "charged_s": 0.0, "charged_usd_micros": 0,
        "reason": None, "exit_code": None, "evidence": {}, "created_at": START,
    }  # fmt: skip
    return Attempt(**values | changes)


def start(elapsed_s: float, place: str = "", *, ended: bool = False, at: float = START) -> dict[str, Any]:
    return {"elapsed_s": elapsed_s, "at": at, "ended": ended, "exit_code": 0 if ended else None, "place": place}


def job(status: str, duration_s: float, **more: Any) -> dict[str, Any]:
    return {"job_id": 1, "status": status, "job_duration": duration_s, **more}


def test_each_start_costs_what_its_zone_costs() -> None:
    seen = observe_job(job("RUNNING", 7300), [start(3600, CHEAP), start(1800, DEAR), start(360)])
    # an hour at 3 dollars, half an hour at 4, and six minutes in an unknown place at the dearest that was allowed
    assert bill.owed(rented(), seen) == {"charge": 3_000_000 + 2_000_000 + 400_000}


def test_a_zone_that_nobody_named_or_that_costs_more_than_was_held_is_charged_at_the_price_that_was_held() -> None:
    elsewhere = observe_job(job("RUNNING", 0), [start(3600, "aws/us-east-1/us-east-1a")])
    assert bill.owed(rented(), elsewhere)["charge"] == 4_000_000
    assert bill.usd_micros_per_hour_in(rented(3_500_000), DEAR) == 3_500_000
    assert bill.usd_micros_per_hour_in(rented(), "GCP/US-Central1") == 3_000_000  # SkyPilot tells no zone


def test_what_a_record_says_beyond_what_has_passed_is_not_charged() -> None:
    seen = observe_job(job("RUNNING", 0), [start(7200, CHEAP)])
    assert bill.machine_usd_micros(rented(), 3600, seen.evidence) == 3_000_000


@pytest.mark.parametrize("status", ["RUNNING", "RECOVERING"])
def test_minutes_without_a_machine_are_not_on_the_bill(status: str) -> None:
    """SkyPilot's server was dead for two minutes, and its count went on; so did the machine's own, or it did not."""
    seen = observe_job(job(status, 220), [start(100)])
    assert seen.uptime_s == 100
    assert observe_job(job(status, 220), [start(219)]).uptime_s == 219  # the record is seen: it is charged by it


def test_a_machine_without_a_last_word_is_charged_a_bounded_stretch() -> None:
    assert observe_job(job("FAILED", 110), [start(100)]).uptime_s == 110
    assert observe_job(job("FAILED", 4000), [start(100)]).uptime_s == 100 + UNSEEN_S
    assert observe_job(job("CANCELLED", 4000), []).uptime_s == UNSEEN_S
    assert observe_job(job("SUCCEEDED", 4000), [start(100, ended=True)]).uptime_s == 100


def test_machines_are_charged_by_their_records_while_skypilot_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    records = Records(str(tmp_path), "r-train-1")
    records.write_start(1, start(77, CHEAP))

    class Away:
        def job(self, *_: Any, **__: Any) -> None:
            raise Unavailable("no answer", next="sky api status")

    monkeypatch.setattr(skypilot, "_watch", Away())
    handle = {"job_id": 1, "key": "r-train-1", "run_dir": str(tmp_path)}
    seen = skypilot.SkyExecutor().poll(handle)
    assert (seen.status, seen.uptime_s, seen.evidence["machine_s"]) == (ObservedStatus.UNREACHABLE, 77, {CHEAP: 77})


def test_a_machine_that_is_not_heard_of_is_counted_with_though_not_charged() -> None:
    late = observe_job(job("RUNNING", 900), [start(100, at=START)])
    assert bill.unheard_s(late, now=START + 70) == 10.0
    assert bill.unheard_s(late, now=START + 1e6) == 800.0  # never more than SkyPilot has seen
    assert bill.unheard_s(observe_job(job("RUNNING", 100), [start(100, at=START)]), now=START + 1e6) == 0.0
    assert bill.unheard_s(Observation(status=ObservedStatus.RUNNING, uptime_s=5.0), now=START) == 0.0


@pytest.fixture
def sky(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Its machines are rented: a run's quote says so."""
    local = Target.quote
    extra = {"machine": {"accelerator": "A100", "spot": True}}
    monkeypatch.setattr(Target, "quote", lambda self, **kwargs: local(self, **kwargs) | extra)
    return world


def test_the_end_of_a_machine_is_held_and_charged_under_its_own_name(sky: World) -> None:
    sky.machine.script(ENDED)
    run = sky.launched(held_s=1000)
    sky.run_for(120)
    assert sky.state(run) is RunState.SUCCEEDED
    money = ledger.run_money(sky.store, run.id)
    teardown = round(holds.TEARDOWN_S) * SECOND
    assert money.by_kind_usd_micros == {"charge": 100 * SECOND, "teardown": teardown}
    assert (money.charged_usd_micros, money.held_usd_micros) == (100 * SECOND + teardown, 0)
    assert attempts.for_run(sky.store, run.id)[-1].charged_usd_micros == money.charged_usd_micros


def test_a_machine_that_was_taken_away_has_no_end_to_pay_for(sky: World) -> None:
    sky.machine.script(Script(run_s=100, evidence={"starts": [{"ended": True, "told": True}]}))
    run = sky.launched(held_s=1000)
    sky.run_for(120)
    assert ledger.run_money(sky.store, run.id).by_kind_usd_micros == {"charge": 100 * SECOND}


def test_a_hold_is_never_exceeded_by_the_end_of_a_machine(sky: World) -> None:
    sky.machine.script(Script(run_s=5000))
    run = sky.launched(held_s=300)
    sky.run_for(400)
    money = ledger.run_money(sky.store, run.id)
    assert sky.state(run) is RunState.PAUSED
    assert money.by_kind_usd_micros["teardown"] == holds.TEARDOWN_S * SECOND  # it was set aside
    assert money.charged_usd_micros <= money.funded_usd_micros
    assert money.by_kind_usd_micros["charge"] >= 180 * SECOND


def test_a_laptop_that_sleeps_eats_no_hold(world: World) -> None:
    """Its supervisor wakes after a night; the machine worked for ten seconds."""
    world.machine.script(ENDED)
    run = world.launched(held_s=1000)
    world.tick(10)
    world.now += 30_000
    world.tick()
    assert world.state(run) is RunState.RUNNING
    assert world.charged(run) <= 10 * SECOND
    world.run_for(110)
    assert (world.state(run), world.charged(run)) == (RunState.SUCCEEDED, 100 * SECOND)


@pytest.mark.parametrize(
    ("machine", "bucket", "micros_per_gb"),
    [
        ("gcp/us-central1/us-central1-a", "gcp/us-central1", 0),
        ("gcp/us-east1", "gcp/us-central1", 20_000),
        ("gcp/asia-southeast1", "gcp/us-central1", 80_000),
        ("gcp/us-central1", "gcp", 20_000),  # its region is not known: taken for another
        ("aws/us-east-1", "gcp/us-central1", 90_000),
        ("gcp/us-central1", "cloudflare", 120_000),
        ("lambda/us-west-1", "aws/us-east-1", 0),
        ("slurm/lab/gpu", "aws", 0),
        ("unknown", "gcp/us-central1", 120_000),
    ],
)
def test_egress_by_cloud_and_region(machine: str, bucket: str, micros_per_gb: int) -> None:
    assert transfer.egress_usd_micros_per_gb(transfer.Place.of(machine), transfer.Place.of(bucket)) == micros_per_gb


def test_where_a_bucket_is() -> None:
    assert transfer.bucket_place("/home/ada/runs", {}) is None
    assert str(transfer.bucket_place("gs://b/runs", {})) == "gcp"
    assert str(transfer.bucket_place("s3://b/runs", {"AWS_REGION": "us-east-1"})) == "aws/us-east-1"
    r2 = {"AWS_ENDPOINT_URL": "https://x.r2.cloudflarestorage.com"}
    assert str(transfer.bucket_place("s3://b/runs", r2)) == "cloudflare"
    assert str(transfer.bucket_place("gs://b/runs", {"PATRON_RUNS_REGION": "gcp/us-east1"})) == "gcp/us-east1"


def test_a_d12_checkpoint_to_another_cloud_is_not_saved_every_38_seconds() -> None:
    """2 GB each 38 s is $17 an hour of egress beside $3 of machine; what is chosen costs less than a fifth of it."""
    spec = check_spec({"depth": 12, "data": "climbmix"})
    price = Price(device="H100", usd_micros_per_hour=3_000_000, source="given", as_of="2026-01-01", spot=True)
    here = estimate(spec, find_device("H100"), price=price)
    away = estimate(spec, find_device("H100"), price=price, egress_usd_micros_per_gb=90_000)
    assert 1.5e9 < here.checkpoint_bytes < 3e9
    assert transfer.move_usd_micros(here.checkpoint_bytes * 3600 / 38, 90_000) > 12_000_000
    an_hour = transfer.move_usd_micros(away.checkpoint_bytes * 3600 / away.checkpoint_interval_s, 90_000)
    assert an_hour < 600_000
    assert here.checkpoint_interval_s < 200 < away.checkpoint_interval_s <= MOST_LOST_S


TERMS = transfer.terms(
    transfer.Place.of("gcp/us-central1"), [CHEAP, DEAR, "aws/us-east-1"], checkpoint_bytes=2e9, interval_s=1800.0
)


def test_egress_and_storage_are_charged_by_what_went_up_and_what_is_there() -> None:
    attempt = rented(price={"machine": {"spot": True}, "transfer": TERMS})
    assert TERMS["usd_micros_per_hour"] == 2 * 2 * 90_000
    evidence = {"uploaded_bytes": 10e9, "stored_bytes": 6e9}
    ended = Observation(status=ObservedStatus.ENDED, exit_code=0, uptime_s=3600.0, evidence=evidence)
    assert bill.owed(attempt, ended) == {
        "charge": 4_000_000, "teardown": 66_667, "egress": 900_000,
        "storage": -int(-6 * 26_000 / 720 // 1),
    }  # fmt: skip
    at_home = {**evidence, "machine_s": {CHEAP: 3600.0}}
    assert (
        bill.owed(attempt, Observation(status=ObservedStatus.ENDED, uptime_s=3600.0, evidence=at_home))["egress"] == 0
    )
    running = Observation(status=ObservedStatus.RUNNING, uptime_s=3600.0, evidence=evidence)
    assert set(bill.owed(attempt, running)) == {"charge"}


def test_what_goes_up_meanwhile_is_set_aside_from_the_time_to_train_in() -> None:
    """Whatever part of the hold is used up, what is left pays for machine and egress of the rest."""
    attempt = rented(price={"machine": {"spot": True}, "transfer": TERMS})
    fixed = TERMS["set_aside_usd_micros"] + 66_667
    for hold, uptime_s in ((10_000_000, 0.0), (5_000_000, 3600.0), (100_000, 3600.0)):
        aside = bill.set_aside_usd_micros(attempt, hold, uptime_s)
        left_s = max(0, hold - aside) * 3600 / attempt.usd_micros_per_hour
        moved = TERMS["usd_micros_per_hour"] * (uptime_s + left_s) / 3600
        assert max(0, hold - aside) == 0 or hold - aside + moved + fixed <= hold + 5


def test_the_books_of_a_run_over_a_bucket_name_every_kind(sky: World, monkeypatch: pytest.MonkeyPatch) -> None:
    quote = Target.quote
    terms = transfer.terms(transfer.Place.of("aws/us-east-1"), ["gcp/us-east1"], checkpoint_bytes=1e6, interval_s=60.0)
    monkeypatch.setattr(Target, "quote", lambda self, **kwargs: quote(self, **kwargs) | {"transfer": terms})
    monkeypatch.setattr(apply, "_moved", lambda *_: {"uploaded_bytes": 1e9, "stored_bytes": 5e9})
    sky.machine.script(ENDED)
    run = sky.launched(held_s=1000)
    sky.run_for(120)
    money = ledger.run_money(sky.store, run.id)
    assert sky.state(run) is RunState.SUCCEEDED
    assert set(money.by_kind_usd_micros) == {"charge", "teardown", "egress", "storage"}
    assert money.by_kind_usd_micros["egress"] == 120_000
    assert money.charged_usd_micros <= money.funded_usd_micros
    assert ledger.verify(sky.store) == []
