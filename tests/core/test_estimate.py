"""Estimates against published runs, and the properties every estimate has."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patron_core import verbs
from patron_core.errors import InvalidInput, Refused
from patron_core.estimate import (
    Calibration,
    Verdict,
    compute_dtype,
    count_evals,
    estimate,
    eval_cadence,
    eval_steps,
    fit_to_budget,
)
from patron_core.estimate.wall import FP8_GAIN
from patron_core.machines.target import Target
from patron_core.prices import Price, fallback_price, local_price
from patron_core.scaling import Observation, refit
from trainer.contract.devices import DEVICES, cpu_device, find_device
from trainer.contract.footprint import memory_parts
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import TrainSpec

A100, H100 = DEVICES["A100-40GB"], DEVICES["H100"]
A100_PRICE, H100_PRICE = fallback_price("A100-40GB", spot=False), fallback_price("H100", spot=False)
LOCAL_PRICE = local_price(100_000, as_of="2026-07-01")
CPU_PROFILE = {"cores": 2, "memory_bytes": 16 * 2**30, "f32_flops": 2e11, "bf16_flops": 4e11, "native_bf16": True}
CPU = cpu_device({"cpu": CPU_PROFILE, "cuda": []})
TINY = TrainSpec(depth=2, sequence_len=256, vocab_size=4096, batch_tokens=8192, num_steps=200, eval_tokens=65536)
MINUTE = 60.0


def d10(**changes) -> TrainSpec:
    """The published depth-10 run: window L, 1500 steps of 2^19 tokens, 16 sequences a micro-batch."""
    given = {"depth": 10, "data": "climbmix", "window_pattern": "L", "num_steps": 1500, "batch_tokens": 2**19}
    return TrainSpec(**(given | {"device_batch_size": 16, "eval_every_steps": 100} | changes))


FIRST_RUN = Calibration.from_spec(
    d10(),
    device="A100-40GB",
    source="first run",
    step_s=1.82,
    eval_s=71.0,
    eval_tokens=80 * 524288,
    startup_s={"startup": 390.0},
)
PRODUCTION = Calibration.from_spec(
    d10(device_batch_size=32),
    device="A100-40GB",
    source="production run",
    step_s=1.77,
    eval_s=70.0,
    eval_tokens=80 * 524288,
    startup_s={"startup": 390.0},
)


# published runs


@pytest.mark.parametrize(
    ("calibration", "batch", "every", "minutes", "tolerance"),
    [
        (FIRST_RUN, 16, 100, 71.0, 0.01),
        (FIRST_RUN, 16, 300, 60.4, 0.03),
        (PRODUCTION, 32, 300, 55.0, 0.07),
        (PRODUCTION, 32, 250, 62.0, 0.07),
    ],
)
def test_calibrated_wall_time(calibration, batch, every, minutes, tolerance):
    spec = d10(device_batch_size=batch, eval_every_steps=every)
    made = estimate(spec, A100, price=A100_PRICE, calibration=calibration)
    assert made.wall_s.mid == pytest.approx(minutes * MINUTE, rel=tolerance)
    assert made.wall_s.low < minutes * MINUTE < made.wall_s.high


@pytest.mark.parametrize(
    ("depth", "verdict"),
    [
        (6, Verdict.TOO_SMALL),
        (8, Verdict.UNDERSIZED),
        (10, Verdict.SWEET_SPOT),
        (12, Verdict.OVER_BUDGET),
    ],
)
@pytest.mark.parametrize("spot", [False, True])
def test_one_hour_on_a100_without_a_measurement(depth, verdict, spot):
    price = fallback_price("A100", spot=spot)
    made = estimate(
        TrainSpec(depth=depth, data="climbmix"), A100, price=price, budget_s=3600, budget_usd_micros=10_000_000
    )
    assert made.verdict == verdict
    assert "60 min" in made.sentence
    assert "$10.00" in made.sentence


def test_d12_on_h100_fits_the_hour():
    spec = TrainSpec(
        depth=12, data="climbmix", num_steps=2205, batch_tokens=2**19, device_batch_size=32, window_pattern="SSSL"
    )
    made = estimate(spec, H100, price=H100_PRICE, budget_s=3600)
    assert made.verdict == Verdict.SWEET_SPOT
    assert made.step_s.mid == pytest.approx(0.96, rel=0.03)
    assert made.mfu == pytest.approx(0.42, abs=0.01)
    assert 45 * MINUTE < made.wall_s.mid < 53 * MINUTE
    assert made.val_bpb.low < 0.854 < made.val_bpb.high


@pytest.mark.parametrize(("batch", "step_s", "mfu"), [(16, 1.82, 0.53), (32, 1.77, 0.55)])
def test_step_time_of_d10_by_micro_batch(batch, step_s, mfu):
    made = estimate(d10(device_batch_size=batch), A100, price=A100_PRICE)
    assert made.step_s.mid == pytest.approx(step_s, rel=0.02)
    assert made.mfu == pytest.approx(mfu, abs=0.005)


MEASURED_PEAKS = [
    (d10(device_batch_size=16), 11.4e9),
    (d10(device_batch_size=32), 21.2e9),
    (TrainSpec(depth=12, num_steps=2205, batch_tokens=2**19, device_batch_size=32), 28.8e9),
]


@pytest.mark.parametrize(("spec", "peak_bytes"), MEASURED_PEAKS)
@pytest.mark.parametrize("chunked_head", [False, True])
def test_memory_within_15_percent(spec, peak_bytes, chunked_head):
    """Upstream keeps all logits; this trainer's head works in chunks, and comes out close at these sizes."""
    parts = memory_parts(
        spec.recipe(),
        micro_batch_size=spec.micro_batch_size(),
        item_bytes=2,
        compiled=True,
        cpu=False,
        chunked_head=chunked_head,
    )
    assert sum(parts.values()) == pytest.approx(peak_bytes, rel=0.15)


