"""How busy the machine is: its processors, memory and GPUs, looked at by a thread beside the training.

What it saw goes into the record with a step (`Pace`), never by itself: a training that hangs must fall silent.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

FIRST_S, EVERY_S = 1.0, 10.0
TIMEOUT_S = 5.0  # of nvidia-smi
_PROC = Path("/proc")
_QUERY = "utilization.gpu,memory.used,power.draw,temperature.gpu"


class SystemSampler:
    """Looks from its making on until the process ends. `take` never waits."""

    def __init__(self, *, with_gpus: bool, first_s: float = FIRST_S, every_s: float = EVERY_S):
        self._with_gpus, self._first_s, self._every_s = with_gpus, first_s, every_s
        self._sample: dict[str, float] = {}
        self._cpu = cpu_times()
        self._lock = threading.Lock()
        threading.Thread(target=self._look, name="system", daemon=True).start()

    def take(self) -> dict[str, float]:
        """What was seen since it was last asked; empty where nothing was."""
        with self._lock:
            sample, self._sample = self._sample, {}
            return sample

    def _look(self) -> None:
        wait, wait_s = threading.Event(), self._first_s
        while True:
            wait.wait(wait_s)
            wait_s = self._every_s
            sample = self._cpu_share() | memory()
            if self._with_gpus:
                sample |= gpus()
            with self._lock:
                self._sample = sample

    def _cpu_share(self) -> dict[str, float]:
        before, self._cpu = self._cpu, cpu_times()
        if before is None or self._cpu is None or self._cpu[1] <= before[1]:
            return {}
        return {"system/cpu_utilization": (self._cpu[0] - before[0]) / (self._cpu[1] - before[1])}


def cpu_times() -> tuple[float, float] | None:
    """(busy, all) ticks of all processors of the machine since it started. None where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        ticks = [float(word) for word in (_PROC / "stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for disks
    return None


def memory() -> dict[str, float]:
    """RAM of the machine that is in use, by all its processes."""
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split(":") for line in (_PROC / "meminfo").read_text().splitlines())
        found = {name: 1024.0 * float(rest.split()[0]) for name, rest in lines}
        return {"system/memory_bytes": found["MemTotal"] - found["MemAvailable"]}
    return {}


def gpus() -> dict[str, float]:
    """Of the GPUs that this process may use: mean utilization, memory and power of all, the highest temperature."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    try:
        said = subprocess.run(
            [*command, *(["-i", visible] if visible else [])],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parsed_gpus(said.stdout)


def parsed_gpus(said: str) -> dict[str, float]:
    """Lines of utilization in percent, MiB, watts and degrees; a GPU that does not tell one says [N/A]."""
    columns: list[list[float]] = [[], [], [], []]
    for line in said.splitlines():
        for column, word in zip(columns, line.split(","), strict=False):
            with suppress(ValueError):
                column.append(float(word))
    utilization, used_mib, power_w, temperature_c = columns
    sample: dict[str, float] = {}
    if utilization:
        sample["system/gpu_utilization"] = sum(utilization) / len(utilization) / 100
    if used_mib:
        sample["system/gpu_memory_bytes"] = sum(used_mib) * 2**20
    if power_w:
        sample["system/gpu_power_w"] = sum(power_w)
    if temperature_c:
        sample["system/gpu_temperature_c"] = max(temperature_c)
    return sample
