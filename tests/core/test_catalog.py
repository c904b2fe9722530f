"""The real SkyPilot on catalogs of our own: prices by zone, lies left out, an age, and never a hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from skyserver import write_catalog

from patron_core.errors import InvalidInput, Unavailable
from patron_core.executors.base import Job
from patron_core.executors.sky_task import make_task
from patron_core.machines import catalog
from patron_core.market.accelerators import ACCELERATORS, names_of
from patron_core.market.offers import catalog_market, fallback_market
from patron_core.ui import price_view
from trainer.contract.devices import DEVICES

GPU = "\"{{'Gpus': [{{'Name': '{name}', 'MemoryInfo': {{'SizeInMiB': {mib}}}}}]}}\""
HEAD = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice"
A100, A100_80 = GPU.format(name="A100", mib=40960), GPU.format(name="A100-80GB", mib=81920)
H100, LITTLE = GPU.format(name="H100", mib=81920), GPU.format(name="H100", mib=16384)
GCP = f"""{HEAD}
a2-highgpu-1g,12,85,,,,us-central1,us-central1-a,0.74,0.15
a2-highgpu-1g,12,85,,,,us-central1,us-central1-b,0.74,0.15
a2-highgpu-1g,12,85,,,,europe-west4,europe-west4-a,0.81,0.16
a2-ultragpu-1g,12,170,,,,us-central1,us-central1-a,1.10,0.22
a3-highgpu-1g,26,234,,,,us-central1,us-central1-a,1.00,0.60
a3-highgpu-1g,26,234,,,,us-west1,us-west1-a,1.00,0.60
,,,A100,1,{A100},us-central1,us-central1-a,2.93,0.88
,,,A100,1,{A100},us-central1,us-central1-b,2.93,
,,,A100,1,{A100},europe-west4,europe-west4-a,3.22,0.97
,,,A100-80GB,1,{A100_80},us-central1,us-central1-a,3.93,1.57
,,,H100,1,{H100},us-central1,us-central1-a,10.06,2.50
,,,H100,1,{H100},us-west1,us-west1-a,0.0,0.01
"""
AWS = f"""{HEAD}
p5.48xlarge,192,2048,H100,8,{H100},us-east-1,use1-az1,98.32,0.01
p5.48xlarge,192,2048,H100,8,{H100},us-east-1,use1-az2,98.32,31.5
p5.4xlarge,16,256,H100,1,{H100},us-east-1,use1-az1,0.0,4.2
odd.xlarge,16,256,H100,1,{LITTLE},us-east-1,use1-az1,6.0,2.2
"""


@pytest.fixture
def catalogs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CSVs without a checksum: SkyPilot takes them for the user's own and downloads nothing."""
    folder = tmp_path / "runtime" / ".sky" / "catalogs" / "v8"
    for name, text in (
        ("gcp/vms.csv", GCP),
        ("aws/vms.csv", AWS),
        ("common/accelerators.csv", "AcceleratorName,Clouds\nA100,GCP\nA100-80GB,GCP\nH100,AWS\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_790_000_000, 1_790_000_000))  # 2026-09-21
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return folder


# ---- names


def test_every_device_has_its_exact_name_and_no_name_stands_for_two() -> None:
    assert names_of("A100-40GB") == ("A100",)  # not the 80 GB card
    assert names_of("A100-80GB")[0] == "A100-80GB"
    assert len({one.name for one in ACCELERATORS}) == len(ACCELERATORS)
    for device in DEVICES.values():
        assert names_of(device.name)[0] == device.accelerator
        gib = next(one.memory_gib for one in ACCELERATORS if one.device == device.name)
        assert device.memory_bytes / 2**30 == pytest.approx(gib, rel=0.1)


# ---- the market


def row(**changes):
    given = {
        "instance_type": "x1",
        "accelerator": "H100",
        "count": 1.0,
        "device_memory_gib": None,
        "region": "r",
        "zone": None,
        "price": 6.0,
        "spot_price": 2.0,
    }
    return given | changes


def market(*rows, cloud="aws"):
    return catalog_market([{"cloud": cloud, "rows": rows}], as_of={cloud: "2026-09-21T14:13Z"})


def test_a_lying_row_hides_no_good_one() -> None:
    found = market(
        row(), row(region="zero", price=0.0), row(region="tiny", spot_price=0.01), row(region="mad", price=1e4)
    )
    assert [(p.region, p.spot) for p in found.prices] == [
        ("mad", True),
        ("r", True),
        ("zero", True),
        ("r", False),
        ("tiny", False),
    ]
    assert len(found.left_out) == 3
    assert all(one.why and "H100" in one.what for one in found.left_out)


@pytest.mark.parametrize("gpu", [0.0, 0.01])
def test_a_gpu_at_nothing_does_not_hide_behind_its_hosts_price(gpu: float) -> None:
    """GCP lists them apart: an H100 at nothing and its host made $0.61 an hour, which a spot market might ask."""
    found = market(row(price=1.0 + gpu, gpu_price=gpu, spot_price=0.6 + gpu, gpu_spot_price=gpu), cloud="gcp")
    assert not found.prices
    assert ["the GPU alone" in one.why for one in found.left_out] == [True, True]
    found = market(row(price=11.06, gpu_price=10.06, spot_price=3.1, gpu_spot_price=2.5), cloud="gcp")
    assert [p.usd_micros_per_hour for p in found.prices] == [3_100_000, 11_060_000]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"accelerator": "V100"}, "no device of ours"),
        ({"count": 0.5}, "not a whole GPU"),
        ({"device_memory_gib": 16.0}, "16 GiB"),
        ({"instance_type": "gpu_1x_h100_pcie"}, "PCIe"),
    ],
)
def test_what_is_no_device_of_ours_is_left_out_with_its_reason(changes, why) -> None:
    found = market(row(**changes))
    assert not found.prices
    assert why in found.left_out[0].why