def test_128_sequences_run_out_of_40_gb():
    """64 do too with a head that keeps all logits; this trainer's takes 7 GB less there."""
    made = estimate(d10(device_batch_size=128), A100, price=A100_PRICE, budget_s=3600)
    assert made.verdict == Verdict.OUT_OF_MEMORY
    assert "device_batch_size 64" in made.sentence
    roomy = estimate(d10(device_batch_size=128), DEVICES["A100-80GB"], price=fallback_price("A100-80GB", spot=False))
    assert roomy.memory.fits


def test_measured_memory_replaces_the_formula():
    calibration = replace(FIRST_RUN, peak_memory_bytes=11_400_000_000)
    made = estimate(d10(), A100, price=A100_PRICE, calibration=calibration)
    assert made.memory.measured
    assert made.memory.peak_bytes.mid == 11.4e9
    other = estimate(d10(device_batch_size=32), A100, price=A100_PRICE, calibration=calibration)
    assert not other.memory.measured


# calibration


def test_calibration_is_exact_for_the_same_model():
    for steps in (10, 100, 3000):
        made = estimate(d10(num_steps=steps), A100, price=A100_PRICE, calibration=FIRST_RUN)
        assert made.phases_s["steps"].mid == pytest.approx(1.82 * steps)
        assert made.phases_s["evals"].mid == pytest.approx(71 * len(eval_steps(steps, 100)))


def test_calibration_reaches_other_depths_through_mfu():
    d12 = TrainSpec(depth=12, data="climbmix", num_steps=100, batch_tokens=2**19, device_batch_size=16)
    slow = replace(FIRST_RUN, step_s=2 * FIRST_RUN.step_s)
    one, two = (estimate(d12, A100, price=A100_PRICE, calibration=c) for c in (FIRST_RUN, slow))
    assert two.step_s.mid == pytest.approx(2 * one.step_s.mid)
    assert one.step_s.mid == pytest.approx(estimate(d12, A100, price=A100_PRICE).step_s.mid, rel=0.05)
    spread = one.step_s.high / one.step_s.mid
    assert spread > estimate(d10(), A100, price=A100_PRICE, calibration=FIRST_RUN).step_s.high / 1.82
    assert any("another model" in sentence for sentence in one.assumptions)


def test_calibration_of_another_device_is_not_used():
    with_it = estimate(d10(), H100, price=H100_PRICE, calibration=FIRST_RUN)
    assert with_it.calibration is None
    assert with_it.step_s == estimate(d10(), H100, price=H100_PRICE).step_s


def test_a_calibration_narrows_the_interval():
    blind = estimate(d10(), A100, price=A100_PRICE).wall_s
    seen = estimate(d10(), A100, price=A100_PRICE, calibration=FIRST_RUN).wall_s
    assert (seen.high - seen.low) / seen.mid < 0.5 * (blind.high - blind.low) / blind.mid


