"""The task files of skypilot/: what SkyPilot itself says of them, on a catalog of ours, without any cloud."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from patron_core.executors.records import Records
from trainer.contract.exits import EXIT_KILLED, EXIT_RESUME, EXIT_SIGKILL, EXIT_STOPPED
from trainer.contract.grace import STOP_WITHIN_S
from trainer.contract.ranks import WorldSize

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "skypilot").glob("*.yaml"))
PINS = ROOT / "skypilot" / "requirements.txt"
RECOVERY_KEYS = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}

# SkyPilot keeps what it knows in HOME, so that it is asked in a process of its own with a home of its own
_OPTIMIZE = """
import copy, json, sys, yaml
import sky
from sky import check, global_user_state, sky_logging
from sky.clouds.cloud import CloudCapability
for capability in CloudCapability:
    global_user_state.set_enabled_clouds(["GCP", "AWS", "Lambda"], capability, "default")
global_user_state.set_allowed_clouds(check._get_workspace_allowed_clouds("default"), "default")
answers = {}
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    config["envs"]["PATRON_RUN_DIR"] = "/runs/x"
    task = sky.Task.from_yaml_config(copy.deepcopy(config))
    dag = sky.Dag()
    dag.add(task)
    with sky_logging.silent():
        sky.Optimizer.optimize(dag, quiet=True)
    best = task.best_resources
    answers[path] = {
        "cloud": str(best.cloud), "region": best.region, "spot": best.use_spot, "recovery": best.job_recovery,
        "access": task.api_server_access, "candidates": len(task.resources), "workdir": task.workdir,
    }
print("ANSWER", json.dumps(answers))
"""


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def write_catalog(home: Path, *, cheap_region: str) -> None:
    """Every place that the files name, at one price; a fifth of it in `cheap_region`."""
    folder = home / ".sky" / "catalogs" / "v8"
    places = {str(place["infra"]) for path in FILES for place in load(path)["resources"]["any_of"]}
    gcp = [
        "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice"
    ]
    aws = [
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch"
    ]
    for place in sorted(places):
        cloud, _, region = place.partition("/")
        spot = 0.4 if region == cheap_region else 2.0
        if cloud == "gcp":
            for count in (1, 8):
                gcp.append(f"a2-highgpu-{count}g,{12 * count},{85 * count},,,,{region},{region}-b,0.7,0.2")
                gcp.append(f',,,A100,{count},"{{}}",{region},{region}-b,{2.9 * count},{spot * count}')
        elif cloud == "aws":
            aws.append(f'p5.4xlarge,H100,1.0,16.0,256.0,"{{}}",4.3,{spot},{region},{region}a,x86_64')
            aws.append(f'p4d.24xlarge,A100,8.0,96.0,1152.0,"{{}}",30.0,{8 * spot},{region},{region}a,x86_64')
    lambda_rows = [
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone",
        'gpu_1x_a100,A100,1.0,30.0,200.0,"{}",3.29,,us-east-1,',
    ]
    accelerators = ["AcceleratorName,Clouds", 'A100,"GCP,AWS,Lambda"', 'H100,"GCP,AWS,Lambda"']
    rows = {"common/accelerators": accelerators, "gcp/vms": gcp, "aws/vms": aws, "lambda/vms": lambda_rows}
    for name, lines in rows.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def test_there_is_a_file_for_each_kind_of_job() -> None:
    assert [path.name for path in FILES] == ["dryrun.yaml", "train-multi.yaml", "train.yaml"]


def test_skypilot_takes_every_file_and_its_optimizer_finds_the_cheapest_place(tmp_path: Path) -> None:
    write_catalog(tmp_path, cheap_region="europe-west4")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYPILOT_")}
    environ |= {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _OPTIMIZE, *map(str, FILES)],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.rpartition("ANSWER ")[2])
    for path in FILES:
        answer = answers[str(path)]
        assert (answer["cloud"], answer["region"], answer["spot"]) == ("GCP", "europe-west4", True), path
        assert answer["access"] is False, path
        assert answer["candidates"] == len(load(path)["resources"]["any_of"]), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recovery_is_spelled_right_and_only_for_what_may_start_again(path: Path) -> None:
    recovery = load(path)["resources"]["job_recovery"]
    assert set(recovery) <= RECOVERY_KEYS  # SkyPilot's client lets a typo pass
    assert recovery.get("recover_on_exit_codes", []) == ([] if path.stem == "dryrun" else [EXIT_RESUME])
    assert not {EXIT_STOPPED, EXIT_KILLED, EXIT_SIGKILL} & set(recovery.get("recover_on_exit_codes", []))
    assert "max_restarts_on_errors" not in recovery


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shell_ends_with_the_guard_and_setup_hides_no_failure(path: Path) -> None:
    config = load(path)
    assert "|| true" not in config["setup"]
    assert config["setup"].startswith("set -eu")
    assert "exec " in config["run"].strip().splitlines()[-2]  # a signal reaches the guard, and its code is the job's
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", config[name]], check=True)


def pins_of(path: Path) -> dict[str, set[str]]:
    """Package -> the versions that are pinned, one for each set of markers."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.+]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_setup_installs_pinned_packages_by_their_hashes_and_nothing_else(path: Path) -> None:
    installs = [line for line in load(path)["setup"].replace("\\\n", "").splitlines() if " pip install " in line]
    packages, ours = installs
    assert packages.endswith(" --require-hashes -r skypilot/requirements.txt")
    assert "--no-deps --no-build-isolation" in ours  # what builds it is pinned too
    assert ours.endswith("--reinstall-package patron .")