def test_the_same_name_may_be_another_card_elsewhere() -> None:
    assert not market(row(), cloud="runpod").prices
    assert market(row(accelerator="H100-SXM"), cloud="runpod").prices
    assert not market(row(), cloud="vast").prices
    for cloud in ("runpod", "fluidstack", "vast"):
        assert not market(row(accelerator="A100-80GB"), cloud=cloud).prices
    assert market(row(accelerator="A100-80GB-SXM"), cloud="runpod").prices
    a100 = {"accelerator": "A100", "device_memory_gib": 40.0}
    assert not market(row(**a100, instance_type="gpu_1x_a100"), cloud="lambda").prices
    assert market(row(**a100, instance_type="gpu_1x_a100_sxm4"), cloud="lambda").prices
    assert market(row(**a100, count=8, price=16.0, spot_price=None, instance_type="gpu_8x_a100"), cloud="lambda").prices
    for machine, is_sxm in (("Standard_NC24ads_A100_v4", False), ("Standard_ND96amsr_A100_v4", True)):
        found = market(row(accelerator="A100-80GB", instance_type=machine, device_memory_gib=None), cloud="azure")
        assert bool(found.prices) == is_sxm
    nvl, sxm = "Standard_NC40ads_H100_v5", "Standard_ND96isr_H100_v5"
    assert not market(row(instance_type=nvl, device_memory_gib=None), cloud="azure").prices
    assert market(row(instance_type=sxm, device_memory_gib=None), cloud="azure").prices


def test_no_spot_is_no_fault_and_machines_are_compared_by_the_gpu() -> None:
    found = market(row(spot_price=None), row(count=8.0, price=40.0, spot_price=16.0))
    assert not found.left_out
    assert [(p.num_gpus, p.spot, p.usd_micros_per_gpu_hour) for p in found.prices] == [
        (8, True, 2_000_000),
        (8, False, 5_000_000),
        (1, False, 6_000_000),
    ]
    assert found.prices[0].machine == "8x H100"
    assert "8x H100 spot in aws/r at $16.00 an hour" in found.prices[0].sentence()


def test_a_missing_on_demand_price_is_left_out_and_said() -> None:
    found = market(row(price=None))
    assert [p.kind for p in found.prices] == ["spot"]
    assert "no price" in found.left_out[0].why


def test_the_fallback_says_that_it_is_one() -> None:
    found = fallback_market(["H100", "L4"])
    assert {p.is_fallback for p in found.prices} == {True}
    assert "dated table" in found.problems[0]
    assert found.source == "fallback table"


def test_the_market_becomes_a_frame_and_a_chart_that_is_drawn_of_whatever_there_is() -> None:
    places = [row(region=f"r{i}", price=6.0 + i / 100, spot_price=2.0 + i / 100) for i in range(40)]
    found = market(*places, row(region=None, spot_price=None, zone=None))
    frame = price_view.price_frame(found)
    assert frame.height == len(found.prices) == 81
    assert frame["usd_per_gpu_hour"].is_sorted()
    for one in (found, market(), fallback_market(["H100"])):
        spec = json.loads(price_view.price_chart(one).to_json())
        drawn = max(spec.get("datasets", {"": []}).values(), key=len)
        assert len({point["place"] for point in drawn}) <= price_view.MAX_PLACES
        assert price_view.source_line(one)
    assert "30 cheapest of 41" in json.dumps(json.loads(price_view.price_chart(found).to_json())["title"])


# ---- reading