def test_no_name_in_the_json_says_another_thing_than_it_holds():
    """Nothing is compiled on a CPU, an expected MFU is not a measured one, and an estimate has measured nothing."""
    told = estimate(replace(TINY, compile=False), CPU, price=LOCAL_PRICE).to_dict()
    assert told["compiled"] is False
    assert "process_and_compile" in told["phases_s"]
    assert not {"compile", "mfu", "val_bpb_measured"} & told.keys()
    assert "compile" not in told["phases_s"]
    assert told["loss_law_of_this_corpus"] is True  # fitted to runs on stdlib
    assert 0 < told["mfu_expected"] < 1


def test_calibration_from_a_burst():
    burst = {
        "step_s": 0.5,
        "step_s_iqr": 0.05,
        "first_step_s": 3.5,
        "tokens_per_s": 16384.0,
        "mfu": 0.2,
        "peak_memory_bytes": 900_000_000,
        "eval_s_per_token": 1e-4,
        "eval_s": 6.5,
        "checkpoint_s": 0.4,
        "checkpoint_stall_s": 0.1,
        "data_s": 7.0,
        "tokenizer_s": 3.0,
        "start_s": 14.0,
        "steps": 8,
    }
    calibration = Calibration.from_burst(TINY, burst, device="cpu", source="dryrun r1")
    assert dict(calibration.startup_s) == {"data": 7.0, "tokenizer": 3.0, "process_and_compile": 7.0}
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    kept = calibration.to_dict() | {"startup_s": {"data": 7.0, "tokenizer": 3.0, "compile": 7.0}}  # by an older version
    assert Calibration.from_dict(kept) == calibration
    made = estimate(TINY, CPU, price=LOCAL_PRICE, calibration=calibration)
    assert made.phases_s["steps"].mid == pytest.approx(100.0)
    assert made.phases_s["provisioning"].high == 0
    assert made.memory.peak_bytes.mid == 900_000_000
    assert "dryrun r1" in " ".join(made.assumptions)
    on_cloud = replace(calibration, device="A100-40GB")
    assert estimate(TINY, A100, price=A100_PRICE, calibration=on_cloud).phases_s["provisioning"].mid > 0


# properties

devices = st.sampled_from([*DEVICES.values(), CPU, cpu_device()])
specs = st.builds(
    TrainSpec,
    depth=st.integers(1, 26),
    data=st.sampled_from(["stdlib", "climbmix", "fineweb-edu", "path:/x"]),
    num_steps=st.integers(1, 20_000),
    batch_tokens=st.sampled_from([2**15, 2**17, 2**19]),
    eval_every_steps=st.sampled_from([0, 1, 100, 250]),
    window_pattern=st.sampled_from(["L", "SSSL"]),
    checkpoint_every_steps=st.sampled_from([None, 50]),
    dtype=st.sampled_from(["auto", "float32"]),
)


def price_of(device, spot: bool = False) -> Price:
    return LOCAL_PRICE if device.is_cpu else fallback_price(device.name, spot=spot)


@settings(max_examples=150, deadline=None)
@given(spec=specs, device=devices, spot=st.booleans(), factor=st.integers(2, 5))
def test_intervals_are_ordered_and_grow_with_steps(spec, device, spot, factor):
    price = price_of(device, spot)
    one = estimate(spec, device, price=price)
    more = estimate(replace(spec, num_steps=spec.num_steps * factor), device, price=price)
    for interval in (one.wall_s, one.val_bpb, one.step_s, one.eval_s, one.memory.peak_bytes, *one.phases_s.values()):
        assert 0 <= interval.low <= interval.mid <= interval.high
    assert one.cost_usd_micros.low <= one.cost_usd_micros.mid <= one.cost_usd_micros.high == one.hold_usd_micros
    assert all(isinstance(amount, int) for amount in one.cost_usd_micros)
    for a, b in zip(one.wall_s, more.wall_s, strict=True):
        assert a < b
    for a, b in zip(one.cost_usd_micros, more.cost_usd_micros, strict=True):
        assert a <= b
    assert more.val_bpb.mid <= one.val_bpb.mid
    assert sum(phase.mid for phase in one.phases_s.values()) == pytest.approx(one.wall_s.mid)


