"""The table of GPUs, and the measurement of this machine."""

import json
import subprocess
import sys
from contextlib import closing

import pytest

from patron_core import commands
from patron_core.machines.this_machine import this_device
from patron_core.store import Store
from trainer.contract.devices import (
    DEVICES,
    KNOWN_GPUS,
    cpu_device,
    describe_cpu,
    find_device,
    local_device,
    peak_flops,
)
from trainer.runtime.measure import measure_cpu_peak

PROFILE = {
    "cpu": {"model": "x", "cores": 4, "memory_bytes": 8 * 2**30, "f32_flops": 1e11, "bf16_flops": 3e11, "threads": 4},
    "cuda": [],
}


@pytest.mark.parametrize(
    ("torch_name", "device"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070-Ti-SUPER"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        # what SkyPilot and people say
        ("A100", "A100-40GB"),
        ("A100-80GB", "A100-80GB"),
        ("h100", "H100"),
    ],
)
def test_names_are_matched(torch_name, device):
    found = find_device(torch_name)
    assert (found.name if found else None) == device


def test_peaks_are_dense_bf16():
    assert peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "float32") == 19.5e12
    assert peak_flops("NVIDIA L40S", "bfloat16") == 362e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bfloat16") is None


def test_slower_cards_of_the_same_name_have_peaks_of_their_own():
    """MFU against another card's peak would be wrong by a quarter."""
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("NVIDIA H100 NVL", "bfloat16") == peak_flops("NVIDIA H200 NVL", "bfloat16") == 835e12
    assert peak_flops("NVIDIA H100 PCIe", "float32") == 51e12
    assert DEVICES["H100"].bf16_flops == 989e12


@pytest.mark.parametrize("name", KNOWN_GPUS)
def test_table_is_sane(name):
    device = find_device(name)
    depths = [depth for depth, _ in device.mfu]
    shares = [share for _, share in device.mfu]
    assert depths == sorted(set(depths))
    assert shares == sorted(shares)
    assert all(0 < share < 0.8 for share in shares)
    assert device.f32_flops < device.bf16_flops
    assert find_device(device.name) == device
    assert bool(device.accelerator) == (name in DEVICES)
    assert (device.mfu_spread >= 0.4) == (name not in DEVICES)  # what nobody trained on is told with a wide interval


def test_published_mfu_is_in_the_table():
    assert dict(DEVICES["H100"].mfu) | {8: 0.398, 18: 0.46, 24: 0.50} == dict(DEVICES["H100"].mfu)
    assert dict(DEVICES["A100-40GB"].mfu)[10] == 0.53


def test_cpu_from_a_profile_and_from_a_guess():
    measured, guessed = cpu_device(PROFILE), cpu_device()
    assert measured.measured
    assert not measured.native_bf16
    assert cpu_device({"cpu": PROFILE["cpu"] | {"native_bf16": True}, "cuda": []}).native_bf16
    assert measured.cores == 4
    assert not guessed.measured
    assert guessed.mfu_spread > measured.mfu_spread
    assert guessed.memory_bytes == describe_cpu()["memory_bytes"] > 2**28


def test_local_device_prefers_a_known_gpu():
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 1}
    assert local_device(PROFILE | {"cuda": [gpu]}).name == "H100"
    assert local_device(PROFILE | {"cuda": [{"name": "Unheard of"}]}).is_cpu
    assert local_device(None).is_cpu
    own = {"name": "Unheard of", "memory_bytes": 16 * 2**30, "bf16_flops": 9e13, "f32_flops": 2e13}
    assert (local_device(PROFILE | {"cuda": [own]}).name, local_device(PROFILE | {"cuda": [own]}).bf16_flops) == (
        "Unheard of",
        9e13,
    )


def test_table_needs_no_torch():
    code = "import sys, trainer.contract.devices; assert not {'torch', 'numpy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cpu_peak_is_measured():
    assert measure_cpu_peak("float32", budget_s=0.1) > 1e8


def devices_command(flag: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "trainer.runtime.measure", flag]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def test_this_machine_is_measured_and_estimated_by_that(home, capsys):
    """`patron measure`, which runs the trainer's own measurement in a process of its own."""
    assert commands.main(["measure", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    profile = answer["profile"]
    assert profile["cpu"]["f32_flops"] > 1e8
    assert profile["cpu"]["cores"] >= 1
    assert cpu_device(profile).measured
    assert answer["device"]["f32_flops"] == local_device(profile).f32_flops
    with closing(Store.open()) as store:
        assert this_device(store) == local_device(profile)


def test_command_prints_the_table():
    done = devices_command("--table")
    assert [row["name"] for row in json.loads(done.stdout)] == list(DEVICES)
