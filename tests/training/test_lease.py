"""The lease: rehearsed whole on a machine without a GPU and without the packages that are missing there; its pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from training import ROOT

from tests.bench.lease import run as lease
from tests.bench.lease.part import finite
from tests.bench.lease.profiling import HEAD, OPTIMIZER, busy_s, kernel_kinds
from tests.bench.lease.run import Entry, pack, run_all, run_part, warm

SLOW_PART = """
import subprocess, sys, time
def slow(setting, report):
    report(mfu=0.5)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report(child=child.pid)
    time.sleep(600)
def broken(setting, report):
    report(mfu=0.25)
    raise RuntimeError("no such kernel")
def wrong(setting, report):
    report(ok=False, loss_error=float("nan"))
"""


@pytest.mark.timeout(600)
def test_every_part_is_rehearsed_without_the_packages_that_are_missing(bare: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", "tests/bench/lease.sh", "--smoke", "--out", str(tmp_path), "--caches", str(tmp_path / "caches")]
    environ = os.environ | bare | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=580, check=False)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log
    parts: dict[str, Any] = json.loads((tmp_path / "lease.json").read_text())["parts"]
    assert list(parts) == [entry.name for entry in lease.PARTS]
    skipped = {name: part["skipped"] for name, part in parts.items() if part["status"] == "skipped"}
    kernels = skipped.pop("kernels", None)
    assert kernels is None or "triton is not installed" in kernels
    assert "on a GPU only" in skipped.pop("attention")
    assert set(skipped) == {"upstream_d12", "upstream_equal", "upstream_d12_full_windows"}
    assert all("--vs PATH" in reason for reason in skipped.values())
    for name in ("d12", "d12_full_windows", "d12_fp8", "d10", "d20", "d20_fp8"):
        assert parts[name]["mfu"] > 0, name
        assert parts[name]["forecast"]["step_s"]["mid"] > 0
    assert parts["d12"]["profile"]["num_kernels"] == 0, "a CPU has none"
    assert (tmp_path / "trace-d12.json.gz").stat().st_size > 1000
    assert parts["model"]["against_cpu_float32"]["bfloat16"]["ok"]
    assert parts["model"]["against_cpu_float32"]["fp8"]["ok"]
    assert parts["d20_fp8"]["job"]["fp8"]
    assert parts["runs"]["resume"]["exit_codes"] == [0, 75, 0]
    assert parts["runs"]["out_of_memory"]["exit_code"] == 76
    assert parts["checkpoint"]["write_s"] > 0
    assert parts["evaluation"]["evaluation"]["s_per_token"] > 0


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Arguments of a lease with one more module of parts."""
    package = tmp_path / "more" / "tests" / "bench" / "lease"
    package.mkdir(parents=True)
    (package / "made_up.py").write_text(SLOW_PART)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "more"))
    return lease.parse(["--smoke", "--out", str(tmp_path), "--caches", str(tmp_path / "caches")])


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started_and_keeps_what_it_said(
    args: Any, tmp_path: Path
) -> None:
    result = run_part(Entry(name="slow", part="made_up.slow", limit_s=60), 4.0, args, tmp_path)
    assert result["status"] == "ended by its limit"
    assert result["mfu"] == 0.5
    left = [process for process in psutil.process_iter(["pid", "status"]) if process.pid == result["child"]]
    assert all(process.info["status"] == psutil.STATUS_ZOMBIE for process in left)


def test_a_part_that_fails_says_why_and_keeps_what_it_said(args: Any, tmp_path: Path) -> None:
    result = run_part(Entry(name="broken", part="made_up.broken", limit_s=60), 60, args, tmp_path)
    assert (result["status"], result["mfu"]) == ("failed, exit 1", 0.25)
    assert result["error"] == "RuntimeError: no such kernel"
    assert "no such kernel" in (tmp_path / "log.txt").read_text()


