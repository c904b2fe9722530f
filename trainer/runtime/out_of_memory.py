"""Out of memory: of which kind, what it held, and the largest micro-batch that would have fitted.

Standard library at import; torch is there already when one of its allocations fails.
"""

from __future__ import annotations

import math
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.contract.devices import describe_cpu
from trainer.contract.exits import EXIT_OUT_OF_MEMORY, first_line
from trainer.contract.footprint import FRAGMENTATION, memory_parts

if TYPE_CHECKING:
    from trainer.contract.recipe import Recipe

SAVING_THREAD_BYTES = 32e6  # stack, arena and file buffers

_HOST_MESSAGES = (
    "DefaultCPUAllocator", "std::bad_alloc", "Cannot allocate memory", "unable to mmap",
    "could not create a primitive", "could not create a memory",  # oneDNN's words, in the middle of a training
)  # fmt: skip
_CUDA_REQUEST = re.compile(r"Tried to allocate ([\d.]+) ([KMG]?i?B|bytes)")
_HOST_REQUEST = re.compile(r"tried to allocate (\d+) bytes")
_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The micro-batch of a run, and the memory that was taken before its first one."""

    batch_size: int  # sequences
    rows: int  # sequences of a step on this device
    recipe: Recipe
    item_bytes: int  # of the compute dtype
    compiled: bool
    on_cuda: bool
    resting_bytes: int
    num_ranks: int = 1  # over which the optimizer's state is shared out

    def growing_bytes(self, batch_size: int) -> float:
        """What so many sequences should take, by the formula that runs are planned with."""
        parts = self._parts(batch_size)
        return parts["activations"] + parts["head"] + parts.get("scores", 0.0)

    def fixed_bytes(self) -> int:
        """Taken whatever the micro-batch: model and optimizer are there, gradients and casts come with the first.

        In main memory a save takes a copy of what it writes, and a thread.
        """
        parts = self._parts(1)
        saving = 0.0 if self.on_cuda else parts["weights"] + parts["optimizer"] + SAVING_THREAD_BYTES
        return self.resting_bytes + int(parts["gradients"] + parts["casts"] + saving)

    def _parts(self, batch_size: int) -> dict[str, float]:
        parts = memory_parts(
            self.recipe,
            micro_batch_size=batch_size,
            item_bytes=self.item_bytes,
            compiled=self.compiled,
            cpu=not self.on_cuda,
        )
        return parts | {"optimizer": parts["optimizer"] / self.num_ranks}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of one device when an allocation failed."""

    capacity_bytes: int  # what this process could have had
    in_use_bytes: int  # the most it held
    requested_bytes: int  # more, in vain


