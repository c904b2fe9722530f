"""A real SkyPilot API server as people have it: no consolidation mode, GCP and AWS enabled, a catalog of our own.

What it cannot have here is a cloud: the calls by which it would make or start the machine of its jobs controller are
stubbed in the server (tests/stubs/patron_stub_backend.py). They note what they were asked for, and wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

STUBS = Path(__file__).parent / "stubs"
HEAD = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice"
GPU = "\"{{'Gpus': [{{'Name': '{name}', 'MemoryInfo': {{'SizeInMiB': {mib}}}}}]}}\""
H100, A100 = GPU.format(name="H100", mib=81920), GPU.format(name="A100", mib=40960)
CATALOG = {
    "gcp/vms": f"""{HEAD}
n2-standard-4,4,16,,,,us-central1,us-central1-a,0.19,0.05
a2-highgpu-1g,12,85,,,,us-central1,us-central1-a,0.74,0.15
a3-highgpu-1g,26,234,,,,us-central1,us-central1-a,1.00,0.60
,,,A100,1,{A100},us-central1,us-central1-a,2.93,0.88
,,,H100,1,{H100},us-central1,us-central1-a,10.06,2.50
""",
    "aws/vms": f"""{HEAD}
m6i.xlarge,4,16,,,,us-east-1,use1-az1,0.19,0.05
p5.4xlarge,16,256,H100,1,{H100},us-east-1,use1-az1,6.88,3.2
""",
    "lambda/vms": f"""{HEAD.replace("AvailabilityZone,", "")}
gpu_1x_h100_pcie,26,225,H100,1,{H100},us-east-1,2.49,
gpu_1x_h100_sxm5,26,225,H100,1,{H100},us-east-1,3.29,
""",
    "runpod/vms": f"""{HEAD}
1x_H100-SXM_SECURE,16,125,H100-SXM,1,{H100},US,US-KS-2,2.99,1.75
1x_H100_SECURE,16,125,H100,1,{H100},US,US-KS-2,2.39,1.35
""",
    "common/accelerators": 'AcceleratorName,Clouds\nA100,GCP\nH100,"GCP,AWS,Lambda,RunPod"\nH100-SXM,RunPod\n',
}
# a controller that was stopped
_STATE = """
import sky
from sky import global_user_state
from sky.backends import CloudVmRayResourceHandle
from sky.utils import common_utils, status_lib
name = "sky-jobs-controller-" + common_utils.get_user_hash()
handle = CloudVmRayResourceHandle(cluster_name=name, cluster_name_on_cloud=name, cluster_yaml=None, launched_nodes=1,
    launched_resources=sky.Resources(infra="lambda/us-east-1", instance_type="gpu_1x_h100_sxm5"))
global_user_state.add_or_update_cluster(name, handle, requested_resources=None, ready=True)
global_user_state.set_cluster_status(name, status_lib.ClusterStatus.STOPPED)
"""


def write_catalog(home: Path) -> None:
    """CSVs without a checksum: SkyPilot takes them for the user's own and downloads nothing."""
    for name, text in CATALOG.items():
        path = home / ".sky" / "catalogs" / "v8" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@dataclass
class SkyServer:
    home: Path
    port: int

    def environ(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port),
            "SKYPILOT_API_SERVER_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "PATRON_STUB": str(self.home / "stub"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def up(self) -> None:
        """About 8 s."""
        write_catalog(self.home)
        (self.home / "stub").mkdir()
        (self.home / ".sky" / "plugins.yaml").write_text("plugins:\n  - class: patron_stub_backend.StubPlugin\n")
        self._run(str(Path(sys.executable).parent / "sky"), "api", "start", PYTHONPATH=str(STUBS))

    def down(self) -> None:
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)

    def processes(self) -> list[psutil.Process]:
        """By their environment, and their children: SkyPilot's executors overwrite theirs with a title."""
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("PATRON_STUB") == str(self.home / "stub"):
                    found |= {process, *process.children(recursive=True)}
        return list(found)

    def have_a_stopped_controller(self) -> None:
        self._run(sys.executable, "-c", _STATE)

    def forget_the_controller(self) -> None:
        """As after `sky down`."""
        with sqlite3.connect(self.home / ".sky" / "state.db") as conn:
            conn.execute("DELETE FROM clusters")

    def asked(self) -> list[dict[str, str]]:
        """What the stubbed backend was asked to do, in order."""
        path = self.home / "stub" / "asked.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def let(self, what: str) -> None:
        """`fail`: what is asked of the backend fails, and what waits fails too."""
        (self.home / "stub" / what).touch()

    def _run(self, *command: str, **environ: str) -> None:
        done = subprocess.run(
            command, env={**os.environ, **self.environ(), **environ}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


def make_server(home: Path) -> SkyServer:
    with socket.create_server(("127.0.0.1", 0)) as found:
        server = SkyServer(home, int(found.getsockname()[1]))
    try:
        server.up()
    except BaseException:
        server.down()
        raise
    return server


def until(holds, what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.1)