def test_prices_come_by_cloud_region_and_zone_from_the_real_catalog(catalogs: Path) -> None:
    found = catalog.read_market(["A100-40GB", "A100-80GB", "H100"], clouds=["gcp", "aws"])
    assert not found.problems
    assert found.as_of == {"gcp": "2026-09-21T14:13Z", "aws": "2026-09-21T14:13Z"}
    got = {(p.device, p.num_gpus, p.infra, p.spot): p.usd_micros_per_hour for p in found.prices}
    assert got == {
        ("A100-40GB", 1, "gcp/us-central1/us-central1-a", False): 3_670_000,  # host and GPU together
        ("A100-40GB", 1, "gcp/us-central1/us-central1-a", True): 1_030_000,
        ("A100-40GB", 1, "gcp/us-central1/us-central1-b", False): 3_670_000,  # no spot price there, and none invented
        ("A100-40GB", 1, "gcp/europe-west4/europe-west4-a", False): 4_030_000,
        ("A100-40GB", 1, "gcp/europe-west4/europe-west4-a", True): 1_130_000,
        ("A100-80GB", 1, "gcp/us-central1/us-central1-a", False): 5_030_000,
        ("A100-80GB", 1, "gcp/us-central1/us-central1-a", True): 1_790_000,
        ("H100", 1, "gcp/us-central1/us-central1-a", False): 11_060_000,
        ("H100", 1, "gcp/us-central1/us-central1-a", True): 3_100_000,
        ("H100", 8, "aws/us-east-1/use1-az1", False): 98_320_000,
        ("H100", 8, "aws/us-east-1/use1-az2", False): 98_320_000,
        ("H100", 8, "aws/us-east-1/use1-az2", True): 31_500_000,
        ("H100", 1, "aws/us-east-1/use1-az1", True): 4_200_000,
    }
    assert {(one.what.split(" in ")[0], one.why.split(" at ")[0]) for one in found.left_out} == {
        ("8x H100 (p5.48xlarge)", "skypilot catalog gives 8x H100"),
        ("1x H100 (p5.4xlarge)", "skypilot catalog gives H100"),
        ("1x H100 (a3-highgpu-1g)", "the GPU alone in gcp/us-west1/us-west1-a gives H100"),
        ("1x H100 (odd.xlarge)", "the catalog gives it 16 GiB, and H100 has 80"),
    }
    json.dumps(found.to_dict())
    # from now on the cache answers, until it is too old or the folder is another one
    (catalogs / "gcp" / "vms.csv").write_text(GCP.replace("2.93", "2.50"))
    again = catalog.read_market(["A100-40GB", "A100-80GB", "H100"], clouds=["gcp", "aws"])
    assert again.prices == found.prices
    # then it is read again: a cloud whose catalog is broken is named, and what was kept stands in for it. SkyPilot
    # touches the CSV when a download fails; the checksum beside it keeps the time of the last success
    (catalogs / "aws" / "vms.csv").write_text("not,a,catalog\n1,2,3\n")
    checksum = catalogs / ".meta" / "gcp" / "vms.csv.md5"
    checksum.parent.mkdir(parents=True, exist_ok=True)
    checksum.write_text("of another file, so nothing is fetched")
    os.utime(checksum, (1_780_000_000, 1_780_000_000))
    fresh = catalog.read_market(["A100-40GB", "A100-80GB", "H100"], clouds=["gcp", "aws"], max_age_s=0)
    assert min(p.usd_micros_per_hour for p in fresh.of_device("A100-40GB") if not p.spot) == 3_240_000
    assert fresh.as_of == {"gcp": "2026-05-28T20:26Z", "aws": "2026-09-21T14:13Z"}
    assert [problem.split(":")[0] for problem in fresh.problems] == ["aws", "aws"]
    assert fresh.problems[1] == "aws: the prices of 2026-09-21T14:13Z stand in"
    assert [p for p in fresh.prices if p.cloud == "aws"] == [p for p in found.prices if p.cloud == "aws"]