def test_every_pin_has_its_hashes_and_no_file_of_pins_names_an_index() -> None:
    machines, tests = pins_of(PINS), pins_of(ROOT / ".ci" / "constraints.txt")
    assert all(versions <= tests[name] for name, versions in machines.items() if name in tests)  # as they were tested
    blocks = re.split(r"\n(?=\S)", PINS.read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert len(blocks) == sum(map(len, machines.values())) > 40
    assert machines["torch"] == {"2.13.0"}  # the index's own build, which is CUDA's on Linux
    for path in (PINS, ROOT / ".ci" / "constraints.txt"):
        assert not re.search(r"://|--index|--find-links|\+cpu|\.whl", path.read_text()), path


def test_what_the_trainer_and_the_guard_import_is_pinned() -> None:
    imported = set()
    for source in [*(ROOT / "trainer").rglob("*.py"), ROOT / "patron_core" / "executors" / "guard.py"]:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"trainer", "patron_core", "triton"}  # torch brings triton
    outside = {"pyyaml" if name == "yaml" else name for name in outside}  # the package that has it
    assert outside | {"hatchling"} <= set(pins_of(PINS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_time_to_stop_is_the_trainers_own_and_the_guard_adds_up_the_rest(path: Path) -> None:
    envs = load(path)["envs"]
    assert (float(envs["PATRON_STOP_WITHIN_S"]), envs["PATRON_GRACE_S"]) == (STOP_WITHIN_S, "")


def run_task(path: Path, tmp_path: Path, **envs: str) -> subprocess.CompletedProcess[str]:
    """Setup and run, as SkyPilot would, in bash."""
    config = load(path)
    environ = {**os.environ, **{k: v or "" for k, v in config["envs"].items()}, "PATRON_PYTHON": sys.executable, **envs}
    environ |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environ |= {"SKYPILOT_NODE_IPS": "127.0.0.1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}
    environ |= {"SKYPILOT_NUM_GPUS_PER_NODE": "2"} | {k: v for k, v in envs.items() if k.startswith("SKYPILOT")}
    script = f"({config['setup']}) && {{ {config['run']} }}"
    return subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=120)


def test_a_command_of_the_core_arrives_word_for_word(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    command = f"""python -c '{code}' 'a b' 'it'"'"'s' '$HOME' """
    done = run_task(FILES[-1], tmp_path, PATRON_RUN_DIR=str(tmp_path / "run"), PATRON_COMMAND=command)
    assert done.returncode == 0, done.stderr
    assert "['a b', \"it's\", '$HOME']" in done.stdout
    record = json.loads((tmp_path / "run" / "machines" / "train-1-1.json").read_text())
    assert (record["exit_code"], record["ended"]) == (0, True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_without_a_command_it_trains_what_the_spec_says(path: Path, tmp_path: Path) -> None:
    spec = tmp_path / "bad.json"
    spec.write_text('{"depth": 0}')
    done = run_task(path, tmp_path, PATRON_RUN_DIR=str(tmp_path / "it's $HOME"), PATRON_SPEC=str(spec))
    assert done.returncode == 78, done.stderr
    assert "depth: 0; allowed 1 to 64" in done.stdout


def test_every_node_has_a_guard_that_tells_torchrun_where_it_stands(tmp_path: Path) -> None:
    names = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_PORT")
    says = f"import os; print(*(os.environ['PET_' + name] for name in {names}))"
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2"}
    for node in ("0", "1"):
        done = run_task(
            ROOT / "skypilot" / "train-multi.yaml",
            tmp_path,
            PATRON_RUN_DIR=str(tmp_path / "run"),
            PATRON_COMMAND=shlex.join(["python", "-c", says]),
            SKYPILOT_NODE_RANK=node,
            **nodes,
        )
        assert done.returncode == 0, done.stderr
        port = WorldSize(nodes=2).rendezvous("train-1")["PET_MASTER_PORT"]
        assert f"2 2 {node} {port}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "run" / "machines").iterdir()) == [
        "train-1-1.json",  # what a machine costs is counted once, by the first
        "train-1-node1-1.json",
    ]
    assert len(Records(str(tmp_path / "run"), "train-1").starts()) == 1