def kind_of(error: BaseException) -> str | None:
    """cuda_oom, host_oom, or None for an error of another kind."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return "cuda_oom"
    if isinstance(error, MemoryError):
        return "host_oom"
    told = isinstance(error, RuntimeError | OSError) and any(part in str(error) for part in _HOST_MESSAGES)
    return "host_oom" if told else None


def largest_batch_that_fits(
    *,
    batch_size: int,
    rows: int,
    capacity_bytes: float,
    fixed_bytes: float,
    needed_bytes: float,
    growing_bytes: Callable[[int], float],
) -> int | None:
    """The largest divisor of `rows` below the failing `batch_size` that fits; None when not even 1 does.

    `needed_bytes` is what the failing size held and asked for: at least what it needs, for it never got to its peak.
    Where that is more than fixed and growing bytes explain, the formula is scaled up to it.
    """
    correction = max(1.0, (needed_bytes - fixed_bytes) / growing_bytes(batch_size))
    usable_bytes = capacity_bytes * (1 - FRAGMENTATION)
    for size in _divisors_below(rows, batch_size):
        if fixed_bytes + correction * growing_bytes(size) <= usable_bytes:
            return size
    return None


def judge(error: BaseException, kind: str, micro: Micro | None) -> dict[str, Any]:
    """The part of result.json that says so. `micro` is None before there is a model."""
    usage = _cuda_usage(error) if kind == "cuda_oom" else _host_usage(error)
    verdict: dict[str, Any] = {
        "exit_code": EXIT_OUT_OF_MEMORY,
        "reason": kind,
        "memory": asdict(usage),
        "memory_summary": _cuda_summary() if kind == "cuda_oom" else _host_summary(usage),
    }
    where = "CUDA" if kind == "cuda_oom" else "main"
    message = f"out of {where} memory: {first_line(error)}"
    if micro is None or (kind == "cuda_oom") != micro.on_cuda:
        return verdict | {"message": f"{message}. Take a machine with more, or see what else uses it"}
    fitting = largest_batch_that_fits(
        batch_size=micro.batch_size,
        rows=micro.rows,
        capacity_bytes=usage.capacity_bytes,
        fixed_bytes=micro.fixed_bytes(),
        needed_bytes=usage.in_use_bytes + usage.requested_bytes,
        growing_bytes=micro.growing_bytes,
    )
    verdict["memory"] |= {
        "fixed_bytes": micro.fixed_bytes(),
        "device_batch_size": micro.batch_size,
        "fitting_device_batch_size": fitting,
    }
    return verdict | {"message": f"{message}. {_advice(micro, fitting)}"}


def _advice(micro: Micro, fitting: int | None) -> str:
    if fitting is None:
        return (
            f"Not even one sequence of {micro.recipe.sequence_len} tokens at a time would fit (device_batch_size was "
            f"{micro.batch_size}): take a smaller depth or sequence_len, or a device with more memory"
        )
    return (
        f"It would fit with device_batch_size {fitting} instead of {micro.batch_size}: start a new run with it. The "
        "batch stays the same, a step takes a little longer"
    )


def _divisors_below(number: int, limit: int) -> Iterator[int]:
    return (size for size in range(min(limit - 1, number), 0, -1) if number % size == 0)


def held_bytes(on_cuda: bool) -> int:
    """What this process holds now, of the memory that `judge` counts."""
    if on_cuda:
        return int(sys.modules["torch"].cuda.memory_allocated())
    return _process_bytes("VmSize" if _address_limit() is not None else "VmRSS")


def _cuda_usage(error: BaseException) -> Usage:
    cuda = sys.modules["torch"].cuda
    match = _CUDA_REQUEST.search(str(error))
    requested = float(match[1]) * _UNITS.get(match[2], 1) if match else 0.0
    free_bytes = cuda.mem_get_info()[0] if cuda.is_available() else 0
    return Usage(
        capacity_bytes=free_bytes + cuda.memory_reserved(),  # others' memory and the context are not to be had
        in_use_bytes=cuda.max_memory_allocated(),
        requested_bytes=math.ceil(requested),
    )


def _host_usage(error: BaseException) -> Usage:
    """By address space where that is limited, else by resident memory."""
    match = _HOST_REQUEST.search(str(error))
    limit = _address_limit()
    return Usage(
        capacity_bytes=describe_cpu()["memory_bytes"] if limit is None else limit,
        in_use_bytes=_process_bytes("VmHWM" if limit is None else "VmPeak"),
        requested_bytes=int(match[1]) if match else 0,
    )


def _address_limit() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _process_bytes(key: str) -> int:
    """Of Linux's /proc/self/status; elsewhere the resident peak."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cuda_summary() -> str:
    cuda = sys.modules["torch"].cuda
    return str(cuda.memory_summary(abbreviated=True)) if cuda.is_initialized() else ""


def _host_summary(usage: Usage) -> str:
    limited_by = "the machine" if _address_limit() is None else "RLIMIT_AS (ulimit -v)"
    lines = [f"{key:8} {_process_bytes(key):>18,} bytes" for key in ("VmPeak", "VmSize", "VmHWM", "VmRSS", "VmData")]
    lines.append(f"{'limit':8} {usage.capacity_bytes:>18,} bytes, of {limited_by}")
    return "\n".join(lines)