@pytest.fixture
def reader(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a reading process of the test's own in the place of the real one."""

    def put(code: str) -> None:
        package = tmp_path / "fake" / "patron_core" / "executors" / "sky_worker"
        package.mkdir(parents=True, exist_ok=True)
        for folder in (package.parent.parent, package.parent, package):
            (folder / "__init__.py").write_text("")
        (package / "catalog.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    return put


ANSWER = {"cloud": "aws", "fetched_at": 1_790_000_000, "rows": [row()]}
HANGS = f"""
import json, subprocess, sys, time
print({json.dumps(json.dumps(ANSWER))}, flush=True)
print('{{"cloud": "gcp", "ro', end="", flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open("child.pid", "w"), flush=True)
time.sleep(600)
"""


def test_a_catalog_that_hangs_is_ended_with_its_children_and_what_it_said_counts(reader, tmp_path: Path) -> None:
    reader(HANGS)
    found = catalog.read_market(["H100"], clouds=["aws", "gcp"], timeout_s=8.0)
    assert {p.cloud for p in found.prices} == {"aws"}
    assert found.problems == ("gcp: no answer within 8 s",)
    pid = int((tmp_path / "child.pid").read_text())
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_kept_prices_stand_in_and_say_so(reader) -> None:
    reader(f"print({json.dumps(json.dumps(ANSWER))})")
    first = catalog.read_market(["H100"], clouds=["aws"], now=1_790_000_100)
    reader("raise SystemExit('the catalog is on fire')")
    later = catalog.read_market(["H100"], clouds=["aws"], now=1_790_100_000)
    assert later.prices == first.prices
    assert "on fire" in later.problems[0]
    assert later.problems[1] == "aws: the prices of 2026-09-21T14:13Z stand in"


def test_no_price_at_all_is_unavailable_and_says_what_to_do(reader) -> None:
    reader("import sys; print('nobody home', file=sys.stderr)")
    with pytest.raises(Unavailable, match="nobody home") as refused:
        catalog.read_market(["H100"], clouds=["aws"])
    assert "--fallback-prices" in refused.value.message + refused.value.next


def test_wrong_names_are_refused_before_anything_is_read(home: Path) -> None:
    with pytest.raises(InvalidInput, match="V100"):
        catalog.read_market(["V100"])
    with pytest.raises(InvalidInput, match="moon"):
        catalog.read_market(["H100"], clouds=["moon"])
    with pytest.raises(InvalidInput, match="at least one"):
        catalog.read_market([])


def test_reading_prices_never_imports_sky_here() -> None:
    code = "import sys, patron_core.machines.catalog; print('sky' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- the optimizer


def sky_says(code: str, *arguments: str) -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: list[dict[str, object]] = json.loads(done.stdout.rpartition("ANSWER ")[2])
    return answer


_FEASIBLE = """
import json, sys
import sky
from sky import check, optimizer, sky_logging
from sky.utils.registry import CLOUD_REGISTRY
names = ("gcp", "aws", "lambda", "runpod")
check.get_cached_enabled_clouds_or_refresh = lambda *a, **k: [CLOUD_REGISTRY.from_str(name) for name in names]
answers = []
for asked in json.loads(sys.argv[1]):
    task = sky.Task.from_yaml_config({"run": "true", "resources": asked})
    with sky_logging.silent():
        launchable = optimizer._fill_in_launchable_resources(task, None, quiet=True)[0]
    answers.append([
        {"infra": "/".join(filter(None, (str(one.cloud).lower(), one.region, one.zone))),
         "instance_type": one.instance_type, "accelerators": dict(one.accelerators or {}), "spot": one.use_spot,
         "usd": one.get_cost(3600)}
        for each in launchable.values() for one in each
    ])
print("ANSWER", json.dumps(answers))
"""


def test_skypilots_own_list_of_feasible_machines_holds_every_row_that_can_be_planned(
    catalogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked by the row's accelerator and instance type it is that row, at that price. By the device's plain name it is
    Lambda's PCIe card, and at RunPod another card too."""
    write_catalog(tmp_path / "runtime")
    monkeypatch.setattr(catalog, "enabled_clouds", lambda: list(catalog.CLOUDS))
    read = catalog.read_market(["A100-40GB", "H100"])
    rows = [price for price in read.prices if price.num_gpus == 1]
    assert {price.cloud for price in rows} == set(catalog.CLOUDS)
    asked = []
    for price in rows:
        place = {"infra": price.infra, "accelerator": price.accelerator, "instance_type": price.instance_type}
        machine = {"accelerator": names_of(price.device)[0], "spot": price.spot, "places": [place]}
        job = Job(key="r1-train-1", command=("true",), run_dir="s3://b/r1", deadline_s=9, grace_s=9, machine=machine)
        monkeypatch.setenv("PATRON_SKY_PYTHON", sys.executable)
        asked.append(make_task(job)["resources"])
    plain = [{"infra": "lambda", "accelerators": "H100:1"}, {"infra": "runpod", "accelerators": "H100:1"}]
    *feasible, on_lambda, on_runpod = sky_says(_FEASIBLE, json.dumps([*asked, *plain]))
    for price, found in zip(rows, feasible, strict=True):
        assert found == [
            {
                "infra": price.infra,
                "instance_type": price.instance_type,
                "accelerators": {price.accelerator: 1},
                "spot": price.spot,
                "usd": pytest.approx(price.usd_micros_per_hour / 1e6),
            }
        ]
    assert [one["instance_type"] for one in on_lambda][:1] == ["gpu_1x_h100_pcie"]
    assert [one["instance_type"] for one in on_runpod] == ["1x_H100_SECURE"]