@settings(max_examples=60, deadline=None)
@given(spec=specs, device=devices, budget_s=st.floats(60, 1e6))
def test_a_larger_model_takes_more_of_everything_but_loss(spec, device, budget_s):
    price = price_of(device)
    small = estimate(spec, device, price=price, budget_s=budget_s)
    large = estimate(replace(spec, depth=spec.depth + 4), device, price=price, budget_s=budget_s)
    assert large.num_params["total"] > small.num_params["total"]
    assert large.memory.peak_bytes.mid > small.memory.peak_bytes.mid
    assert large.phases_s["steps"].mid > small.phases_s["steps"].mid
    assert large.val_bpb.mid < small.val_bpb.mid
    json.dumps(small.to_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(spec=specs, device=devices, step_s=st.floats(0.01, 100))
def test_calibrated_intervals_are_ordered_too(spec, device, step_s):
    calibration = Calibration.from_spec(
        replace(spec, depth=8), device=device.name, source="x", step_s=step_s, eval_s=3.0, eval_tokens=1_000_000
    )
    made = estimate(spec, device, price=price_of(device), calibration=calibration)
    for interval in (made.wall_s, made.step_s, made.eval_s):
        assert 0 < interval.low <= interval.mid <= interval.high


def test_spot_pays_for_reclaims_in_the_upper_bound():
    on_demand = estimate(d10(), A100, price=A100_PRICE)
    spot = estimate(d10(), A100, price=fallback_price("A100", spot=True))
    assert on_demand.phases_s["recovery"].high == 0
    assert spot.phases_s["recovery"].low == 0
    assert spot.phases_s["recovery"].high > spot.phases_s["provisioning"].high


@pytest.mark.parametrize("every", [0, 1, 7, 100, 250, 10_000])
@pytest.mark.parametrize("steps", [1, 99, 100, 101, 1500])
def test_eval_steps(steps, every):
    listed = eval_steps(steps, every)
    assert len(listed) == count_evals(steps, every)
    assert listed[-1] == steps
    assert listed == sorted(set(listed))
    assert (listed[0] == 0) == (every > 0)


def test_eval_steps_of_the_published_runs():
    assert len(eval_steps(1500, 100)) == 16
    assert eval_steps(1500, 300) == [0, 300, 600, 900, 1200, 1500]


def test_micro_batch_agrees_with_the_spec():
    for depth in (1, 4, 10, 12):
        for rows in (1, 2, 6, 24, 256):
            spec = TrainSpec(depth=depth, batch_tokens=2048 * rows)
            assert estimate(spec, A100, price=A100_PRICE).micro_batch_size == spec.micro_batch_size()


def test_a_burst_without_a_settled_step_is_no_calibration():
    with pytest.raises(InvalidInput, match="no settled step"):
        Calibration.from_burst(TINY, {"step_s": None, "steps": 2}, device="cpu", source="dryrun r1")


def test_dtype_follows_the_machine():
    slow = cpu_device({"cpu": CPU_PROFILE | {"native_bf16": False}, "cuda": []})
    assert compute_dtype(TINY, CPU) == compute_dtype(TINY, A100) == "bfloat16"
    assert compute_dtype(TINY, slow) == "float32"
    assert compute_dtype(replace(TINY, dtype="float32"), A100) == "float32"


def test_own_runs_change_the_predicted_loss():
    recipe = d10().recipe()
    seen = Observation(num_params=recipe.num_params.scaling, num_tokens=recipe.train_tokens, val_bpb=0.92)
    before = estimate(d10(), A100, price=A100_PRICE)
    after = estimate(d10(), A100, price=A100_PRICE, fit=refit("climbmix", [seen] * 4))
    assert before.val_bpb.mid < after.val_bpb.mid < 0.925
    assert before.val_bpb.low < 0.8975 < before.val_bpb.high


# verdicts, refusals, plans


def test_without_a_budget_there_is_no_verdict():
    assert estimate(d10(), A100, price=A100_PRICE).verdict == Verdict.NO_BUDGET


def test_money_alone_is_a_budget():
    assert estimate(d10(), A100, price=A100_PRICE, budget_usd_micros=1_000_000).verdict == Verdict.OVER_BUDGET
    assert estimate(d10(), A100, price=A100_PRICE, budget_usd_micros=100_000_000).verdict == Verdict.TOO_SMALL


@pytest.mark.parametrize("budgets", [{"budget_s": 0}, {"budget_s": -1.0}, {"budget_usd_micros": 0}])
def test_empty_budgets_are_invalid(budgets):
    with pytest.raises(InvalidInput, match="above 0"):
        estimate(d10(), A100, price=A100_PRICE, **budgets)


def test_implausible_price_is_refused():
    with pytest.raises(Refused, match="plausible"):
        estimate(d10(), A100, price=replace(A100_PRICE, usd_micros_per_hour=10_000))


@pytest.mark.parametrize("depth", [6, 10, 12])
def test_fit_to_budget_fits_by_the_upper_bound_and_wastes_little(depth):
    plan = fit_to_budget(
        TrainSpec(depth=depth, data="climbmix"),
        A100,
        price=A100_PRICE,
        budget_s=3600,
        budget_usd_micros=10_000_000,
    )
    assert plan.limit == "time"
    assert 0.97 * 3600 < plan.estimate.wall_s.high <= 3600
    assert plan.estimate.phases_s["evals"].mid <= 0.11 * plan.estimate.phases_s["steps"].mid
    assert plan.estimate.verdict in (Verdict.SWEET_SPOT, Verdict.UNDERSIZED)
    assert plan.spec.recipe().num_steps == plan.estimate.recipe.num_steps
    assert TrainSpec.from_dict(plan.spec.to_dict()) == plan.spec
    assert str(plan.estimate.recipe.num_steps) in plan.sentence
    json.dumps(plan.to_dict(), allow_nan=False)


def test_fit_to_budget_by_money():
    plan = fit_to_budget(d10(), A100, price=A100_PRICE, budget_s=36000, budget_usd_micros=2_000_000)
    assert plan.limit == "money"
    assert plan.estimate.cost_usd_micros.high <= 2_000_000


def test_fit_to_budget_stops_where_the_corpus_ends():
    plan = fit_to_budget(TINY, CPU, price=LOCAL_PRICE, budget_s=86400, budget_usd_micros=None)
    assert plan.limit == "tokens"
    assert 8e6 < plan.estimate.recipe.train_tokens < 8.58e6


def test_fit_to_budget_halves_the_micro_batch_until_it_fits():
    plan = fit_to_budget(d10(device_batch_size=256), A100, price=A100_PRICE, budget_s=3600, budget_usd_micros=None)
    assert plan.spec.device_batch_size == 64
    assert plan.estimate.memory.fits


def test_fit_to_budget_uses_a_calibration_to_train_longer():
    blind = fit_to_budget(d10(), A100, price=A100_PRICE, budget_s=3600, budget_usd_micros=None)
    seen = fit_to_budget(d10(), A100, price=A100_PRICE, budget_s=3600, budget_usd_micros=None, calibration=FIRST_RUN)
    assert seen.estimate.recipe.num_steps > blind.estimate.recipe.num_steps


def test_fit_to_budget_refuses_the_impossible():
    with pytest.raises(Refused, match="depth 24") as refused:
        fit_to_budget(
            TrainSpec(depth=24, data="climbmix"), A100, price=A100_PRICE, budget_s=600, budget_usd_micros=None
        )
    assert refused.value.next
    with pytest.raises(InvalidInput):
        fit_to_budget(d10(), A100, price=A100_PRICE, budget_s=None, budget_usd_micros=None)


def test_eval_cadence_spends_at_most_a_tenth():
    for steps, step_s, eval_s in [(1500, 1.82, 71.0), (100, 0.5, 0.1), (1000, 1.0, 200.0)]:
        every = eval_cadence(steps, step_s, eval_s)
        evals = count_evals(steps, every)
        assert evals == 1 or evals * eval_s <= 0.101 * steps * step_s


# agreement with the trainer, and lightness


def test_constants_agree_with_the_trainer():
    from patron_core.estimate import wall
    from trainer.contract import footprint
    from trainer.data import tokenizer
    from trainer.model import attention, head

    assert footprint.HEAD_CHUNK_BYTES == head.CHUNK_BYTES
    for name in ("MAX_SCORED_WINDOW", "query_blocks"):
        assert getattr(footprint, name) == getattr(attention, name)
    assert wall.TOKENIZER_TRAINING_BYTES_PER_TOKEN == tokenizer.TRAIN_CHARS_PER_TOKEN


def test_import_is_light():
    heavy = "{'numpy', 'polars', 'pydantic', 'sqlalchemy', 'torch', 'mlflow', 'sky'}"
    code = f"import sys, patron_core.estimate; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["RTX4070", "L40S", "A10G", "RTX3090", "MI300X", "H100-PCIe"])
def test_a_card_beyond_the_table_is_estimated_by_its_datasheet(name):
    device, price = find_device(name), Price(device=name, usd_micros_per_hour=1_000_000, source="given", as_of="today")
    row, on_a100 = estimate(d10(), device, price=price), estimate(d10(), A100, price=A100_PRICE)
    assert row.wall_s.high / row.wall_s.low > 1.5 * on_a100.wall_s.high / on_a100.wall_s.low
    assert any("datasheet" in sentence for sentence in row.assumptions)


def test_the_published_run_on_a_card_beyond_the_table_is_inside():
    """Depth 12 on an RTX 4070, window L, micro-batch 8, steps of 65536 tokens: 55,700 tokens a second."""
    spec = TrainSpec(
        depth=12, data="climbmix", window_pattern="L", device_batch_size=8, batch_tokens=65536, num_steps=100
    )
    price = Price(device="RTX4070", usd_micros_per_hour=1_000_000, source="given", as_of="today")
    row = estimate(spec, find_device("NVIDIA GeForce RTX 4070"), price=price)
    assert row.step_s.low <= 65536 / 55_700 <= row.step_s.high
    assert row.memory.peak_bytes.low < row.device.memory_bytes  # it ran


def test_pcie_nvl_and_sxm_are_different_cards():
    price = Price(device="H100", usd_micros_per_hour=3_000_000, source="given", as_of="today")
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL", "NVIDIA H100 PCIe")
    rows = [estimate(d10(), find_device(name), price=price) for name in names]
    assert [row.device.name for row in rows] == ["H100", "H100-NVL", "H100-PCIe"]
    assert rows[0].step_s.mid < rows[1].step_s.mid < rows[2].step_s.mid
    assert rows[1].memory.usable_bytes > rows[0].memory.usable_bytes
    for sxm, pcie in (
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    ):
        fast, slow = (estimate(d10(), find_device(name), price=price) for name in (sxm, pcie))
        assert slow.device.name == f"{fast.device.name}-PCIe"
        assert slow.device.bf16_flops == fast.device.bf16_flops  # MFU is counted against the same peak
        assert 1.05 < slow.step_s.mid / fast.step_s.mid < 1.25


def test_memory_that_may_run_out_says_with_what_probability():
    roomy, tight, hopeless = (
        estimate(d10(device_batch_size=size), A100, price=A100_PRICE).memory for size in (8, 64, 128)
    )
    assert roomy.oom_probability < 0.01 < hopeless.oom_probability
    assert roomy.oom_probability < tight.oom_probability < hopeless.oom_probability
    assert hopeless.oom_probability > 0.5
    row = estimate(d10(device_batch_size=128), A100, price=A100_PRICE)
    assert "so it runs out with " in row.sentence


def test_many_ranks_divide_the_batch_and_the_optimizers_state_and_cost_what_all_machines_cost() -> None:
    spec, one_price = d10(device_batch_size=16), fallback_price("A100", spot=False)
    world = WorldSize(per_node=8, nodes=2)
    price = replace(one_price, usd_micros_per_hour=16 * one_price.usd_micros_per_hour, num_gpus=16)
    one = estimate(spec, A100, price=one_price)
    many = estimate(spec, A100, price=price, world=world)
    assert many.memory.parts_bytes["optimizer"] == pytest.approx(one.memory.parts_bytes["optimizer"] / 16)
    assert many.memory.parts_bytes["weights"] == one.memory.parts_bytes["weights"]  # whole on every rank
    assert one.step_s.mid / 16 < many.step_s.mid < one.step_s.mid / 8
    assert many.mfu < one.mfu
    assert one.cost_usd_micros.mid < many.cost_usd_micros.mid
    assert any("16 ranks" in sentence for sentence in many.assumptions)
    with pytest.raises(InvalidInput, match="cannot be divided over 3 processes"):
        estimate(spec, A100, price=one_price, world=WorldSize(per_node=3))
    # a measurement of one process says nothing of many, and one of them all says it exactly
    alone = Calibration.from_spec(spec, device=A100.name, source="one", step_s=1.0)
    assert estimate(spec, A100, price=price, world=world, calibration=alone).calibration is None
    seen = Calibration.from_spec(spec, device=A100.name, source="all", step_s=0.2, world=world)
    assert estimate(spec, A100, price=price, world=world, calibration=seen).step_s.mid == pytest.approx(0.2)


def test_processes_on_one_cpu_share_its_cores_and_its_memory() -> None:
    spec = replace(TINY, device_batch_size=1)
    one, two = (estimate(spec, CPU, price=LOCAL_PRICE, world=WorldSize(per_node=n)) for n in (1, 2))
    assert one.step_s.mid < two.step_s.mid < 1.3 * one.step_s.mid
    assert two.memory.peak_bytes.mid > 1.5 * one.memory.peak_bytes.mid


def test_a_card_without_a_listed_price_is_estimated_at_a_given_one():
    """Two GPUs cost twice what one does."""
    (row,) = verbs.estimates(
        None, depths=[8], devices=["L40S"], usd_micros_per_hour=1_500_000, world=WorldSize(per_node=2)
    )
    assert (row.price.usd_micros_per_hour, row.price.source) == (3_000_000, "given")
    with pytest.raises(Refused, match="no price is known"):
        verbs.estimates(None, depths=[8], devices=["L40S"])


def test_the_command_of_a_row_is_never_one_that_is_refused():
    """A card of a datasheet is estimated and nowhere rented; a given price goes with the command."""
    world = WorldSize(per_node=2, nodes=2)
    for name in ("L40S", "H100-PCIe", "H100-NVL", "H100", "A100-40GB"):
        (row,) = verbs.estimates(None, depths=[8], devices=[name], usd_micros_per_hour=2_000_000, world=world)
        planned = verbs.plan_of(row)
        try:
            Target(executor="sky", device=name).check()
        except InvalidInput:
            assert planned is None
        else:
            assert planned is not None
            assert planned.endswith(f"--on sky --device {name} --usd-per-hour 4 --gpus 2 --nodes 2 --yes")
    (dated,) = verbs.estimates(None, depths=[8], devices=["H100"])
    assert str(verbs.plan_of(dated)).endswith("--on sky --device H100 --yes")


def test_a_preview_is_of_the_very_target_and_asks_no_catalog():
    rented = verbs.preview(None, Target(executor="sky", device="cpu", usd_micros_per_hour=500_000), {"depth": 2})
    assert (rented.device.is_cpu, rented.price.usd_micros_per_hour, rented.local) == (True, 500_000, False)
    pair = Target(executor="sky", device="H100", num_gpus=2)
    two = verbs.preview(None, replace(pair, usd_micros_per_hour=5_000_000), {"depth": 8})
    assert (two.price.usd_micros_per_hour, two.world.ranks) == (5_000_000, 2)
    dated = verbs.preview(None, pair, {"depth": 8})
    assert dated.price.usd_micros_per_hour == 2 * H100_PRICE.usd_micros_per_hour
    with pytest.raises(InvalidInput, match="L40S is estimated by its datasheet"):
        verbs.preview(None, Target(executor="sky", device="L40S", usd_micros_per_hour=2_000_000), {"depth": 8})


def test_fp8_is_refused_where_there_is_none_and_priced_where_there_is():
    wide = replace(TrainSpec(depth=26), fp8=True)
    with pytest.raises(InvalidInput, match="A100-40GB multiplies no fp8"):
        estimate(wide, A100, price=A100_PRICE)
    plain, eight = (estimate(spec, H100, price=H100_PRICE) for spec in (replace(wide, fp8=False), wide))
    assert plain.step_s.mid / eight.step_s.mid == pytest.approx(FP8_GAIN[-1][1])
    assert eight.step_s.high / eight.step_s.low > plain.step_s.high / plain.step_s.low
    assert any("fp8 is taken for 1.17 times" in sentence for sentence in eight.assumptions)

    measured = Calibration.from_spec(wide, device="H100", source="a dryrun", step_s=1.0)
    assert estimate(wide, H100, price=H100_PRICE, calibration=measured).step_s.mid == pytest.approx(1.0)
    without = estimate(replace(wide, fp8=False), H100, price=H100_PRICE, calibration=measured)
    assert without.step_s.mid == pytest.approx(FP8_GAIN[-1][1])