def test_a_wrong_answer_is_no_measurement(args: Any, tmp_path: Path) -> None:
    result = run_part(Entry(name="wrong", part="made_up.wrong", limit_s=60), 60, args, tmp_path)
    assert (result["status"], result["loss_error"]) == ("wrong", "nan")
    assert finite({"a": [1.0, float("inf")]}) == {"a": [1.0, "inf"]}


def test_the_budget_is_kept_and_what_is_left_out_is_named() -> None:
    clock_s, limits, kept = [0.0], [], {}

    def run(entry: Entry, limit_s: float) -> dict[str, Any]:
        limits.append(limit_s)
        clock_s[0] += limit_s
        return {"status": "measured"}

    entries = [Entry(name=name, part="", limit_s=100) for name in "abcd"]
    run_all(entries, run, kept.__setitem__, end=250, clock=lambda: clock_s[0])
    assert limits == [100, 100, 50]
    assert kept["d"] == {"status": "left out", "reason": "0 s of the budget were left"}


def test_what_was_compiled_comes_back_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PIECE_BYTES", 300)
    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "out"
    (before / "inductor" / "ab").mkdir(parents=True)
    (before / "inductor" / "ab" / "code.py").write_bytes(os.urandom(700))
    (before / "patron").mkdir()
    out.mkdir()
    assert "pieces" in pack(before, out)
    pieces = sorted(out.glob("caches.tar.gz.*"))
    assert len(pieces) in (3, 4)
    warm(list(reversed(pieces)), after)
    assert (after / "inductor/ab/code.py").read_bytes() == (before / "inductor/ab/code.py").read_bytes()
    assert [path.name for path in after.iterdir()] == ["inductor"]


def kernel(name: str, ts: float, dur: float, correlation: int) -> dict[str, Any]:
    return {"cat": "kernel", "name": name, "ts": ts, "dur": dur, "args": {"correlation": correlation}}


def launch(ts: float, correlation: int) -> dict[str, Any]:
    return {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": ts, "dur": 1, "args": {"correlation": correlation}}


def test_a_steps_time_is_told_apart_by_kernels_names_and_by_who_launched_them() -> None:
    events = [
        {"cat": "cpu_op", "name": HEAD, "ts": 100, "dur": 50},
        {"cat": "user_annotation", "name": OPTIMIZER, "ts": 200, "dur": 50},
        {"cat": "gpu_user_annotation", "name": OPTIMIZER, "ts": 9000},
        launch(10, 1), kernel("nvjet_tst_128x256", 1000, 400, 1),
        launch(20, 2), kernel("triton_tem_fused_flex_attention_backward", 1400, 100, 2),
        launch(30, 3), kernel("triton_poi_fused_mul_relu", 1500, 50, 3),
        launch(110, 4), kernel("sm90_xmma_gemm_bf16", 1600, 200, 4),
        launch(120, 5), kernel("triton_red_fused_add_sum", 1800, 30, 5),
        launch(130, 6), kernel("_softcap_cross_entropy", 1830, 70, 6),
        launch(210, 7), kernel("nvjet_tst_64x64", 1900, 100, 7),
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 1850, "dur": 100, "args": {"correlation": 8}},
    ]  # fmt: skip
    found = kernel_kinds(events)
    microseconds = {kind: round(seconds * 1e6) for kind, seconds in found["seconds"].items()}
    assert microseconds == {
        "products": 400, "attention": 100, "elementwise": 50, "head products": 200, "head": 100, "optimizer": 100,
        "copies": 100, "idle": 50,
    }  # fmt: skip
    assert found["step_s"] == pytest.approx(1000e-6)
    assert found["longest"][0] == {"name": "nvjet_tst_128x256", "seconds": pytest.approx(400e-6)}


def test_overlapping_kernels_count_once_for_being_busy() -> None:
    assert busy_s([(0, 10), (5, 8), (9, 20), (30, 40)]) == pytest.approx(30e-6)
    assert busy_s([]) == 0
