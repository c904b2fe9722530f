"""The benches of the trainer: that they measure what they say, without a checkout of upstream and without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import gpu
from tests.bench import training as bench
from tests.bench.jobs import ROOT, Job, JobError, run_job
from tests.bench.upstream import UpstreamRecipe, upstream_name
from trainer.contract.recipe import make_recipe

TOY = [
    "--depth", "1", "--sequence-len", "64", "--vocab-size", "512", "--batch-tokens", "512", "--device-batch-size", "4",
    "--dtype", "float32", "--no-compile", "--steps", "2",
]  # fmt: skip


def test_as_a_script_it_says_why_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    command = [sys.executable, "tests/bench/training.py", "--vs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "no nanochat/gpt.py" in json.loads(done.stdout)["skipped"]


def test_our_side_is_the_real_loop_measured_in_rounds() -> None:
    measured = bench.measure(bench.parse(["--only-ours", *TOY]))
    ours = measured["ours"]
    assert measured["ratio"] == {}
    assert len(ours["tokens_per_s_rounds"]) == 2
    assert min(ours["tokens_per_s_rounds"]) <= ours["tokens_per_s"] <= max(ours["tokens_per_s_rounds"])
    assert ours["share_of_gemm_peak"] > 0  # of a peak that was measured, too low where others are at work
    assert ours["first_start_s"] > ours["first_step_s"] > 0
    assert ours["peak_memory_bytes"] > 50e6


def test_a_job_that_fails_says_what_its_process_said() -> None:
    job = bench.jobs(bench.parse(["--only-ours", *TOY, "--vocab-size", "7"]))["ours"]
    with pytest.raises(JobError, match=r"ours, depth 1, float32: exit 1(.|\n)*vocab_size: 7; allowed 272"):
        run_job(job)


@pytest.mark.parametrize("depth", [4, 12])
def test_both_sides_follow_the_same_recipe_where_warm_up_is_not_shortened(depth: int) -> None:
    """Two independent spellings of one recipe."""
    batch_tokens = 2**15
    ours = make_recipe(depth, batch_tokens=batch_tokens)
    theirs = UpstreamRecipe.shipped(
        scaling_params=ours.num_params.scaling,
        reference_scaling_params=make_recipe(12).num_params.scaling,
        batch_tokens=batch_tokens,
        num_steps=ours.num_steps,
    )
    rates = theirs.peak_rates()
    assert ours.learning_rates.matrices == pytest.approx(rates["matrix_lr"])
    assert ours.learning_rates.x0 == pytest.approx(rates["scalar_lr"])
    assert ours.schedule.weight_decay == pytest.approx(rates["weight_decay"])
    for step in range(0, ours.num_steps, 7):
        assert ours.schedule.lr_multiplier(step) == pytest.approx(theirs.lr_multiplier(step))
        assert ours.schedule.muon_momentum(step) == pytest.approx(theirs.momentum(step))
        assert ours.schedule.muon_weight_decay(step) == pytest.approx(theirs.decay(step))


def test_parameters_keep_their_place_under_upstreams_names() -> None:
    assert upstream_name("wte.weight") == "transformer.wte.weight"
    assert upstream_name("blocks.3.attention.query.weight") == "transformer.h.3.attn.c_q.weight"
    assert upstream_name("blocks.0.mlp_out.weight") == "transformer.h.0.mlp.c_proj.weight"
    assert upstream_name("value_embeds.1.weight") == "value_embeds.1.weight"


def test_the_gpu_table_works_from_end_to_end_at_toy_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gpu.main(["--smoke", "--out", str(tmp_path / "table.json")])
    table = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert table["smoke"]
    ours, theirs = table["rows"]
    assert ours["status"] == "measured"
    assert ours["mfu"] > 0
    assert ours["eval_ratio"] > 0
    assert theirs["status"] == "not measured"
    assert "--vs" in theirs["reason"]
    assert table["comparison"] == []


def gpu_rows(run: gpu.Run, *, budget_s: float, clock_s: list[float], no_gpu: str | None = None) -> list[dict[str, Any]]:
    jobs = gpu.jobs(gpu.parse(["--vs", "/checkout"]))
    problems = {"ours": no_gpu, "upstream": None}
    return gpu.measure_rows(jobs, run, end=budget_s, problems=problems, clock=lambda: clock_s[0])


def test_the_gpu_table_stops_in_time_and_names_what_it_left_out() -> None:
    clock_s = [0.0]

    def run(job: Job, timeout_s: float) -> dict[str, Any]:
        assert timeout_s == 290 - clock_s[0]
        clock_s[0] += 40 if job.side == "ours" else 90
        speed = 2e5 if job.side == "ours" else 1e5
        return {
            "flops_per_token": 1e9, "peak_flops": 1e15, "tokens_per_s": speed, "step_s": 2.0, "first_step_s": 30.0,
            "peak_memory_bytes": 10**9,
        }  # fmt: skip

    rows = gpu_rows(run, budget_s=290, clock_s=clock_s)
    assert [row["status"] for row in rows] == ["measured"] * 4 + ["not measured"] * 4
    assert [row["side"] for row in rows[:2]] == ["ours", "upstream"]
    assert rows[0]["mfu"] == pytest.approx(0.2)
    assert rows[0]["compile_s"] == 28
    assert rows[4]["reason"] == "30 s of the budget were left and such a run takes 40 s"
    assert [pair["speed_ratio"] for pair in gpu.compare(rows)] == [2.0, 2.0]


def test_without_a_gpu_every_row_says_so_and_one_that_fails_does_not_end_the_table() -> None:
    def out_of_memory(job: Job, _timeout_s: float) -> dict[str, Any]:
        raise JobError(f"{job.side}: out of memory")

    rows = gpu_rows(out_of_memory, budget_s=1000, clock_s=[0.0])
    assert {row["reason"] for row in rows} == {"ours: out of memory", "upstream: out of memory"}
    rows = gpu_rows(out_of_memory, budget_s=1000, clock_s=[0.0], no_gpu="no card")
    assert {row["reason"] for row in rows} == {"no card"}
